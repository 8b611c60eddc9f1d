"""Colour profiles are converted to sRGB, as most images are stored; CMYK and Lab to RGB."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

_SAME_COLOUR = 2
"""A profile that changes no colour by more than this is sRGB with other roundings, and is ignored."""
_STEPS = np.linspace(0, 255, 9).astype(np.uint8)


def has_foreign_profile(image: Image.Image) -> bool:
    """Return whether an image's profile is not sRGB, so that `to_srgb` changes it."""
    profile = image.info.get("icc_profile")
    return bool(profile) and isinstance(profile, bytes) and _change(profile, _plain_mode(image)) is not None


def to_srgb(image: Image.Image) -> Image.Image:
    """Convert a loaded 8-bit image to sRGB; without a profile, or with a damaged one, it is returned unchanged.

    Grey stays grey, alpha stays alpha, CMYK becomes RGB.
    """
    if image.mode == "LAB":
        from_lab = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
        changed = ImageCms.applyTransform(image, from_lab)
        assert changed is not None
        return changed
    profile = image.info.get("icc_profile")
    if not profile or not isinstance(profile, bytes) or (change := _change(profile, _plain_mode(image))) is None:
        return image
    if isinstance(change, bytes):  # grey by grey
        return image.point(list(change) + (list(range(256)) if image.mode == "LA" else []))
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")

    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    changed = ImageCms.applyTransform(image.convert("RGB") if alpha is not None else image, change)
    assert changed is not None  # only where it works in place
    if alpha is not None:
        changed.putalpha(alpha)
    return changed


def changes_rgb(profile: bytes | None) -> bool:
    """Return whether the colours of RGB with a profile differ from sRGB."""
    return bool(profile) and isinstance(profile, bytes) and _change(profile, "RGB") is not None


def array_to_srgb(array: NDArray[Any], mode: str, profile: bytes | None) -> NDArray[np.uint8]:
    """Convert (H, W, C) uint8 of mode "RGB", "CMYK" or "LAB" (as TIFF stores it) to sRGB, (H, W, 3)."""
    data = np.ascontiguousarray(array, np.uint8)
    size = data.shape[1], data.shape[0]
    if mode == "LAB":
        image = Image.frombytes("LAB", size, data.tobytes(), "raw", "LAB")
    else:
        image = Image.frombytes(mode, size, data.tobytes())
    if profile:
        image.info["icc_profile"] = profile
    return np.asarray(to_srgb(image).convert("RGB"))


def grey_to_srgb(plane: NDArray[np.uint8], profile: bytes | None) -> NDArray[np.uint8]:
    """Convert grey (H, W) uint8 with a profile to the greys of sRGB."""
    change = _change(profile, "L") if profile else None
    return np.frombuffer(change, np.uint8)[plane] if isinstance(change, bytes) else plane


def _plain_mode(image: Image.Image) -> str:
    return {"L": "L", "LA": "L", "CMYK": "CMYK", **dict.fromkeys(("RGB", "RGBA", "P", "PA"), "RGB")}.get(image.mode, "")


@lru_cache(maxsize=64)
def _change(profile: bytes, mode: str) -> Any:
    """Return a transform to sRGB, 256 greys as bytes, or None where nothing changes."""
    if not mode:
        return None
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(own, ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode == "CMYK":
            return transform
        if mode == "L":
            ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
            greys = np.asarray(ImageCms.applyTransform(ramp, transform))[0, :, 1]
            return None if _is_same(greys, np.arange(256)) else greys.tobytes()
        grid = np.stack(np.meshgrid(_STEPS, _STEPS, _STEPS), axis=-1).reshape(1, -1, 3)
        changed = np.asarray(ImageCms.applyTransform(Image.fromarray(grid), transform))
        return None if _is_same(changed, grid) else transform
    except (ImportError, OSError, ValueError):  # PyCMSError is none of these in old versions
        return None
    except Exception as error:
        if type(error).__name__ == "PyCMSError":  # a damaged profile, or one of another type of image
            return None
        raise


def _is_same(one: Any, other: Any) -> bool:
    return int(np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max()) <= _SAME_COLOUR
