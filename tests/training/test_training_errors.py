"""Out of memory: which errors count, and suggestions that fit."""

from __future__ import annotations

import multiprocessing
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import SMALL

from fullconv.errors import RunError
from fullconv.recipe import parse_recipe, parse_setting
from fullconv.training import train
from fullconv.training.errors import TrainOOMError, catch_oom, next_batch, suggest_smaller_batch

OOM = TrainOOMError("[enforce fail] can't allocate memory: you tried to allocate 4096 bytes")


def advice(capacity: int, ranks: int = 1, **settings) -> tuple[str, list[tuple[int, int, int]]]:
    """The message for a machine that holds so many pixels a process, and what was tried on it."""
    tried = []

    def works(crops: int, size: tuple[int, int]) -> bool:
        tried.append((crops, *size))
        return crops * size[0] * size[1] <= capacity

    recipe = parse_recipe({"crop": "96x128", "batch_size": 8, **settings})
    return str(suggest_smaller_batch(recipe, OOM, works, ranks)), tried


def followed(message: str) -> dict[str, object]:
    """The options in the message, as the command line would read them."""
    options = re.findall(r"--(batch-size|crop) (\d[\dx]*)|--set (accumulate=\d+)", message)
    return dict([(name.replace("-", "_"), value) if name else parse_setting(pair) for name, value, pair in options])


def test_fewer_crops_with_accumulation_are_suggested():
    message, tried = advice(3 * 96 * 128)
    assert message == (
        "out of memory for 8 crops of 96x128 ([enforce fail] can't allocate memory: you tried to allocate 4096 bytes)."
        " 2 did fit: --batch-size 2 --set accumulate=4 makes steps of as many crops in less memory."
    )
    assert tried == [(4, 96, 128), (2, 96, 128)]


def test_smaller_crops_are_suggested_if_one_does_not_fit():
    message, tried = advice(48 * 64, accumulate=3)
    assert message.endswith(
        "One of 48x64 did fit: --batch-size 1 --crop 48x64 --set accumulate=24, or use a smaller --backbone."
    )
    assert tried[-2:] == [(1, 96, 128), (1, 48, 64)]


def test_a_smaller_backbone_is_named_where_nothing_fits():
    message, tried = advice(10)
    assert message.endswith("Not even one of 48x64 fits: use a smaller --backbone.")
    assert tried[-1] == (1, 48, 64)


def test_full_images_become_crops_or_smaller():
    message, tried = advice(10, crop="whole", batch_size=1)
    assert message.startswith("out of memory for 1 full images (")
    assert message.endswith("Train on crops (--crop 288x384) or on smaller images (--scale 0.5).")
    assert tried == []


@settings(max_examples=60)
@given(batch=st.integers(1, 40), accumulate=st.integers(1, 4), height=st.integers(1, 400), width=st.integers(1, 400),
       ranks=st.integers(1, 4), share=st.floats(0.001, 0.999))  # fmt: skip
def test_what_is_advised_fits_and_is_a_step_of_as_many_crops(batch, accumulate, height, width, ranks, share):
    """As a user would follow it: the message are read, and the run that they make is looked at."""
    batch = max(batch, ranks)
    capacity = int(share * -(-batch // ranks) * height * width)
    given_ = {"batch_size": batch, "accumulate": accumulate, "crop": f"{height}x{width}"}
    message, tried = advice(capacity, ranks, **given_)
    assert "\n" not in message
    if not (outputs := followed(message)):
        assert "Not even one of" in message
        assert all(crops * h * w > capacity for crops, h, w in tried)
        return
    then = parse_recipe({**given_, **outputs})
    assert then.batch_size is not None
    assert then.batch_size >= ranks  # each process gets a crop, or the run would be refused
    share_of_one = -(-then.batch_size // ranks)
    assert share_of_one * then.crop[0] * then.crop[1] <= capacity
    if "crop" not in outputs:
        assert then.batch_size * then.accumulate == batch * accumulate
        assert then.batch_size < batch
    else:
        assert 0 <= then.batch_size * then.accumulate - batch * accumulate < ranks * accumulate


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you ..."
        ),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("could not create a primitive"),
    ],
    ids=["python", "cuda", "cpu", "c++", "cublas", "onednn"],
)
def test_out_of_memory_errors_are_recognized(error):
    with pytest.raises(TrainOOMError) as caught, catch_oom():
        raise error
    assert str(caught.value) == (str(error) or "MemoryError")
    assert isinstance(caught.value, RunError)


@pytest.mark.parametrize(
    "message",
    ["mat1 and mat2 shapes cannot be multiplied", "could not create a primitive descriptor for a convolution"],
)
def test_other_errors_pass_through(message):
    with pytest.raises(RuntimeError, match=message) as caught, catch_oom():
        raise RuntimeError(message)
    assert type(caught.value) is RuntimeError


def test_impossible_tensor_is_out_of_memory():
    with pytest.raises(TrainOOMError, match=r"can't allocate memory|out of memory"), catch_oom():
        torch.empty(2**60, dtype=torch.uint8)


def test_batch_that_does_not_fit_is_out_of_memory():
    def batches():
        np.empty((10**8, 10**8, 3), np.uint8)
        yield

    with pytest.raises(TrainOOMError, match=r"Unable to allocate 26\.6 PiB"):
        next_batch(batches())


def limited(data: str, run: str, outputs: str, settings: dict[str, object]) -> None:
    """Train with a third of a gigabyte beyond what the program itself takes. In a process of its own."""
    import resource

    sys.stderr = Path(outputs).open("w", buffering=1)  # noqa: SIM115
    torch.set_num_threads(1)
    train(data, run + ".first", **SMALL, steps=1)  # what is imported late is imported now
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 350 * 2**20,) * 2)
    try:
        train(data, run, **{**SMALL, **settings})
    except RunError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="counts its own memory by /proc")
def test_run_out_of_memory_suggests_what_fits(shapes, tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fullconv.training"])
    outputs, wild = tmp_path / "stderr", {"steps": 1, "batch_size": 12, "crop": "512x512"}
    process = context.Process(target=limited, args=(str(shapes), str(tmp_path / "run"), str(outputs), wild))
    process.start()
    process.join()
    message = outputs.read_text().splitlines()[-1]
    print(message)
    assert process.exitcode == 2
    assert re.match(r"out of memory for 12 crops of 512x512 \(.*\)\. (\d+|One of \S+) did fit: --batch-size", message)
