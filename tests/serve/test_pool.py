"""Workers that die, hang or are killed with their requests, and the engine that all of them use."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import torch
from serving import CLASSES, draw_image, png, wait_until

from fullconv.nn import build
from fullconv.segmenter import Segmenter

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")

IMAGE = png(draw_image())


def post(address: str, timeout: float = 60) -> httpx.Response:
    return httpx.post(f"{address}/v1/predict", content=IMAGE, timeout=timeout)


def test_the_requests_of_a_dead_worker_are_retried_and_a_signal_leaves_no_request_without_a_response(start):
    service = start("--copies", "2")
    expected = post(service.address).content
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(post, service.address) for _ in range(24)]
        time.sleep(0.2)
        os.kill(service.workers()[0], signal.SIGKILL)
        answers += [pool.submit(post, service.address) for _ in range(24)]
        assert {answer.result().status_code for answer in answers} == {200}
    assert {answer.result().content for answer in answers} == {expected}
    wait_until(lambda: service.metric("fullconv_copies_ready") == 2)
    assert service.metric("fullconv_copy_restarts_total") == 1
    assert [line["code"] for line in service.lines if line["event"] == "copy-ended"] == [-9]
    stop_under_load(service, expected)


def stop_under_load(service, expected: bytes) -> None:
    found: list[object] = []
    workers = service.workers()
    stopping = threading.Event()

    def client() -> None:
        while True:
            sent_before = not stopping.is_set()
            try:
                answer = post(service.address)
            except httpx.ConnectError:  # nothing was accepted
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
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.slow
def test_all_workers_use_the_engine_that_was_chosen_at_the_start(start, tmp_path, monkeypatch):
    """Also one that is restarted after the cache has changed."""
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path))
    torch.manual_seed(5)
    network = build("fcn8s", backbone="tiny", num_classes=4, width=2)
    agreement = {"bf16": {"labels": 0.999, "mean_iou_difference": 0.0001, "pictures": 32}}
    card = Segmenter.from_network(network, CLASSES, device="cpu").card.model_copy(update={"agreement": agreement})
    Segmenter(network, card, device="cpu").save(tmp_path / "wide.safetensors")
    service = start("--copies", "2", model=tmp_path / "wide.safetensors")
    wait_until(lambda: service.metric("fullconv_copies_ready") == 2)
    (described,) = service.client.get("/v1/models").json()["models"]
    chosen = [f"{row['engine']} {row['precision']}" for row in described["engines"]]
    (logged,) = [line for line in service.lines if line["event"] == "engine-chosen"]
    assert logged["engines"] == described["engines"]
    caches = (tmp_path / "engines").glob("*.json")
    benchmarked = {path: json.loads(path.read_text()) for path in caches}
    # only the largest are worth a benchmark
    assert [f"{row['engine']} {row['precision']}" for row in benchmarked.values()] == chosen[-1:]
    for path, row in benchmarked.items():
        engine, precision = next(other for other in row["candidates"] if other != [row["engine"], row["precision"]])
        path.write_text(json.dumps({**row, "engine": engine, "precision": precision}))
    large = png(np.tile(draw_image(), (6, 4, 1)))
    seen = set()
    for killed in service.workers():
        os.kill(killed, signal.SIGKILL)
        for _ in range(2):  # while one worker is down, and when it is back
            with ThreadPoolExecutor(4) as pool:
                seen |= set(pool.map(lambda _: engine_of(service, large), range(8)))
            wait_until(lambda: service.metric("fullconv_copies_ready") == 2)
    assert seen == {chosen[-1]}
    assert engine_of(service, IMAGE) == chosen[0]
    assert service.client.get("/v1/models").json()["models"][0]["engines"] == described["engines"]
    assert len([line for line in service.lines if line["event"] == "engine-chosen"]) == 1


def engine_of(service, body: bytes) -> str:
    answer = httpx.post(f"{service.address}/v1/predict?answer=json", content=body, timeout=120)
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert answer.headers["x-engine"] == f"{content['engine']} {content['precision']}"
    return answer.headers["x-engine"]


@pytest.mark.slow
def test_a_hung_worker_is_replaced(start):
    service = start("--timeout", "2")
    expected = post(service.address).content
    (worker,) = service.workers()
    os.kill(worker, signal.SIGSTOP)
    answer = post(service.address)
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "too-slow")
    wait_until(lambda: worker not in service.workers() and service.is_ready())
    assert [line["event"] for line in service.lines if line["event"] == "copy-stuck"] == ["copy-stuck"]
    assert post(service.address).content == expected


@pytest.mark.slow
def test_an_image_that_kills_two_workers_gets_an_error_and_others_their_results(start):
    service = start()
    expected = post(service.address).content
    large = png(np.tile(draw_image(), (40, 40, 1)))
    with ThreadPoolExecutor(1) as pool:
        poison = pool.submit(httpx.post, f"{service.address}/v1/predict", content=large, timeout=60)
        for _ in range(2):
            time.sleep(0.6)
            wait_until(service.is_ready)
            time.sleep(0.2)
            for worker in service.workers():
                os.kill(worker, signal.SIGKILL)
        answer = poison.result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "copy-ended")
    assert int(answer.headers["retry-after"]) >= 5
    assert post(service.address).content == expected
