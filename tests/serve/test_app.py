"""The service as its clients see it: responses, errors, limits, the log."""

from __future__ import annotations

import base64
import io
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from serving import CLASSES, RunningService, bomb, draw_image, png

from fullconv.cli import main
from fullconv.segmenter import load
from synthetic.images import png as deep_png

IMAGE = png(draw_image())


@pytest.fixture(scope="module")
def written(model, images, tmp_path_factory) -> Path:
    """What `fullconv predict` writes for the images."""
    out = tmp_path_factory.mktemp("written")
    assert main(["predict", str(model), str(images), "-o", str(out), "--overlay", "--probabilities"]) == 0
    return out


def post(
    service: RunningService, body: bytes = IMAGE, accept: str = "*/*", path: str = "/v1/predict"
) -> httpx.Response:
    return service.client.post(path, content=body, headers={"Accept": accept})


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    content = answer.json()
    assert content["request_id"] == answer.headers["x-request-id"]
    return answer.status_code, content["error"]["code"], content["error"]["message"]


# --- responses ---------------------------------------------------------------------------------------------------------


def test_responses_have_the_bytes_of_predict(service, images, written):
    kinds = {".png": "image/png", ".overlay.png": "image/png; kind=overlay", ".npz": "application/x-npz"}
    for path in sorted(images.iterdir()):
        for ending, accept in kinds.items():
            answer = post(service, path.read_bytes(), accept)
            assert answer.status_code == 200, answer.text
            assert answer.content == (written / f"{path.stem}{ending}").read_bytes(), f"{path.name} as {accept}"
            assert answer.headers["content-type"] == accept.partition(";")[0]


def test_concurrent_requests_get_the_bytes_of_predict(service, images, written):
    paths = sorted(images.iterdir()) * 3
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda path: post(service, path.read_bytes()), paths)
        assert [answer.content for answer in answers] == [(written / f"{p.stem}.png").read_bytes() for p in paths]


def test_tiles_forms_and_model_names_do_not_change_the_result(service):
    whole = post(service).content
    assert post(service, path="/v1/predict?tile=32").content == whole
    assert post(service, path="/v1/predict?tile=none").content == whole
    assert post(service, path="/v1/predict/shapes").content == whole
    form = service.client.post("/v1/predict", files={"file": ("any name.jpg", IMAGE, "image/jpeg")}, data={"x": "y"})
    assert form.content == whole


def test_scale_sets_the_working_resolution_and_not_the_size_of_the_result(service, model):
    segmenter = load(model)
    segmenter.card = segmenter.card.model_copy(update={"scale": 0.5})
    expected = segmenter.predict(draw_image()).label_map
    answer = post(service, path="/v1/predict?scale=0.5")
    assert (np.asarray(Image.open(io.BytesIO(answer.content))) == expected).all()
    assert (expected != np.asarray(Image.open(io.BytesIO(post(service).content)))).any()


def test_json_agrees_with_the_png(service):
    label_map = np.asarray(Image.open(io.BytesIO(post(service).content)))
    path = "/v1/predict?include=rle&include=polygons&include=label_map&include=confidence&include=picture"
    text = post(service, accept="application/json", path=path).text
    content = json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
    assert content["size"] == {"width": 128, "height": 96}
    assert [row["name"] for row in content["classes"]] == CLASSES
    assert [row["pixels"] for row in content["classes"]] == np.bincount(label_map.reshape(-1), minlength=4).tolist()
    assert sum(row["share"] for row in content["classes"]) == pytest.approx(1)
    assert base64.b64decode(content["label_map"]) == post(service).content
    probabilities = np.load(io.BytesIO(post(service, accept="application/x-npz").content))["probabilities"]
    confidence = np.asarray(Image.open(io.BytesIO(base64.b64decode(content["confidence"]))))
    assert np.abs(confidence - 100 * probabilities.max(0)).max() <= 1.1
    assert Image.open(io.BytesIO(base64.b64decode(content["picture"]))).size == (128, 96)
    assert sum(sum(row["counts"][1::2]) for row in content["rle"]) == label_map.size
    assert {region["name"] for region in content["polygons"]} == {CLASSES[index] for index in np.unique(label_map)}


def test_warnings_are_in_json_and_in_a_header_of_every_response(service):
    deep = (np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 20)[..., None].repeat(3, 2)
    body = deep_png(deep, 2, 16)
    answer = post(service, body, "application/json")
    (warning,) = answer.json()["warnings"]
    assert warning["code"] == "value-range"
    assert "the model was trained on values from 0 to 255" in warning["message"]
    assert answer.headers["x-warnings"] == "value-range"
    assert post(service, body, "image/png").headers["x-warnings"] == "value-range"
    plain = post(service, IMAGE, "application/json")
    assert plain.json()["warnings"] == []
    assert "x-warnings" not in plain.headers


def test_the_models_are_described(service):
    content = service.client.get("/v1/models").json()
    (own,) = content["models"]
    assert (content["default"], own["name"], own["ready"]) == ("shapes", "shapes", True)
    assert [row["name"] for row in own["classes"]] == CLASSES
    assert content["limits"]["body_bytes"] == 64_000_000
    assert own["engines"] == [{"max_pixels": None, "engine": own["engine"], "precision": own["precision"]}]
    assert post(service).headers["x-engine"] == f"{own['engine']} {own['precision']}" == "torch fp32"


def test_probes_metrics_and_openapi_respond(service):
    assert service.client.get("/healthz").json() == {"status": "ok"}
    assert service.client.get("/readyz").json()["status"] == "ok"
    for path in ("/healthz", "/readyz"):  # as balancers ask
        head = service.client.head(path)
        assert (head.status_code, head.content) == (200, b"")
    before = service.metric("fullconv_pictures_total")
    post(service)
    assert service.metric("fullconv_pictures_total") == before + 1
    assert service.metric("fullconv_copies_ready") == 1
    paths = service.client.get("/openapi.json").json()["paths"]
    assert {"/v1/predict", "/v1/predict/{name}", "/v1/models", "/healthz", "/readyz", "/metrics"} == set(paths)


def test_the_page_loads_its_own_files_only(service):
    from html.parser import HTMLParser

    found: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list) -> None:
            assert not [name for name, _ in attrs if name.startswith("on") or name == "style"]
            found.extend(value for name, value in attrs if name in ("src", "href") and tag != "a")

    for path in ("/", "/docs"):
        answer = service.client.get(path)
        assert answer.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        Links().feed(answer.text)
    assert found
    for link in set(found):
        answer = service.client.get(link)
        assert link.startswith("/page/")
        assert answer.status_code == 200, link
        assert not {b"http://", b"https://"} & set(answer.content.split(b'"')), link
        again = service.client.get(link, headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/v1/predict", b"", (400, "empty", "has no image")),
        ("/v1/predict", b"hello", (415, "not-a-picture", "text file")),
        ("/v1/predict", IMAGE[:-800], (422, "truncated", "the image")),
        ("/v1/predict/shape", IMAGE, (404, "no-such-model", "Did you mean 'shapes'")),
        ("/v1/predict?tiel=3", IMAGE, (422, "unknown-parameter", "Did you mean 'tile'")),
        ("/v1/predict?tile=-3", IMAGE, (422, "bad-parameter", "tile")),
        ("/v1/predict?scale=nan", IMAGE, (422, "bad-parameter", "scale")),
        ("/v1/predict?head=x", IMAGE, (422, "no-such-head", "omit head")),
        ("/v1/predict?include=rle", IMAGE, (422, "include-without-json", "application/json")),
        ("/v2/predict", IMAGE, (404, "not-found", "/docs")),
        ("/healthz", IMAGE, (405, "wrong-method", "does not take POST")),
        ("/page/../worker.py", IMAGE, (404, "not-found", "")),
    ],
)
def test_invalid_requests_get_an_error_code_and_a_message(service, path, body, expected):
    status, code, message = error_of(post(service, body, path=path))
    assert (status, code) == expected[:2]
    assert expected[2] in message


FILE_PART = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n1\r\n'


def test_an_unknown_response_type_and_an_image_with_other_bands_are_refused(service):
    buffer = io.BytesIO()
    import tifffile

    tifffile.imwrite(buffer, np.zeros((8, 8, 5), np.uint8), photometric="minisblack", planarconfig="contig")
    assert error_of(post(service, accept="text/html"))[:2] == (406, "not-acceptable")
    status, code, message = error_of(post(service, buffer.getvalue()))
    assert (status, code) == (422, "cannot-predict")
    assert message.startswith("the image has 5 bands, the model expects 3")


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("multipart/form-data", b"x", "bad-form"),
        ("multipart/form-data; boundary=b", b"--b\r\n", "bad-form"),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--b--\r\n',
         "not-one-file"),
        ("multipart/form-data; boundary=b", FILE_PART * 2 + b"--b--\r\n", "not-one-file"),
    ],
)  # fmt: skip
def test_a_form_must_have_one_file(service, kind, body, code):
    answer = service.client.post("/v1/predict", content=body, headers={"Content-Type": kind})
    assert error_of(answer)[:2] == (400, code)


def test_images_of_one_pixel_and_of_one_row_are_predicted(service):
    for size in ((1, 1), (1, 30_000), (30_000, 1)):
        answer = post(service, png(np.full((*size, 3), 90, np.uint8)))
        assert Image.open(io.BytesIO(answer.content)).size == size[::-1]


def test_a_client_that_has_closed_its_side_gets_its_response(service):
    with socket.create_connection(("127.0.0.1", service.port), 20) as client:
        head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(IMAGE)}\r\n\r\n"
        client.sendall(head.encode() + IMAGE)
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(post(service).content)


def test_garbage_gets_400_and_the_next_request_its_response(service):
    for words in (
        b"\0\1\2\r\n\r\n",
        b"GET / HTTP/1.1 x\r\n\r\n",
        b"POST /v1/predict HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", service.port), 20) as client:
            client.sendall(words)
            assert client.recv(4096).startswith(b"HTTP/1.1 400")
    assert post(service).status_code == 200


HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer open-sesame\r\n"


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def token() -> dict[str, str]:
    return {"Authorization": "Bearer open-sesame"}


def test_large_bodies_are_refused_before_they_are_received(strict, token):
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", strict.port), 20) as client:
        client.sendall(HEAD + b"Content-Length: 1000000000\r\n\r\n")
        answer = b""
        while b"request_id" not in answer:
            answer += client.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"more than 1 MB" in answer
    assert time.monotonic() - start < 2

    def endless():
        for _ in range(40):
            yield bytes(2**16)

    answer = strict.client.post("/v1/predict", content=endless(), headers=token)  # chunked, so without a length
    assert error_of(answer)[:2] == (413, "body-too-large")


def test_too_many_pixels_are_refused_from_the_header(strict, token):
    for size, words in (((60_000, 60_000), "60000x60000 is 3,600,000,000 pixels"), ((150_000, 1), "150000x64")):
        status, code, message = error_of(strict.client.post("/v1/predict", content=bomb(*size), headers=token))
        assert (status, code) == (413, "too-many-pixels")
        assert words in message
    answer = strict.client.post("/v1/predict?scale=4", content=png(draw_image(size=(120, 160))), headers=token)
    assert error_of(answer)[:2] == (413, "too-many-pixels")


def test_a_slow_body_is_refused_in_time(strict):
    with socket.create_connection(("127.0.0.1", strict.port), 20) as client:
        client.sendall(HEAD + b"Content-Length: 1000\r\n\r\na")
        assert client.recv(65536).startswith(b"HTTP/1.1 408")


def test_a_full_queue_responds_with_retry_after(strict, token):
    with ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(lambda _: httpx.post(f"{strict.address}/v1/predict", content=IMAGE, headers=token), range(48))
        )
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert error_of(answer)[1] == "queue-full"
            assert int(answer.headers["retry-after"]) >= 1
    assert len({answer.content for answer in answers if answer.status_code == 200}) == 1


# --- the log ---------------------------------------------------------------------------------------------------------


def test_the_log_has_one_line_per_request_and_no_secrets(strict, token):
    files = {"file": ("private name.png", IMAGE, "image/png")}
    answer = strict.client.post("/v1/predict", files=files, headers={**token, "X-Request-ID": "my-id.1"})
    assert answer.headers["x-request-id"] == "my-id.1"
    time.sleep(0.3)
    (line,) = [line for line in strict.lines if line.get("request_id") == "my-id.1"]
    assert (line["event"], line["route"], line["status"], line["pixels"]) == ("request", "/v1/predict", 200, 96 * 128)
    assert line["bytes_in"] > len(IMAGE)
    assert "private" not in strict.text
    assert "open-sesame" not in strict.text
    odd = strict.client.get("/healthz", headers={"X-Request-ID": "a b\tc"}).headers["x-request-id"]
    assert len(odd) == 32


# --- several models, several heads -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_models_are_addressed_by_name_and_heads_by_head(start, model, two_headed, tmp_path):
    (tmp_path / "p.png").write_bytes(IMAGE)
    for file in (model, two_headed):
        assert main(["predict", str(file), str(tmp_path / "p.png"), "-o", str(tmp_path / file.stem)]) == 0
    both = start("--model", f"pair={two_headed}")
    assert [one["name"] for one in both.client.get("/v1/models").json()["models"]] == ["shapes", "pair"]
    assert post(both).content == (tmp_path / "model" / "p.png").read_bytes()
    for head, names in {"sort": ["a", "b", "c"], "state": ["dry", "wet"]}.items():
        answer = post(both, path=f"/v1/predict/pair?head={head}")
        assert answer.content == (tmp_path / "two" / f"p.{head}.png").read_bytes()
        content = post(both, path=f"/v1/predict/pair?head={head}&answer=json").json()
        assert content["head"] == head
        assert [row["name"] for row in content["classes"]] == names
    first = post(both, path="/v1/predict/pair?answer=json&include=confidence").json()
    assert first["head"] == "sort"
    assert error_of(post(both, path="/v1/predict/pair?head=x"))[2].endswith("its heads are sort, state.")
