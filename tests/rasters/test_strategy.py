"""Rasters by rows, every cell computed once: the labels of the whole, and the bytes of a job that was never stopped."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from orthophotos import CLASSES, NETS, cached, labels_of, narrow, orthophoto, whole_labels, write_raster
from torch import nn

from fullconv.rasters import predict_raster
from fullconv.rasters.reader import RasterReader
from fullconv.rasters.strategy import STRIP_BYTES, Strategy, choose_strategy
from fullconv.segmenter import Segmenter
from fullconv.tiling import RowGraph, estimate_chunk_bytes


def enough_for(model: Segmenter, source: Path, rows: int) -> int:
    """Bytes of memory with which bands get some rows."""
    program = RowGraph(model.engine.for_size(10**6, 10**6).net_for(10**6, 10**6))
    with RasterReader(source, model.card) as raster:
        chunk = estimate_chunk_bytes(program, raster.height, raster.width, rows)
        return STRIP_BYTES + raster.cache_bytes(0, True) + chunk


def strategy_of(model: Segmenter, source: Path, **options) -> Strategy:
    with RasterReader(source, model.card) as raster:
        return choose_strategy(model, raster, options.get("tile", "auto"), options.get("memory"), None)


@pytest.mark.parametrize("name", [name for name in NETS if name != "phase 15.5"])
@pytest.mark.parametrize("size", [(331, 205), (70, 333)])
def test_the_label_map_is_that_of_the_whole_picture(name, size, write, tmp_path):
    model, image = cached(name), orthophoto(*size)
    source = write(image)
    memory = enough_for(model, source, 64)
    assert strategy_of(model, source, memory=memory).rows == 64
    seen = []
    out = tmp_path / "labels.tif"
    result = predict_raster(model, source, out, memory=memory, progress=lambda done, _: seen.append(done))
    assert (labels_of(result.path) == whole_labels(model, image)).all()
    assert len(seen) == -(-size[0] // 64)


@pytest.mark.parametrize(
    ("name", "bands"),
    [("tiny", 1), ("tiny", 4), ("tiny", 7), ("resnet18", 4), ("by size", 4), ("pad 100, border zero", 4)],
)
def test_a_stopped_job_goes_on_to_the_same_bytes(name, bands, write, tmp_path):
    model = cached(name)
    source = write(orthophoto(700, 130))
    memory = enough_for(model, source, 64)
    seen = []

    def stop(*done: int) -> None:
        seen.append(done)
        if len(seen) == bands:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_raster(model, source, tmp_path / "stopped.tif", memory=memory, progress=stop)
    # what was chosen then holds, however much is allowed now
    predict_raster(model, source, tmp_path / "stopped.tif", resume=True, progress=lambda *done: seen.append(done))
    assert len(seen) == 11
    predict_raster(model, source, tmp_path / "once.tif", memory=memory)
    assert (tmp_path / "stopped.tif").read_bytes() == (tmp_path / "once.tif").read_bytes()


def test_what_memory_allows_decides(tiny, write):
    model, source = tiny, write(orthophoto(700, 205))
    few, more = (strategy_of(model, source, memory=enough_for(model, source, rows)).rows for rows in (64, 256))
    assert (few, more) == (64, 256)
    none = strategy_of(model, source, memory=1)
    assert (none.rows, none.tile) == (None, 256)  # not even few rows fit: the smallest tiles
    assert strategy_of(model, source, tile=100).tile == 128
    assert strategy_of(model, source, tile=100).rows is None


def test_a_network_that_has_no_form_by_rows_goes_by_tiles(write, tmp_path):
    body = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2, padding_mode="reflect"), nn.ReLU(), nn.Conv2d(8, 3, 1))
    model, image = Segmenter.from_network(body, CLASSES, device="cpu"), orthophoto(130, 101)
    source = write(image)
    assert strategy_of(model, source, memory=1).tile is not None
    predict_raster(model, source, tmp_path / "labels.tif", tile=32)
    assert (labels_of(tmp_path / "labels.tif") == whole_labels(model, image)).all()


def test_strips_and_masks_are_read_by_rows_too(tiny, write, tmp_path):
    model, image = tiny, np.maximum(orthophoto(200, 150), 1)
    image[:, 50:90, 40:100] = 0
    source = write(image, tiled=False, blockxsize=None, blockysize=1, nodata=0)
    result = predict_raster(model, source, tmp_path / "labels.tif", memory=enough_for(model, source, 64))
    assert result.void == 40 * 60
    found = labels_of(result.path)
    assert (found == whole_labels(model, image))[found != 255].all()


KILLED = """
import os, random, signal, sys, time
sys.path[:0] = {paths!r}
from orthophotos import narrow
from fullconv.rasters import predict_raster
import torch
torch.set_num_threads(1)
model = narrow("fcn8s", 0.5, "tiny")
source, out, once, memory, tile, seed = sys.argv[1:]
draw = random.Random(int(seed))
options = dict(memory=int(memory), tile=int(tile) if tile.isdigit() else tile)

def job(path, **more):
    predict_raster(model, source, path, **options, **more)

start = time.perf_counter()
job(once)
lasts = time.perf_counter() - start
kills = 0
for turn in range(200):
    child = os.fork()
    if child == 0:
        job(out, resume=True)
        os._exit(0)
    time.sleep(draw.uniform(0, lasts / 2) if kills < 20 else 0)
    if kills < 20:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    kills += os.WIFSIGNALED(status)
    if not os.WIFSIGNALED(status):
        if kills >= 20:
            break
        os.unlink(out)  # done before twenty kills: once more from the start
print(kills, open(out, "rb").read() == open(once, "rb").read())
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs fork and signals of POSIX")
@pytest.mark.parametrize("tile", ["auto", "64"])
def test_twenty_kills_at_random_moments_change_no_byte(tile, tmp_path):
    source = write_raster(tmp_path / "ortho.tif", orthophoto(2500, 600))
    model = narrow("fcn8s", 0.5, "tiny")
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
    script = [sys.executable, "-c", KILLED.format(paths=paths), str(source), str(tmp_path / "killed.tif")]
    memory = enough_for(model, source, 64)
    done = subprocess.run(
        [*script, str(tmp_path / "once.tif"), str(memory), tile, str(random.randrange(10**6))],
        capture_output=True, text=True, timeout=550, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["20", "True"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["fcn8s", "fcn32s"])
def test_whole_tiles_and_rows_label_36_megapixels_alike(variant, tmp_path):
    """No pixel differs but where two classes are as good as even."""
    model, image = narrow(variant, 0.25, "tiny"), orthophoto(6000, 6000)
    pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
    source = write_raster(tmp_path / "ortho.tif", image)
    found = {"whole": model.predict(pixels, tile="none").label_map, "tiles": model.predict(pixels, tile=1024).label_map}
    for name, tile in (("raster by rows", "auto"), ("raster by tiles", 1024)):
        found[name] = labels_of(predict_raster(model, source, tmp_path / "labels.tif", tile=tile).path)
    different = {name: labels != found["whole"] for name, labels in found.items()}
    if any(apart.any() for apart in different.values()):
        logits = model.logits(pixels, tile="none")
        for name, apart in different.items():
            best, second = np.sort(logits[:, apart], axis=0)[:-3:-1]
            assert ((best - second) < 2e-5 * np.abs(logits).max()).all(), f"{name}: {apart.sum()} pixels differ"
