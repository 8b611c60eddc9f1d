"""Caffe's `.caffemodel` files: a reader of their wire format that takes weights and nothing else.

A file is a protobuf message NetParameter. Only the fields that hold layers, their names and their blobs are followed;
everything else is stepped over. Nothing is executed, sizes are checked before anything is allocated.

Source: BVLC/caffe, src/caffe/proto/caffe.proto (field numbers); protobuf's encoding documentation (wire types).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fullconv.errors import WeightsError

MAX_BYTES = 4 * 2**30
MAX_LAYERS = 10_000

_LAYER, _LAYER_V1 = 100, 2  # of NetParameter
_NAME, _BLOBS = 1, 7  # of LayerParameter
_NAME_V1, _BLOBS_V1 = 4, 6  # of V1LayerParameter
_DATA, _SHAPE, _DOUBLE = 5, 7, 8  # of BlobProto; 1 to 4 are its old num, channels, height, width
_DIM = 1  # of BlobShape


def read_caffemodel(path: str | Path) -> dict[str, list[Tensor]]:
    """Read the blobs of a `.caffemodel` by layer name: weights first, then biases, float32."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise WeightsError(f"{path}: {size} bytes are more than any Caffe model of this family has.")
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error}).") from error
    layers: dict[str, list[Tensor]] = {}
    try:
        for field, value in _fields(data):
            if field not in (_LAYER, _LAYER_V1) or not isinstance(value, memoryview):
                continue
            name, blobs = _layer(value, field == _LAYER)
            if blobs:
                layers[name] = blobs
            if len(layers) > MAX_LAYERS:
                raise ValueError("too many layers")
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: damaged, or no .caffemodel ({error}).") from None
    if not layers:
        raise WeightsError(f"{path}: holds no layer with weights: no .caffemodel.")
    return layers


def read_blobs(path: Path) -> dict[str, Tensor]:
    """Read a `.caffemodel` as tensors by name, as PyTorch calls them: LAYER.weight and LAYER.bias."""
    blobs = read_caffemodel(path)
    return {f"{layer}.{part}": blob for layer, found in blobs.items()
            for part, blob in zip(("weight", "bias"), found, strict=False)}  # fmt: skip


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value) of a message: numbers for varints, views for everything else."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        field, wire = key >> 3, key & 7
        if wire == 0:
            number, place = _varint(data, place)
            yield field, number
            continue
        if wire == 2:
            length, place = _varint(data, place)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {place}")
        if place + length > len(data):
            raise ValueError(f"it ends {place + length - len(data)} bytes too early")
        yield field, data[place : place + length]
        place += length


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place += 1
        if byte < 128:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError(f"a number without end at byte {place}")


def _layer(data: memoryview, new: bool) -> tuple[str, list[Tensor]]:
    wanted_name, wanted_blobs = (_NAME, _BLOBS) if new else (_NAME_V1, _BLOBS_V1)
    name, blobs = "", []
    for field, value in _fields(data):
        if field == wanted_name and isinstance(value, memoryview):
            name = bytes(value).decode("utf-8")
        elif field == wanted_blobs and isinstance(value, memoryview):
            blobs.append(_blob(value))
    return name, blobs


def _blob(data: memoryview) -> Tensor:
    """Read an array; its shape may stand in a list or in the four old fields."""
    old = {1: 1, 2: 1, 3: 1, 4: 1}
    shape: list[int] | None = None
    parts: list[NDArray[np.float32]] = []
    for field, value in _fields(data):
        if isinstance(value, int):
            if field in old:
                old[field] = value
        elif field == _DATA:
            parts.append(np.frombuffer(value, dtype="<f4"))
        elif field == _DOUBLE:
            parts.append(np.frombuffer(value, dtype="<f8").astype(np.float32))
        elif field == _SHAPE:
            shape = _shape(value)
    values = np.concatenate(parts) if parts else np.empty(0, np.float32)
    shape = [old[key] for key in (1, 2, 3, 4)] if shape is None else shape
    if prod(shape) != values.size:
        raise ValueError(f"a blob of shape {shape} has {values.size} numbers")
    return torch.from_numpy(values.reshape(shape).copy())


def _shape(data: memoryview) -> list[int]:
    dims: list[int] = []
    for field, value in _fields(data):
        if field != _DIM:
            continue
        if isinstance(value, int):
            dims.append(value)
            continue
        place = 0
        while place < len(value):
            number, place = _varint(value, place)
            dims.append(number)
    if len(dims) > 32 or any(d > 2**31 for d in dims):
        raise ValueError(f"a shape of {dims[:4]} ...")
    return dims
