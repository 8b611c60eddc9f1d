"""Timed parts, threads, and the table of --timing."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullconv.cli import main
from fullconv.profiling import DECODING, NETWORK, READING, REST, UPSAMPLING, is_profiling, open_binary, profile, timed
from model_files import small_segmenter
from synthetic.shapes import make_shapes, names


def test_a_part_excludes_the_parts_within_it():
    with profile() as times, timed("outer"):
        time.sleep(0.02)
        with timed("inner"):
            time.sleep(0.05)
        with timed("inner"):
            time.sleep(0.05)
    assert 0.1 <= times.main["inner"] < times.main["inner"] + times.main["outer"] <= times.seconds
    assert 0.02 <= times.main["outer"] < 0.1  # not the 0.1 s of the parts inside it


def test_threads_have_sums_of_their_own():
    def work() -> None:
        with timed("reading"):
            time.sleep(0.03)

    with profile() as times:
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert times.beside["reading"] >= 0.09  # each counts, though they overlap
    assert "reading" not in times.main


def test_parts_of_the_profiling_thread_and_the_rest_add_up():
    with profile() as times:
        time.sleep(0.02)
        with timed("a"):
            time.sleep(0.02)
    assert sum(times.main.values()) == pytest.approx(times.seconds)
    assert times.main[REST] >= 0.02


def test_a_part_that_fails_is_closed():
    def fail() -> None:
        time.sleep(0.02)
        raise ValueError("no")

    with profile() as times, timed("outer"):
        with pytest.raises(ValueError, match="no"), timed("inner"):
            fail()
        with timed("inner"):
            pass
    assert times.main["inner"] >= 0.02
    assert times.main["outer"] < 0.02


def test_without_a_profile_nothing_is_recorded():
    with profile() as times:
        assert is_profiling()
    with timed("later"):
        pass
    assert not is_profiling()
    assert "later" not in times.main


def test_a_timed_file_returns_the_same_bytes(tmp_path):
    content = np.random.default_rng(0).bytes(300_000)
    path = tmp_path / "file"
    path.write_bytes(content)
    with profile() as times, open_binary(path) as file:
        start = file.read(32)
        file.seek(100)
        middle = file.read(50)
        file.seek(0)
        whole = file.read()
    assert (start, middle, whole) == (content[:32], content[100:150], content)
    assert times.main[READING] > 0


def test_network_and_upsampling_are_timed_separately():
    segmenter = small_segmenter(precision="fp32")
    network = segmenter.network
    forward = network.head.forward

    def slow(*given):
        time.sleep(0.05)
        return forward(*given)

    network.head.forward = slow
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    with profile() as times:
        segmenter.predict(image)
    assert times.main[NETWORK] >= 0.05 > times.main[UPSAMPLING] > 0


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    small_segmenter(names(4), seed=5).save(path)
    return path


def table(text: str) -> tuple[float, dict[str, float], dict[str, float]]:
    """Parse the table of --timing: total seconds, parts of the command's thread, parts of other threads."""
    found = re.search(r"^Where ([\d.]+) s went:$", text, re.MULTILINE)
    assert found
    own, _, others = text[found.end() :].partition("Meanwhile")

    def parts(lines: str) -> dict[str, float]:
        return {name.strip(): float(s) for name, s in re.findall(r"^  (\S.*?)  +([\d.]+) s", lines, re.MULTILINE)}

    return float(found[1]), parts(own), parts(others)


def test_predict_prints_its_timing(model, tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for k in range(3):
        Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)).save(tmp_path / "in" / f"{k}.png")
    assert main(["predict", str(model), str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--timing"]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    seconds, own, others = table(printed.err)
    assert {"starting, loading the model", "network", "upsampling + argmax", "waiting for images"} <= own.keys()
    assert own["network"] > 0
    assert {"reading", "decoding", "encoding", "writing"} <= others.keys()
    assert others["decoding"] > 0
    assert sum(own.values()) == pytest.approx(seconds, abs=0.01 * len(own))


def test_evaluate_prints_its_timing_beside_its_json(model, tmp_path, capsys):
    import json

    data = make_shapes(tmp_path / "shapes", images=4, size=(32, 40))
    assert main(["evaluate", str(model), str(data), "--split", "all", "--timing", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["images"] > 0
    _, own, others = table(printed.err)
    assert {"network", "counting"} <= own.keys()
    assert DECODING in others


def test_timing_is_an_option(model, tmp_path, capsys):
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "a.png")
    assert main(["predict", str(model), str(tmp_path / "a.png"), "-o", str(tmp_path / "out")]) == 0
    assert "went" not in capsys.readouterr().err
