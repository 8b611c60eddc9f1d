"""Rasters made on disc, and narrow networks to label them."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch

from fullconv.nn import build
from fullconv.segmenter import Segmenter
from networks import enliven

PLACE = rasterio.Affine(0.5, 0, 440720, 0, -0.5, 5100000)
CLASSES = ("ground", "water", "roof")
NETS = {
    "tiny": ("fcn8s", 0.25, "tiny"), "resnet18": ("fcn16s", 1 / 16, "resnet18"), "phase 15.5": ("fcn32s", 1 / 32, "vgg16"),
    "by size": ("torchvision-fcn_resnet50", 1 / 16, None), "pad 100, border zero": ("voc-fcn8s", 1 / 32, None),
}  # fmt: skip
"""One network of each rule of upsampling and padding: variant, width, backbone."""


def orthophoto(height: int, width: int, bands: int = 3, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    """Blots of several sizes, (bands, H, W)."""
    draw = np.random.default_rng(seed)
    total = np.zeros((bands, height, width))
    for step in (3, 11, 37):
        coarse = draw.random((bands, -(-height // step), -(-width // step)))
        total += coarse.repeat(step, axis=1).repeat(step, axis=2)[:, :height, :width]
    top = {"uint8": 255, "uint16": 65535, "int16": 30000}.get(dtype, 1.0)
    return (total / 3 * top).astype(dtype)


def write_raster(path: Path, array: np.ndarray, mask: np.ndarray | None = None, **profile: Any) -> Path:
    """Write an array (bands, H, W) as a raster with a place on Earth; returns its path."""
    colors = profile.pop("colorinterp", None)
    settings = {
        "driver": "GTiff", "height": array.shape[1], "width": array.shape[2], "count": array.shape[0],
        "dtype": array.dtype.name, "crs": "EPSG:32632", "transform": PLACE, "tiled": True, "blockxsize": 128,
        "blockysize": 64, **profile,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **settings) as file:
            if colors is not None:
                file.colorinterp = colors
            file.write(array)
            if mask is not None:
                file.write_mask(mask)
    return path


def labels_of(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path) as file:
            return file.read(1)


def narrow(variant: str, width: float, backbone: str | None = None, channels: int = 3) -> Segmenter:
    torch.manual_seed(0)
    network = enliven(build(variant, backbone=backbone, num_classes=3, in_channels=channels, width=width))
    return Segmenter.from_network(network, CLASSES, palette=[(10, 20, 30), (0, 0, 250), (200, 60, 40)], device="cpu")


@cache
def cached(name: str) -> Segmenter:
    """One of `NETS`; shared, so never to be changed."""
    return narrow(*NETS[name])


def whole_labels(model: Segmenter, bands: np.ndarray) -> np.ndarray:
    """The label map of an image (bands, H, W) without tiles."""
    return model.predict(np.ascontiguousarray(np.moveaxis(bands, 0, -1)), tile="none").label_map
