"""A service from its start to its end: copies that die, signals, words for what does not start."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import torch
from serving import CLASSES, picture, png

from fullconv.cli import main
from fullconv.errors import ModelFileError, RecipeError
from fullconv.nn import build
from fullconv.segmenter import Segmenter
from fullconv.serve.settings import check_access, check_models, name_models

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")

PICTURE = png(picture())


def ask(address: str, timeout: float = 60) -> httpx.Response:
    return httpx.post(f"{address}/v1/predict", content=PICTURE, timeout=timeout)


def test_what_a_dead_copy_had_is_answered_by_another_and_a_signal_leaves_nothing_unanswered(start):
    service = start("--copies", "2")
    expected = ask(service.address).content
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, service.address) for _ in range(24)]
        time.sleep(0.2)
        os.kill(service.copies()[0], signal.SIGKILL)
        answers += [pool.submit(ask, service.address) for _ in range(24)]
        assert {answer.result().status_code for answer in answers} == {200}
    assert {answer.result().content for answer in answers} == {expected}
    for _ in range(600):
        if service.metric("fullconv_copies_ready") == 2:
            break
        time.sleep(0.1)
    assert service.metric("fullconv_copies_ready") == 2
    assert service.metric("fullconv_copy_restarts_total") == 1
    assert [line["code"] for line in service.lines if line["event"] == "copy-ended"] == [-9]
    stop_under_load(service, expected)


def stop_under_load(service, expected: bytes) -> None:
    found: list[object] = []
    copies = service.copies()
    stopping = threading.Event()

    def client() -> None:
        while True:
            sent_before = not stopping.is_set()
            try:
                answer = ask(service.address)
            except httpx.ConnectError:  # the door is closed: nothing was accepted
                return
            except httpx.HTTPError as error:
                found.append(error if sent_before else None)
                return
            found.append(answer.content if answer.status_code == 200 else answer.status_code)
            time.sleep(0.02)

    threads = [threading.Thread(target=client) for _ in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    stopping.set()
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(30) == 143
    for thread in threads:
        thread.join(30)
    assert expected in found
    assert set(found) <= {expected, 503, None}
    assert "stopped by SIGTERM" in service.text
    for pid in copies:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.slow
def test_all_copies_answer_with_the_engine_that_was_chosen_at_the_start(start, tmp_path, monkeypatch):
    """Also one that is started again after the cache has changed its mind."""
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path))
    torch.manual_seed(5)
    network = build("fcn8s", backbone="tiny", num_classes=4, width=2)
    agreement = {"bf16": {"labels": 0.999, "mean_iou_difference": 0.0001, "pictures": 32}}
    card = Segmenter.from_network(network, CLASSES, device="cpu").card.model_copy(update={"agreement": agreement})
    Segmenter(network, card, device="cpu").save(tmp_path / "wide.safetensors")
    service = start("--copies", "2", model=tmp_path / "wide.safetensors")
    while service.metric("fullconv_copies_ready") < 2:
        time.sleep(0.1)
    (described,) = service.client.get("/v1/models").json()["models"]
    chosen = [f"{row['engine']} {row['precision']}" for row in described["engines"]]
    (told,) = [line for line in service.lines if line["event"] == "engine-chosen"]
    assert told["engines"] == described["engines"]
    answers = (tmp_path / "engines").glob("*.json")
    tried = {path: json.loads(path.read_text()) for path in answers}
    assert [f"{row['engine']} {row['precision']}" for row in tried.values()] == chosen[-1:]  # the largest are worth it
    for path, row in tried.items():
        engine, precision = next(other for other in row["candidates"] if other != [row["engine"], row["precision"]])
        path.write_text(json.dumps({**row, "engine": engine, "precision": precision}))
    large = png(np.tile(picture(), (6, 4, 1)))
    seen = set()
    for killed in service.copies():
        os.kill(killed, signal.SIGKILL)
        for _ in range(2):  # while one copy is away, and when it is back
            with ThreadPoolExecutor(4) as pool:
                seen |= set(pool.map(lambda _: engine_of(service, large), range(8)))
            while service.metric("fullconv_copies_ready") < 2:
                time.sleep(0.1)
    assert seen == {chosen[-1]}
    assert engine_of(service, PICTURE) == chosen[0]
    assert service.client.get("/v1/models").json()["models"][0]["engines"] == described["engines"]
    assert len([line for line in service.lines if line["event"] == "engine-chosen"]) == 1


def engine_of(service, body: bytes) -> str:
    answer = httpx.post(f"{service.address}/v1/predict?answer=json", content=body, timeout=120)
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert answer.headers["x-engine"] == f"{content['engine']} {content['precision']}"
    return answer.headers["x-engine"]


@pytest.mark.slow
def test_a_service_that_is_killed_leaves_no_copy_behind(start):
    service = start()
    (copy,) = service.copies()
    service.process.kill()
    service.process.wait(20)
    for _ in range(100):
        try:
            os.kill(copy, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the copy lives on")


@pytest.mark.slow
def test_a_copy_that_hangs_is_replaced(start):
    service = start("--timeout", "2")
    expected = ask(service.address).content
    (copy,) = service.copies()
    os.kill(copy, signal.SIGSTOP)
    answer = ask(service.address)
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "too-slow")
    for _ in range(300):
        if copy not in service.copies():
            break
        time.sleep(0.1)
    assert ready_again(service)
    assert [line["event"] for line in service.lines if line["event"] == "copy-stuck"] == ["copy-stuck"]
    assert ask(service.address).content == expected


@pytest.mark.slow
def test_a_picture_that_ends_two_copies_is_refused_and_others_are_answered(start):
    service = start()
    expected = ask(service.address).content
    large = png(np.tile(picture(), (40, 40, 1)))
    with ThreadPoolExecutor(1) as pool:
        poison = pool.submit(httpx.post, f"{service.address}/v1/predict", content=large, timeout=60)
        for _ in range(2):
            time.sleep(0.6)
            assert ready_again(service)
            time.sleep(0.2)
            for copy in service.copies():
                os.kill(copy, signal.SIGKILL)
        answer = poison.result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "copy-ended")
    assert int(answer.headers["retry-after"]) >= 5
    assert ask(service.address).content == expected


def ready_again(service) -> bool:
    for _ in range(300):
        if service.client.get("/readyz").status_code == 200:
            return True
        time.sleep(0.1)
    return False


# --- what does not start ---------------------------------------------------------------------------------------------


def test_another_host_wants_a_token_or_the_word_that_none_is_wanted():
    with pytest.raises(RecipeError, match=r"--host 0\.0\.0\.0: others could reach it\. Give --token T"):
        check_access("0.0.0.0", None, no_auth=False)
    with pytest.raises(RecipeError, match="contradict"):
        check_access("0.0.0.0", "long enough", no_auth=True)
    for token in ("", "two words", "caf\u00e9"):
        with pytest.raises(RecipeError, match="without spaces"):
            check_access("127.0.0.1", token, no_auth=False)
    check_access("127.0.0.1", "short", no_auth=False)
    check_access("0.0.0.0", "long-enough", no_auth=False)
    check_access("0.0.0.0", None, no_auth=True)
    check_access("localhost", None, no_auth=False)


def test_models_have_names_that_stand_in_an_address():
    assert name_models("runs/a b/model.safetensors", ["x=c.safetensors"]) == {
        "a-b": "runs/a b/model.safetensors", "x": "c.safetensors"
    }  # fmt: skip
    with pytest.raises(RecipeError, match="write name=FILE"):
        name_models(None, ["../x=file"])
    with pytest.raises(RecipeError, match="there is a model 'a' already"):
        name_models("a.safetensors", ["a=b"])
    with pytest.raises(RecipeError, match="nothing to serve"):
        name_models(None, [])


def test_a_missing_model_and_a_taken_port_are_mendable(model, tmp_path, capfd):
    for name in ("none.safetensors", "none", "none.onnx"):
        with pytest.raises(ModelFileError, match=f"{name}: there is no such model file"):
            check_models({"m": str(tmp_path / name)})
    assert main(["serve", str(tmp_path / "none.safetensors"), "--port", "0"]) == 2
    assert "none.safetensors" in capfd.readouterr().err
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert main(["serve", str(model), "--port", str(other.getsockname()[1])]) == 2
    assert "cannot be listened on" in capfd.readouterr().err


def test_without_the_extra_the_install_line_is_told(model, monkeypatch, capfd):
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    assert main(["serve", str(model)]) == 2
    assert 'pip install "fullconv[serve]"' in capfd.readouterr().err
