"""One image file of every kind of encoding that people have, with the pixels that it must be read as where these are exact."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import tifffile
from numpy.typing import NDArray
from PIL import Image

from synthetic.images import ADOBE, png, profile

HEIGHT, WIDTH = 40, 56
Written = tuple[NDArray[Any] | None, NDArray[np.bool_] | None]
"""The values (H, W, C) that must be read, None where they are lossy or need a library's colours; and where there are no data."""


@dataclass(frozen=True)
class Kind:
    """A kind of image file."""

    suffix: str
    write: Callable[[Path, np.random.Generator], Written]
    channels: int = 3


def scene(rng: np.random.Generator, channels: int = 3, most: int = 255) -> NDArray[Any]:
    """A smooth scene with some noise, (H, W, C) from 0 to most, without 0 itself."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [np.sin(y / (5 + c) + rng.uniform(0, 6)) + np.cos(x / (7 + c) + rng.uniform(0, 6)) for c in range(channels)]
    values = (np.stack(waves, -1) + 2) / 4 * 0.9 + rng.uniform(0, 0.05, (HEIGHT, WIDTH, channels))
    values = np.clip(values * most, 1, most)
    return values.astype(np.uint8 if most < 256 else np.uint16)


def gdal(path: Path, values: NDArray[Any], masks: Any = None, **options: Any) -> None:
    """Write (H, W, C) by GDAL."""
    geo = {"transform": rasterio.Affine(0.5, 0, 500000, 0, -0.5, 5400000), "crs": "EPSG:32632"}
    height, width, count = values.shape
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=options.pop("internal_mask", True)),
        rasterio.open(
            path, "w", driver="GTiff", height=height, width=width, count=count, dtype=values.dtype, **{**geo, **options}
        ) as file,
    ):
        file.write(np.moveaxis(values, -1, 0))
        if masks is not None:
            file.write_mask(masks)


def by_gdal(channels: int = 3, dtype: str = "uint8", exact: bool = True, **options: Any) -> Kind:
    def write(path: Path, rng: np.random.Generator) -> Written:
        most = 255 if np.dtype(dtype).itemsize == 1 else 4095
        values = scene(rng, channels, most)
        values = (values // 2).astype(dtype) if dtype == "int8" else values.astype(dtype)
        if options.get("nbits"):
            values = values >> (8 if values.dtype == np.uint8 else 12) - min(options["nbits"], 12)
        gdal(path, values, **options)
        if options.get("nbits") and options["nbits"] < 8:
            values = (values.astype(int) * 255 // ((1 << options["nbits"]) - 1)).astype(np.uint8)
        if dtype not in ("uint8", "uint16", "float32"):
            values = values.astype(np.float32)
        return (values if exact else None), None

    return Kind(".tif", write, channels)


def by_pillow(
    suffix: str,
    mode: str = "RGB",
    channels: int = 3,
    exact: bool = True,
    exif: int = 1,
    icc: Any = None,
    **options: Any,
) -> Kind:
    def write(path: Path, rng: np.random.Generator) -> Written:
        image = Image.fromarray(scene(rng)).convert(mode)
        if mode == "P":
            image = Image.fromarray(scene(rng)).quantize(32)
        if exif != 1:
            tags = Image.Exif()
            tags[274] = exif
            options["exif"] = tags
        extra = {"icc_profile": profile(icc)} if icc else {}
        image.save(path, **options, **extra)
        known = exact and exif == 1 and not icc
        values = np.asarray(image.convert("RGB") if mode == "P" else image)
        return (values.reshape(*values.shape[:2], -1) if known else None), None

    return Kind(suffix, write, channels)


def by_tifffile(
    channels: int = 3, dtype: str = "uint8", orientation: int = 1, exact: bool = True, **options: Any
) -> Kind:
    def write(path: Path, rng: np.random.Generator) -> Written:
        values = scene(rng, channels, 255 if dtype == "uint8" else 4095).astype(dtype)
        tags = [(274, 3, 1, orientation, True)] if orientation != 1 else []
        stored = values[..., 0] if channels == 1 else values
        stored = np.moveaxis(stored, -1, 0) if options.get("planarconfig") == "separate" else stored
        tifffile.imwrite(path, stored, extratags=tags, **options)
        expected = values.astype(np.float32) if dtype in ("int16", "int32", "float16", "float64") else values
        return (expected if exact and orientation == 1 else None), None

    return Kind(".tif", write, channels)


def _nodata(value: float, dtype: str = "uint8") -> Kind:
    def write(path: Path, rng: np.random.Generator) -> Written:
        values = scene(rng, 3, 255 if dtype == "uint8" else 4095).astype(dtype)
        hole = np.zeros((HEIGHT, WIDTH), bool)
        hole[5:12, 8:30] = True
        values[hole] = value
        values[20, 20, 1] = value  # in one band only: the pixel has data
        gdal(path, values, nodata=value)
        return (values.astype(np.float32) if dtype == "int16" else values), hole

    return Kind(".tif", write)


def _masked(internal: bool) -> Kind:
    def write(path: Path, rng: np.random.Generator) -> Written:
        values = scene(rng)
        hole = np.zeros((HEIGHT, WIDTH), bool)
        hole[3:9, 20:40] = True
        gdal(path, values, masks=~hole, internal_mask=internal)
        return values, hole

    return Kind(".tif", write)


def _not_a_number(path: Path, rng: np.random.Generator) -> Written:
    values = scene(rng, 3).astype(np.float32)
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[30:36, 2:9] = True
    values[hole] = np.nan
    gdal(path, values)
    return values, hole


def _alpha_of_a_geotiff(path: Path, rng: np.random.Generator) -> Written:
    values = np.dstack([scene(rng), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[:7, :9] = True
    values[hole] = 0
    gdal(path, values, photometric="RGB", alpha="YES")
    return values[..., :3], hole


def _with_profile(photometric: str) -> Kind:
    def write(path: Path, rng: np.random.Generator) -> Written:
        grey = photometric == "minisblack"
        values = scene(rng, 1)[..., 0] if grey else scene(rng)
        tifffile.imwrite(path, values, photometric=photometric, iccprofile=profile(None if grey else ADOBE))
        return None, None

    return Kind(".tif", write, 1 if photometric == "minisblack" else 3)


def _min_is_white(path: Path, rng: np.random.Generator) -> Written:
    values = scene(rng, 1)
    tifffile.imwrite(path, 255 - values[..., 0], photometric="miniswhite")
    return values, None


def _palette(path: Path, rng: np.random.Generator) -> Written:
    table = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    indices = scene(rng, 1)[..., 0]
    tifffile.imwrite(path, indices, photometric="palette", colormap=table.T.astype(np.uint16) * 257)
    return table[indices], None


def _one_bit(path: Path, rng: np.random.Generator) -> Written:
    values = scene(rng, 1)[..., 0] > 128
    Image.fromarray(values).save(path, compression="group4")
    return (values * np.uint8(255))[..., None], None


def _multi_page(path: Path, rng: np.random.Generator) -> Written:
    first, second = scene(rng), scene(rng)
    with tifffile.TiffWriter(path) as file:
        file.write(first, photometric="rgb")
        file.write(second, photometric="rgb")
    return first, None


def _cloud_optimised(path: Path, rng: np.random.Generator) -> Written:
    values = scene(rng)
    gdal(path, values, tiled=True, blockxsize=16, blockysize=16, compress="deflate")
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4])
    return values, None


def _infrared_beside(extra: str) -> Kind:
    def write(path: Path, rng: np.random.Generator) -> Written:
        values = scene(rng, 4)
        tifffile.imwrite(path, values, photometric="rgb", extrasamples=[extra])
        return values, None

    return Kind(".tif", write, 4)


def _deep_png(path: Path, rng: np.random.Generator) -> Written:
    values = scene(rng, 3, 65535)
    path.write_bytes(png(values, 2, 16))
    return values, None


def _png_with_alpha(path: Path, rng: np.random.Generator) -> Written:
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:5] = 0
    values = np.dstack([scene(rng), alpha])
    Image.fromarray(values).save(path)
    return np.where(alpha[..., None] == 0, np.uint8(255), values[..., :3]), None


def _heic(path: Path, rng: np.random.Generator) -> Written:
    import pillow_heif

    data = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(scene(rng))).save(data, quality=90)
    path.write_bytes(data.getvalue())
    return None, None


KINDS: dict[str, Kind] = {
    "chunky": by_gdal(interleave="pixel"),
    "planar": by_gdal(interleave="band"),
    "strips of one row": by_gdal(blockysize=1),
    "tiles": by_gdal(tiled=True, blockxsize=16, blockysize=16),
    "planar tiles": by_gdal(tiled=True, blockxsize=16, blockysize=16, interleave="band"),
    "deflate, predictor 2": by_gdal(compress="deflate", predictor=2),
    "lzw, predictor 2": by_gdal(compress="lzw", predictor=2),
    "packbits": by_gdal(compress="packbits"),
    "zstd": by_gdal(compress="zstd"),
    "BigTIFF": by_gdal(bigtiff="YES"),
    "big-endian": by_gdal(endianness="BIG"),
    "YCbCr JPEG": by_gdal(exact=False, compress="jpeg", photometric="ycbcr"),
    "RGB JPEG": by_gdal(exact=False, compress="jpeg", photometric="rgb"),
    "one band": by_gdal(1),
    "one band of 1 bit": by_gdal(1, nbits=1),
    "one band of 2 bits": by_gdal(1, nbits=2),
    "one band of 4 bits": by_gdal(1, nbits=4),
    "fax": Kind(".tif", _one_bit, 1),
    "int8": by_gdal(1, "int8"),
    "12 bits": by_gdal(1, "uint16", nbits=12),
    "uint16": by_gdal(3, "uint16"),
    **{f"planar {dtype} of one band": by_gdal(1, dtype, interleave="band") for dtype in ("uint8", "uint16", "float32")},
    "planar one band of 1 bit": by_gdal(1, interleave="band", nbits=1),
    "int16": by_gdal(3, "int16"),
    "int32": by_gdal(1, "int32"),
    "uint32": by_gdal(1, "uint32"),
    "float16": by_tifffile(1, "float16"),
    "float32": by_gdal(3, "float32"),
    "float32, predictor 3": by_gdal(3, "float32", compress="deflate", predictor=3),
    "float64": by_gdal(3, "float64"),
    "four bands": by_gdal(4, photometric="minisblack"),
    "seven bands": by_gdal(7, "uint16", interleave="band"),
    "unspecified fourth sample": _infrared_beside("unspecified"),
    "alpha 0 of a GeoTIFF": Kind(".tif", _alpha_of_a_geotiff),
    "MinIsWhite": Kind(".tif", _min_is_white, 1),
    "palette": Kind(".tif", _palette),
    "CMYK": by_pillow(".tif", "CMYK", exact=False),
    "Lab": by_tifffile(exact=False, photometric="cielab"),
    "RGB with a profile": _with_profile("rgb"),
    "grey with a profile": _with_profile("minisblack"),
    "nodata 0": _nodata(0),
    "nodata -9999": _nodata(-9999, "int16"),
    "nodata of floats": _nodata(-3.4e38, "float32"),
    "mask of the data set": _masked(True),
    "mask beside the file": _masked(False),
    "NaN": Kind(".tif", _not_a_number),
    "pages": Kind(".tif", _multi_page),
    "COG": Kind(".tif", _cloud_optimised),
    **{f"orientation {n}": by_tifffile(orientation=n, photometric="rgb") for n in range(2, 9)},
    "planar, orientation 6": by_tifffile(orientation=6, photometric="rgb", planarconfig="separate"),
    "PNG": by_pillow(".png"),
    "PNG of 16 bits": Kind(".png", _deep_png),
    "PNG with alpha": Kind(".png", _png_with_alpha),
    "PNG with a palette": by_pillow(".png", "P"),
    "PNG with a profile": by_pillow(".png", icc=ADOBE),
    "grey PNG": by_pillow(".png", "L", 1),
    "JPEG": by_pillow(".jpg", exact=False),
    "JPEG, orientation 6": by_pillow(".jpg", exact=False, exif=6),
    "progressive JPEG": by_pillow(".jpg", exact=False, progressive=True),
    "CMYK JPEG": by_pillow(".jpg", "CMYK", exact=False),
    "JPEG with a profile": by_pillow(".jpg", exact=False, icc=ADOBE),
    "WebP": by_pillow(".webp", lossless=True),
    "GIF": by_pillow(".gif", "P"),
    "BMP": by_pillow(".bmp"),
    "JPEG 2000": by_pillow(".jp2", irreversible=False),
    "HEIC": Kind(".heic", _heic),
}
