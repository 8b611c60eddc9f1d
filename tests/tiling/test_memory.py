"""Estimates of memory decide on tiles, and are close to the peaks of processes that the system reports."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fullconv.nn import build
from fullconv.system import available_memory
from fullconv.tiling import choose_tile_size, default_budget, estimate_bytes
from fullconv.tiling.memory import SCRATCH
from model_files import small_segmenter

PROGRAM = """
import gc
import sys
import tempfile
import numpy as np
import torch
import fullconv
from fullconv.system import malloc_trim, retain_freed
from fullconv.nn import build
from fullconv.tiling import memory

variant, backbone, height, width, tile = [*sys.argv[1:4], int(sys.argv[4]), sys.argv[5]]
backbone, height = (None if backbone == "None" else backbone), int(height)
torch.manual_seed(0)
torch.set_num_threads(1)
network = build(variant, backbone=backbone, num_classes=11, weights="none")
with tempfile.TemporaryDirectory() as folder:
    made = fullconv.Segmenter.from_network(network, [f"c{k}" for k in range(11)], device="cpu", precision="fp32")
    made.save(folder + "/model.safetensors")
    segmenter = fullconv.load(folder + "/model.safetensors", device="cpu", engine=sys.argv[6], precision=sys.argv[7])
del made, network
network = segmenter.network


def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024


image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
segmenter.predict(image[:96, :96], tile="none")  # code is loaded, weights are in the kernels' order
gc.collect()
malloc_trim()
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = status("VmRSS")
left, top, right, bottom = network.halo or (0, 0, 0, 0)
size = (height, width) if tile == "none" else (int(tile) + top + bottom, int(tile) + left + right)
estimated = memory.estimate_bytes(network, *size)
segmenter = segmenter.with_options(memory=int(1.1 * estimated))  # so that it just fits, as it is where memory is short
with retain_freed():
    segmenter.predict(image)
taken = status("VmHWM") - before
assert (memory.choose_tile_size(network, height, width, segmenter.options.memory) is None) == (tile == "none")
print(taken, estimated)
"""


def test_the_estimate_decides_on_tiles():
    network = build("fcn8s", backbone="tiny", num_classes=3, width=0.25)
    budget = estimate_bytes(network, 1024, 1024)
    # two maps of the first layer, 4 channels at half the size, and the image
    assert budget > SCRATCH + 1024 * 1024 * (2 * 4 / 4 + 3) * 4
    assert choose_tile_size(network, 1000, 1000, budget) is None
    core = choose_tile_size(network, 4000, 4000, budget)
    assert core is not None
    assert core % 32 == 0
    assert 256 <= core < 1024
    assert choose_tile_size(network, 4000, 4000, budget=1) == 256  # smaller tiles would compute little but halo


def test_the_default_budget_is_a_part_of_the_memory_available():
    assert 0 < default_budget() < available_memory()


def test_images_that_only_fit_one_by_one_are_not_batched():
    segmenter, batches = small_segmenter(), []
    engine = segmenter.engine.for_size(96, 96)
    compute = engine.scores
    engine.scores = lambda images: batches.append(len(images)) or compute(images)
    one = estimate_bytes(segmenter.network, 96, 96)
    for limit, expected in ((3 * one, [3]), (2 * one, [1, 1, 1])):
        batches.clear()
        images = [np.full((96, 96, 3), value, np.uint8) for value in (1, 2, 3)]
        segmenter.with_options(memory=limit).predict_many(images)
        assert batches == expected


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not report peaks")
@pytest.mark.parametrize(
    ("variant", "backbone", "height", "width", "tile"),
    [
        ("fcn8s", "resnet18", 1200, 1600, "none"),
        ("fcn8s", "resnet18", 600, 800, "none"),
        ("fcn8s", "resnet50", 600, 800, "none"),
        ("fcn8s", "resnet50", 1000, 1200, "none"),
        ("fcn-os8", "resnet50", 1200, 1600, "none"),
        ("fcn8s", "vgg16", 800, 1000, "none"),
        ("fcn8s", "mobilenetv3_large_100", 1500, 2000, "none"),
        ("fcn8s", "convnext_tiny", 1000, 1200, "none"),
        ("fcn32s", "resnet18", 1200, 1600, "none"),
        ("fcn-os8", "resnet50", 600, 800, "none"),
        ("fcn8s", "tiny", 2000, 3000, "none"),
        ("voc-fcn8s", "None", 700, 900, "none"),
        ("fcn8s", "resnet18", 2400, 2400, "1024"),
    ],
)
def test_the_estimate_is_close_to_the_peak(variant, backbone, height, width, tile):
    command = [sys.executable, "-c", PROGRAM, variant, backbone, str(height), str(width), tile, "torch", "fp32"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    taken, estimated = map(int, done.stdout.split())
    assert abs(estimated / taken - 1) < 0.2
