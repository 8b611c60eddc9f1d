"""The service as its clients see it: answers, refusals, limits."""

from __future__ import annotations

import base64
import io
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
import pytest
from bombs import bomb
from PIL import Image
from serving import CLASSES, Running, picture, png

from fullconv.cli import main
from fullconv.segmenter import load

PICTURE = png(picture())


@pytest.fixture(scope="module")
def written(model, pictures, tmp_path_factory) -> Path:
    """What `fullconv predict` writes for the pictures."""
    out = tmp_path_factory.mktemp("written")
    assert main(["predict", str(model), str(pictures), "-o", str(out), "--overlay", "--probabilities"]) == 0
    return out


def post(service: Running, body: bytes = PICTURE, accept: str = "*/*", path: str = "/v1/predict") -> httpx.Response:
    return service.client.post(path, content=body, headers={"Accept": accept})


def refused(answer: httpx.Response) -> tuple[int, str, str]:
    content = answer.json()
    assert content["request_id"] == answer.headers["x-request-id"]
    return answer.status_code, content["error"]["code"], content["error"]["message"]


# --- answers ---------------------------------------------------------------------------------------------------------


def test_files_are_those_of_predict_byte_by_byte(service, pictures, written):
    kinds = {".png": "image/png", ".overlay.png": "image/png; kind=overlay", ".npz": "application/x-npz"}
    for path in sorted(pictures.iterdir()):
        for ending, accept in kinds.items():
            answer = post(service, path.read_bytes(), accept)
            assert answer.status_code == 200, answer.text
            assert answer.content == (written / f"{path.stem}{ending}").read_bytes(), f"{path.name} as {accept}"
            assert answer.headers["content-type"] == accept.partition(";")[0]


def test_pictures_that_come_together_get_the_answers_of_predict(service, pictures, written):
    paths = sorted(pictures.iterdir()) * 3
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda path: post(service, path.read_bytes()), paths)
        assert [answer.content for answer in answers] == [(written / f"{p.stem}.png").read_bytes() for p in paths]


def test_tiles_forms_and_names_change_nothing(service):
    whole = post(service).content
    assert post(service, path="/v1/predict?tile=32").content == whole
    assert post(service, path="/v1/predict?tile=none").content == whole
    assert post(service, path="/v1/predict/shapes").content == whole
    form = service.client.post("/v1/predict", files={"file": ("any name.jpg", PICTURE, "image/jpeg")}, data={"x": "y"})
    assert form.content == whole


def test_scale_is_the_working_resolution_and_the_answer_has_the_pictures_size(service, model):
    segmenter = load(model)
    segmenter.card = segmenter.card.model_copy(update={"scale": 0.5})
    expected = segmenter.predict(picture()).label_map
    answer = post(service, path="/v1/predict?scale=0.5")
    assert (np.asarray(Image.open(io.BytesIO(answer.content))) == expected).all()
    assert (expected != np.asarray(Image.open(io.BytesIO(post(service).content)))).any()


def test_json_counts_what_the_png_shows(service):
    label_map = np.asarray(Image.open(io.BytesIO(post(service).content)))
    path = "/v1/predict?include=rle&include=polygons&include=label_map&include=confidence&include=picture"
    content = post(service, accept="application/json", path=path).json()
    assert content["size"] == {"width": 128, "height": 96}
    assert [row["name"] for row in content["classes"]] == CLASSES
    assert [row["pixels"] for row in content["classes"]] == np.bincount(label_map.reshape(-1), minlength=4).tolist()
    assert sum(row["share"] for row in content["classes"]) == pytest.approx(1)
    assert base64.b64decode(content["label_map"]) == post(service).content
    probabilities = np.load(io.BytesIO(post(service, accept="application/x-npz").content))["probabilities"]
    confidence = np.asarray(Image.open(io.BytesIO(base64.b64decode(content["confidence"]))))
    assert np.abs(confidence - 100 * probabilities.max(0)).max() <= 1.1
    assert Image.open(io.BytesIO(base64.b64decode(content["picture"]))).size == (128, 96)
    again = np.full(label_map.shape, 255, np.uint8)
    for row in content["rle"]:
        values = np.concatenate([np.full(n, i % 2) for i, n in enumerate(row["counts"])])
        values = np.pad(values, (0, label_map.size - values.size))
        again[values.reshape(label_map.shape, order="F") == 1] = row["index"]
    assert (again == label_map).all()
    assert sum(area(patch["rings"]) for patch in content["polygons"]) == label_map.size


def area(rings: list[list[list[int]]]) -> float:
    """Area of the outer ring without its holes, by the shoelace formula."""
    own = [abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(r))) / 2 for r in rings]
    return own[0] - sum(own[1:])


def test_the_models_are_described(service):
    content = service.client.get("/v1/models").json()
    (own,) = content["models"]
    assert (content["default"], own["name"], own["ready"]) == ("shapes", "shapes", True)
    assert [row["name"] for row in own["classes"]] == CLASSES
    assert content["limits"]["body_bytes"] == 64_000_000
    assert own["engines"] == [{"max_pixels": None, "engine": own["engine"], "precision": own["precision"]}]
    assert post(service).headers["x-engine"] == f"{own['engine']} {own['precision']}" == "torch fp32"


def test_probes_counters_and_documents_answer(service):
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


def test_what_the_page_is_made_of_comes_from_here_alone(service):
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


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/v1/predict", b"", (400, "empty", "holds no picture")),
        ("/v1/predict", b"hello", (415, "not-a-picture", "text file")),
        ("/v1/predict", PICTURE[:-800], (422, "truncated", "the picture")),
        ("/v1/predict/shape", PICTURE, (404, "no-such-model", "Did you mean 'shapes'")),
        ("/v1/predict?tiel=3", PICTURE, (422, "unknown-parameter", "Did you mean 'tile'")),
        ("/v1/predict?tile=-3", PICTURE, (422, "bad-parameter", "tile")),
        ("/v1/predict?scale=nan", PICTURE, (422, "bad-parameter", "scale")),
        ("/v1/predict?head=x", PICTURE, (422, "no-such-head", "leave head away")),
        ("/v1/predict?include=rle", PICTURE, (422, "include-without-json", "application/json")),
        ("/v2/predict", PICTURE, (404, "not-found", "/docs")),
        ("/healthz", PICTURE, (405, "wrong-method", "does not take POST")),
        ("/page/../worker.py", PICTURE, (404, "not-found", "")),
    ],
)
def test_what_cannot_be_answered_is_refused_in_words(service, path, body, expected):
    status, code, message = refused(post(service, body, path=path))
    assert (status, code) == expected[:2]
    assert expected[2] in message


FILE_PART = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n1\r\n'


def test_a_kind_that_does_not_exist_is_refused(service):
    assert refused(post(service, accept="text/html"))[:2] == (406, "not-acceptable")


def test_a_picture_of_another_kind_is_refused_with_what_the_model_wants(service):
    buffer = io.BytesIO()
    import tifffile

    tifffile.imwrite(buffer, np.zeros((8, 8, 5), np.uint8), photometric="minisblack", planarconfig="contig")
    status, code, message = refused(post(service, buffer.getvalue()))
    assert (status, code) == (422, "cannot-predict")
    assert message.startswith("the picture has 5 bands, the model wants 3")


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
def test_forms_hold_one_picture(service, kind, body, code):
    answer = service.client.post("/v1/predict", content=body, headers={"Content-Type": kind})
    assert refused(answer)[:2] == (400, code)


def test_other_origins_and_other_hosts_are_refused(service):
    assert refused(service.client.get("/v1/models", headers={"Origin": "http://example.org"}))[1] == "other-origin"
    assert refused(service.client.get("/v1/models", headers={"Host": "example.org"}))[1] == "other-host"
    own = service.client.get("/v1/models", headers={"Origin": service.address})
    assert own.status_code == 200
    assert not [name for name in own.headers if name.startswith("access-control")]


def test_pictures_of_a_pixel_and_of_one_long_row_are_answered(service):
    for size in ((1, 1), (1, 30_000), (30_000, 1)):
        answer = post(service, png(np.full((*size, 3), 90, np.uint8)))
        assert Image.open(io.BytesIO(answer.content)).size == size[::-1]


def test_a_request_whose_sender_has_stopped_sending_is_answered(service):
    with socket.create_connection(("127.0.0.1", service.port), 20) as client:
        head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(PICTURE)}\r\n\r\n"
        client.sendall(head.encode() + PICTURE)
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(post(service).content)


def test_garbage_gets_400_and_the_next_is_answered(service):
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


def test_without_the_token_only_page_and_probes_answer(strict, token):
    for path in ("/v1/models", "/metrics"):
        answer = strict.client.get(path)
        assert refused(answer)[:2] == (401, "no-token")
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert strict.client.get(path, headers={"Authorization": "Bearer open-sesamE"}).status_code == 401
        assert strict.client.get(path, headers=token).status_code == 200
    assert strict.client.post("/v1/predict", content=PICTURE).status_code == 401
    for path in ("/", "/docs", "/healthz", "/readyz"):
        assert strict.client.get(path).status_code == 200


def test_large_bodies_are_refused_before_they_are_read(strict, token):
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

    answer = strict.client.post("/v1/predict", content=endless(), headers=token)  # chunked, so its length is not told
    assert refused(answer)[:2] == (413, "body-too-large")


def test_too_many_pixels_are_refused_by_the_header(strict, token):
    for size, words in (((60_000, 60_000), "60000x60000 is 3,600,000,000 pixels"), ((150_000, 1), "150000x64")):
        status, code, message = refused(strict.client.post("/v1/predict", content=bomb(*size), headers=token))
        assert (status, code) == (413, "too-many-pixels")
        assert words in message
    answer = strict.client.post("/v1/predict?scale=4", content=png(picture(size=(120, 160))), headers=token)
    assert refused(answer)[:2] == (413, "too-many-pixels")


def test_a_slow_body_is_refused_in_time(strict):
    with socket.create_connection(("127.0.0.1", strict.port), 20) as client:
        client.sendall(HEAD + b"Content-Length: 1000\r\n\r\na")
        assert client.recv(65536).startswith(b"HTTP/1.1 408")


def test_a_full_queue_says_when_to_come_again(strict, token):
    with ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(lambda _: httpx.post(f"{strict.address}/v1/predict", content=PICTURE, headers=token), range(48))
        )
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert refused(answer)[1] == "queue-full"
            assert int(answer.headers["retry-after"]) >= 1
    assert len({answer.content for answer in answers if answer.status_code == 200}) == 1


# --- the log ---------------------------------------------------------------------------------------------------------


def test_the_log_has_a_line_a_request_and_no_secrets(strict, token):
    files = {"file": ("private name.png", PICTURE, "image/png")}
    answer = strict.client.post("/v1/predict", files=files, headers={**token, "X-Request-ID": "my-id.1"})
    assert answer.headers["x-request-id"] == "my-id.1"
    time.sleep(0.3)
    (line,) = [line for line in strict.lines if line.get("request_id") == "my-id.1"]
    assert (line["event"], line["route"], line["status"], line["pixels"]) == ("request", "/v1/predict", 200, 96 * 128)
    assert line["bytes_in"] > len(PICTURE)
    assert "private" not in strict.text
    assert "open-sesame" not in strict.text
    odd = strict.client.get("/healthz", headers={"X-Request-ID": "a b\tc"}).headers["x-request-id"]
    assert len(odd) == 32


def test_every_answer_that_is_json_is_valid(service):
    json.loads(post(service, accept="application/json").text, parse_constant=lambda word: pytest.fail(word))


# --- several models, several heads -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_models_answer_by_name_and_heads_by_head(start, model, two_headed, tmp_path):
    (tmp_path / "p.png").write_bytes(PICTURE)
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
    assert refused(post(both, path="/v1/predict/pair?head=x"))[2].endswith("it has sort, state.")
