"""From a file, bytes, a PIL image or an array to (H, W, C); colour profiles are converted to sRGB, as most images are stored."""

from __future__ import annotations

import io
import os
import stat
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from fullconv.errors import FullconvError, InputError, MissingExtraError, first_line
from fullconv.images import jpeg, png, tiff
from fullconv.images.limits import ImageError, check_pixels, max_pixels
from fullconv.profiling import DECODING, open_binary, timed

Source = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]

_AS_STORED = {"uint8": np.uint8, "uint16": np.uint16, "float32": np.float32}
_TO_FLOAT = ("int8", "int16", "int32", "uint32", "float16", "float64")
_FIX = "Copy or export it again, or remove it"
_MAGIC = (png.SIGNATURE, jpeg.START, b"GIF8", b"BM", b"RIFF", *tiff.MAGIC)
_MOST_A_PIXEL = 16  # bytes of a JPEG, and how many more may lie beside them: a film, or nothing that was ever written
_MOST_BESIDE = 64 << 20
_TURNED = range(2, 9)
_bomb_lock = threading.Lock()
_SAME_COLOUR = 2
"""A profile that changes no colour by more than this is sRGB with other roundings, and is ignored."""
_STEPS = np.linspace(0, 255, 9).astype(np.uint8)


def read_image(source: Source) -> NDArray[Any]:
    """Read an image with the values of its file.

    EXIF orientation is applied. Palettes become RGB, CMYK and YCbCr become RGB, 8-bit colours with a profile become
    sRGB, alpha is composited on white (a TIFF keeps all its bands instead, as a fourth one is often infrared). Of several
    frames or pages the first is read. A truncated or damaged file is an error, never filled in.

    Args:
        source: A path, the bytes of a file, a PIL image, or an array (H, W) or (H, W, C).

    Returns:
        (H, W, C) uint8, uint16 or float32; signed or 32-bit integers and other floats become float32.

    Raises:
        InputError: It is missing, empty, damaged, no image, or larger than FULLCONV_MAX_PIXELS.
        MissingExtraError: It needs a reader that is not installed (multi-band TIFF, HEIC).
    """
    if isinstance(source, np.ndarray):
        return to_hwc(source, "array")
    if isinstance(source, Image.Image):
        where = getattr(source, "filename", "") or "image"
        return to_hwc(_decode_safely(source, None, b"", where, to_array), where)
    if not isinstance(source, (str, bytes, os.PathLike)):
        raise InputError(
            f"expected an image as a path, a PIL image or an array (H, W, C), not {type(source).__name__}."
        )
    where = "bytes" if isinstance(source, bytes) else str(Path(source))
    return to_hwc(decode(source, where, to_array), where)


def decode(
    source: str | os.PathLike[str] | bytes, where: str, convert: Callable[[Image.Image], NDArray[Any]]
) -> NDArray[Any]:
    """Decode a file with all checks, and convert the loaded PIL image to an array.

    Files that need the TIFF or deep PNG reader return its array (H, W, C), without `convert`.
    """
    with timed(DECODING), open_source(source) as file:
        start = file.read(32)
        _check_start(start, where)
        if png.is_deep_color(start):
            return _read_deep_png(file, start, where)
        with open_image(file, start, where) as image:
            if image is None:
                file.seek(0)
                return tiff.read(file, where)
            return _decode_safely(image, file, start, where, convert)


def image_size(source: str | os.PathLike[str] | bytes) -> tuple[int, int]:
    """Return (height, width) after EXIF orientation, from the header alone."""
    where = "bytes" if isinstance(source, bytes) else str(Path(source))
    with open_source(source) as file:
        start = file.read(32)
        _check_start(start, where)
        with open_image(file, start, where) as image:
            if image is None:
                file.seek(0)
                return tiff.size(file, where)
            if image.format == "TIFF":  # Pillow turns the size itself, but only in newer versions
                return tiff.tagged_size(image)
            turned = _orientation(image, file, start) in (5, 6, 7, 8)
            return (image.width, image.height) if turned else (image.height, image.width)


def to_hwc(array: NDArray[Any], where: str) -> NDArray[Any]:
    """Return an array as (H, W, C) uint8, uint16 or float32."""
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise InputError(
            f"{where}: an image has the shape (H, W) or (H, W, C) and at least one pixel, not {array.shape}."
        )
    image = array[..., None] if array.ndim == 2 else array
    name = image.dtype.newbyteorder("=").name
    if name in _AS_STORED:
        stored: NDArray[Any] = np.ascontiguousarray(image, dtype=_AS_STORED[name])
        return stored if stored.flags.writeable else stored.copy()  # torch warns of arrays that it must not write to
    if name == "bool":
        return np.where(image, 255, 0).astype(np.uint8)
    if name in _TO_FLOAT:
        return np.ascontiguousarray(image, dtype=np.float32)
    raise InputError(f"{where}: {name} cannot be an image. Convert it to uint8, uint16 or float32.")


@contextmanager
def open_source(source: str | os.PathLike[str] | bytes) -> Iterator[IO[bytes]]:
    """Open a path or bytes for reading; never blocks on a pipe."""
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    path = Path(source)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise ImageError("not-a-picture", f"{path}: is {kind}, not an image. Use an image file.")
        file = open_binary(path)
    except FileNotFoundError:
        raise ImageError("missing-file", f"{path}: no such file. Check the name.") from None
    except OSError as error:
        raise ImageError(
            "unreadable", f"{path}: cannot be read ({error.strerror or error}). Check its permissions."
        ) from error
    except ImageError:
        raise
    except ValueError as error:  # a NUL in the name
        raise InputError(f"{source!r}: cannot be a file name ({error}).") from error
    with file:
        yield file


def _check_start(start: bytes, where: str) -> None:
    if not start:
        raise ImageError("empty-file", f"{where}: is empty (0 bytes). {_FIX}.")
    if not start.strip(b"\0"):
        raise ImageError("truncated", f"{where}: begins with zeros: its content was lost. {_FIX}.")
    if start.startswith(b"version https://git-lfs"):
        raise ImageError("not-a-picture", f"{where}: is a Git LFS pointer, not the image itself. Run: git lfs pull")


@contextmanager
def open_image(file: IO[bytes], start: bytes, where: str) -> Iterator[Image.Image | None]:
    """Read an image's header; None means that the TIFF reader is needed.

    Pillow's own limit is replaced by `max_pixels`, which the user can raise; as it is a global, under a lock.
    """
    file.seek(0)
    try:
        image = _open_unlimited(file)
    except UnidentifiedImageError:
        if start.startswith(tiff.MAGIC):
            yield None
            return
        image = _open_heif(file, start, where)
    except Exception as error:  # Pillow's plugins raise whatever a damaged header makes them
        raise _damage(error, where, file, start, "its header is damaged") from error
    with image:
        check_pixels(image.height, image.width, where)
        png.keep_small_grey(image)
        yield None if image.format == "TIFF" and tiff.needs_tifffile(image) else image


@contextmanager
def _no_pillow_limit() -> Iterator[None]:
    with _bomb_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _open_unlimited(file: IO[bytes]) -> Image.Image:
    with _no_pillow_limit():
        return Image.open(file)


def _open_heif(file: IO[bytes], start: bytes, where: str) -> Image.Image:
    if start[4:8] == b"ftyp" and start[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim", b"heis"):
        try:
            import pillow_heif
        except ImportError:
            raise MissingExtraError("pillow-heif", "formats", f"{where}: a HEIC image") from None
        pillow_heif.register_heif_opener()
        file.seek(0)
        try:
            return _open_unlimited(file)
        except Exception as error:
            raise ImageError("unreadable", f"{where}: its header is damaged ({first_line(error)}). {_FIX}.") from error
    if start[4:12] in (b"ftypavif", b"ftypavis"):
        raise ImageError(
            "needs-extra",
            f"{where}: is an AVIF image, which this Pillow cannot read. Run: pip install --upgrade pillow",
        )
    if start.startswith(_MAGIC):
        raise ImageError("unreadable", f"{where}: its header is damaged. {_FIX}.")
    kind = "a text file, not an image," if start.isascii() and start[:1].isalnum() else "not a readable image,"
    raise ImageError("not-a-picture", f"{where}: is {kind} despite its name. Replace it with an image, or remove it.")


def _decode_safely(
    image: Image.Image, file: IO[bytes] | None, start: bytes, where: str, convert: Callable[[Image.Image], NDArray[Any]]
) -> NDArray[Any]:
    try:
        unwritten = png.mark_unwritten(image) if file is not None and start.startswith(png.SIGNATURE) else None
        _load(image)
        doubtful = unwritten is not None and _may_miss_rows(image, start, unwritten)
        array = convert(image)
    except (FullconvError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and more on damaged data
        raise _damage(error, where, file, start) from error
    if doubtful and file is not None and _is_short(file, start, where):
        raise _too_few_rows(where)
    if unwritten is not None and file is not None and png.is_lost(file):
        raise ImageError("truncated", f"{where}: ends in zeros, so part of its content was lost. {_FIX}.")
    if file is not None and start.startswith(jpeg.START):
        file.seek(0)
        corner = np.asarray(image.crop((max(0, image.width - 8), max(0, image.height - 4), image.width, image.height)))
        pixels = _plain(image) if jpeg.is_doubtful(corner) else corner  # an array of it all takes as long as decoding
        data = file.read(_MOST_A_PIXEL * image.width * image.height + _MOST_BESIDE)
        end = jpeg.end_of_data(data)
        if jpeg.data_is_short(data, end, pixels, lambda data: _plain(_open_unlimited(io.BytesIO(data)))):
            raise _too_few_rows(where)
        if (damage := jpeg.detect_corruption(data, end)) is not None:
            raise ImageError("unreadable", f"{where}: {damage}. {_FIX}.")
    return array


def _plain(image: Image.Image) -> NDArray[Any]:
    _load(image)
    return np.asarray(image)


def _load(image: Image.Image) -> None:
    # some decoders check Pillow's own limit again
    is_small = image.width * image.height <= (Image.MAX_IMAGE_PIXELS or max_pixels())
    with nullcontext() if is_small else _no_pillow_limit():
        image.load()


def _may_miss_rows(image: Image.Image, start: bytes, unwritten: int) -> bool:
    """Return whether the last row of a loaded PNG may be missing from its data; always for an interlaced one."""
    found = png.header(start)
    if found is None or found[4]:
        return found is not None
    corner: Any = image.im.getpixel((0, image.height - 1))
    if any(channel != unwritten for channel in (corner if isinstance(corner, tuple) else (corner,))):
        return False
    last = image.crop((0, image.height - 1, image.width, image.height))
    return bool((np.asarray(last) == unwritten).all())


def to_array(image: Image.Image) -> NDArray[Any]:
    """Convert a loaded PIL image of any mode to (H, W) or (H, W, C), with its orientation applied, in sRGB."""
    deep = image.mode == "I" and image.format == "PNG"
    if "grey_bits" in image.info and "transparency" not in image.info:
        image = image.convert("L")
    clear = image.info.get("transparency")
    if image.getexif().get(ExifTags.Base.Orientation, 1) in _TURNED:  # else it would only be copied
        image = ImageOps.exif_transpose(image)
    if deep or image.mode.startswith("I;16"):  # older Pillow reads 16-bit PNG as 32-bit integers
        numbers = np.asarray(image)
        return png.with_transparent_white(numbers.astype(np.uint16), clear) if deep or clear is not None else numbers
    image = to_srgb(image)
    if image.mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        grey = image.mode in ("LA", "La", "L", "1") or "grey_bits" in image.info
        flat = image = image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            flat = Image.new("RGBA", image.size, (255, 255, 255, 255))
            flat.alpha_composite(image)
        return np.asarray(flat.getchannel(0) if grey else flat.convert("RGB"))
    if image.mode in ("L", "RGB", "F", "I"):
        return np.asarray(image)
    return np.asarray(image.convert("L" if image.mode == "1" else "RGB"))


def _read_deep_png(file: IO[bytes], start: bytes, where: str) -> NDArray[Any]:
    file.seek(0)
    data = file.read()
    with open_image(io.BytesIO(data), start, where) as image, open_image(io.BytesIO(data), start, where) as again:
        assert image is not None  # only TIFF gives None
        assert again is not None
        orientation = _orientation(image, io.BytesIO(data), start)
        try:
            array = png.read_deep_color(image, again, start)
            array = png.with_transparent_white(array, image.info.get("transparency"))
        except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
            raise _damage(error, where, file, start) from error
    if not array[-1].any() and _is_short(io.BytesIO(data), start, where):
        raise _too_few_rows(where)
    return tiff.apply_orientation(png.without_alpha(array), orientation)


def _damage(
    error: Exception, where: str, file: IO[bytes] | None, start: bytes, what: str = "cannot be decoded"
) -> ImageError:
    if file is not None and start.startswith(png.SIGNATURE) and png.is_cut(file):
        return ImageError("truncated", f"{where}: is truncated: its data end in the middle. {_FIX}.")
    code = "truncated" if "truncated" in str(error) else "unreadable"
    return ImageError(code, f"{where}: {what} ({first_line(error)}). {_FIX}.")


def _is_short(file: IO[bytes], start: bytes, where: str) -> bool:
    try:
        return png.data_is_short(file, start)
    except zlib.error as error:  # a wrong checksum, which Pillow ignores
        raise _damage(error, where, file, start) from error


def _too_few_rows(where: str) -> ImageError:
    return ImageError("truncated", f"{where}: is truncated: it has fewer rows than its header. {_FIX}.")


def _orientation(image: Image.Image, file: IO[bytes], start: bytes) -> int:
    if start.startswith(png.SIGNATURE) and not png.has_exif(file):
        return 1
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF is ignored, as in read_image
        return 1


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
