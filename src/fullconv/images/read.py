"""From a file, bytes, a PIL image or an array to (H, W, C); colour profiles are converted to sRGB, as most images are stored."""

from __future__ import annotations

import io
import os
import stat
import struct
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from fullconv.errors import FullconvError, InputError, MissingExtraError, first_line, plural
from fullconv.images import jpeg, png, tiff
from fullconv.images.colour import to_srgb
from fullconv.images.limits import ImageError, check_pixels, max_pixels
from fullconv.images.pixels import (
    AlphaCount,
    ImageFile,
    Pixels,
    Window,
    apply_orientation,
    check_bands,
    first_of_notice,
    has_no_value,
    not_finite_notice,
    to_hwc,
)
from fullconv.notices import Notice
from fullconv.profiling import DECODING, open_binary, timed

Source = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]

_FIX = "Copy or export it again, or remove it"
_MAGIC = (png.SIGNATURE, jpeg.START, b"GIF8", b"BM", b"RIFF", *tiff.MAGIC)
_MOST_A_PIXEL = 16  # bytes of a JPEG, and how many more may lie beside them: a film, or nothing that was ever written
_MOST_BESIDE = 64 << 20
_TURNED = range(2, 9)
_COLOURS = (1, 3, 4)  # channels of common images
_MIN_SIDE = 16  # pixels; of an array with the channels first, no images have so many bands and so few rows
_bomb_lock = threading.Lock()


def read_image(source: Source) -> NDArray[Any]:
    """Read an image with the values of its file.

    Orientation is applied. Palettes, CMYK, Lab and YCbCr become RGB, 8-bit colours with a profile become sRGB. Alpha is
    composited on white; in a TIFF it masks pixels and is omitted, while bands of no stated meaning, often infrared, are
    bands. Of several frames or pages the first is read. A truncated or damaged file is an error, never filled in.

    Args:
        source: A path, the bytes of a file, a PIL image, an array (H, W) or (H, W, C), or a torch tensor (H, W) or (C, H, W).

    Returns:
        (H, W, C) uint8, uint16 or float32; signed or 32-bit integers and other floats become float32.

    Raises:
        InputError: It is missing, empty, damaged, no image, or larger than FULLCONV_MAX_PIXELS.
        MissingExtraError: It needs a reader that is not installed (multi-band TIFF, HEIC).
    """
    return read_pixels(source).values


def read_pixels(
    source: Source, bands: Sequence[int] | None = None, channels: int | None = None, first_look: bool = True
) -> Pixels:
    """Read an image as `read_image` does, with the pixels that have no data.

    Args:
        source: A path, the bytes of a file, a PIL image, an array (H, W) or (H, W, C), or a torch tensor (H, W) or (C, H, W).
        bands: Numbers of the bands of a file to read, from 1; None for all but alpha. Those of an array are all.
        channels: What a network takes; where a TIFF has as many bands with alpha, alpha is a band, too, and an array of as
            many at its end has no others at its start.
        first_look: Whether to search a JPEG for damage that decoders silently read; False where that was done before.
    """
    if isinstance(source, (str, bytes, os.PathLike)):
        with open_image_file(source, first_look) as file:
            return file.read(None, file.choose_bands(bands, channels))
    source = as_array(source)
    if not isinstance(source, (np.ndarray, Image.Image)):
        raise InputError(
            f"expected an image as a path, a PIL image or an array (H, W, C), not {type(source).__name__}."
        )
    where = "array"
    if isinstance(source, Image.Image):
        where = getattr(source, "filename", "") or "image"
        return from_layers(_decode_safely(source, None, b"", where, to_layers), where, bands)
    values = to_hwc(source, where)
    count, *sides = values.shape
    if source.ndim == 3 and count in _COLOURS and min(sides) >= _MIN_SIDE and values.shape[2] != channels:
        raise InputError(
            f"array: has the shape {source.shape}, as of {plural(count, 'channel')} first; an image has the shape (H, W, C)."
            " Give np.moveaxis(image, 0, -1)."
        )
    none = has_no_value(values)
    return Pixels(values, none, None, () if none is None else (not_finite_notice(where),))


def as_array(source: Any) -> Any:
    """Return a torch tensor (H, W) or (C, H, W), which may have a batch axis of 1, as an array; all others as they are."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(source, torch.Tensor):
        return source
    tensor: Any = source.detach().cpu()
    tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    tensor = tensor[0] if tensor.ndim == 4 and len(tensor) == 1 else tensor
    shape = tuple(tensor.shape)
    if len(shape) == 3 and shape[2] in _COLOURS and shape[0] not in _COLOURS:
        raise InputError(
            f"tensor: has the shape {shape}; an image as a tensor has the shape (C, H, W). Give image.numpy()."
        )
    return (tensor.movedim(0, -1) if len(shape) == 3 else tensor).numpy()


def open_image_file(source: str | os.PathLike[str] | bytes, first_look: bool = True) -> ImageFile:
    """Open an image file, to be read whole or by windows.

    Args:
        source: A path or the bytes of a file.
        first_look: Whether to search a JPEG for damage that decoders silently read.

    Raises:
        InputError: It is missing, empty, damaged, no image, or larger than FULLCONV_MAX_PIXELS.
        MissingExtraError: It needs a reader that is not installed.
    """
    where = "bytes" if isinstance(source, bytes) else str(Path(source))
    with timed(DECODING), open_source(source) as file:
        start = file.read(32)
        _check_start(start, where)
        if start.startswith(tiff.MAGIC):
            return tiff.open_tiff(source if isinstance(source, bytes) else Path(source), where)
    return PillowImage(source, where, first_look)


def is_raster(path: Path) -> bool:
    """Return whether a readable file is of none of the formats that are read as images, as a VRT."""
    if not path.is_file():  # to open a pipe would block
        return False
    with path.open("rb") as file:
        start = file.read(32)
    return not start.startswith(_MAGIC) and start[4:8] != b"ftyp"


class PillowImage(ImageFile):
    """An image file that Pillow decodes, the whole at its first reading."""

    def __init__(self, source: str | os.PathLike[str] | bytes, where: str, first_look: bool) -> None:
        self.where, self._source, self._first_look = where, source, first_look
        self._array: NDArray[Any] | None = None
        self._notices: list[Notice] = []
        with open_source(source) as file:
            start = file.read(32)
            with open_image(file, start, where) as image:
                turned = _orientation(image, file, start) in (5, 6, 7, 8)
                self.height, self.width = (image.width, image.height) if turned else (image.height, image.width)
                self.bands, has_alpha = _count_bands(image, start)
                self._first_of = first_of_notice(where, count_frames(image))
        self.alpha = self.bands if has_alpha else None

    def close(self) -> None:
        """Forget the pixels."""
        self._array = None

    def notices(self) -> list[Notice]:
        """Return warnings about all that was read."""
        return self._notices

    def read(self, window: Window | None = None, bands: Sequence[int] | None = None) -> Pixels:
        """Read the image or a window of it; see `ImageFile.read`."""
        if self._array is None:
            with timed(DECODING):
                self._array = decode(self._source, self.where, to_layers, self._first_look)
        pixels = from_layers(self._array, self.where, bands)
        pixels = replace(pixels, notices=(*pixels.notices, *self._first_of))
        self._notices = list(pixels.notices)
        if window is None:
            return pixels
        top, bottom, left, right = window
        place = slice(top, bottom), slice(left, right)
        nodata = None if pixels.nodata is None else pixels.nodata[place]
        return replace(pixels, values=np.ascontiguousarray(pixels.values[place]), nodata=nodata)


def count_frames(image: Image.Image) -> int:
    """Count the frames of an animation; in other files further ones are thumbnails, or a second camera's."""
    return int(getattr(image, "n_frames", 1)) if image.format in ("GIF", "WEBP", "PNG") else 1


def _count_bands(image: Image.Image, start: bytes) -> tuple[int, bool]:
    """Return the number of bands of an opened image as `to_layers` gives them, and whether the last is alpha."""
    found = png.header(start)
    if found is not None and found[2] == 16:  # its transparent colour becomes white
        return {0: 1, 2: 3, 4: 2}.get(found[3], 4), found[3] in (4, 6)
    names = image.getbands()
    has_alpha = names[-1] in ("A", "a") or "transparency" in image.info
    grey = (len(names) <= 2 and image.mode not in ("P", "PA")) or "grey_bits" in image.info
    return (1 if grey else 3) + has_alpha, has_alpha


def from_layers(layers: NDArray[Any], where: str, bands: Sequence[int] | None = None) -> Pixels:
    """Composite (H, W) or (H, W, C), where 2 or 4 channels end with alpha, on white; or select bands as stored."""
    values = to_hwc(layers, where)
    has_alpha = values.shape[2] in (2, 4)
    check_bands(bands, values.shape[2], where)
    if bands is not None and (not has_alpha or values.shape[2] in bands):
        return Pixels(values).select([band - 1 for band in bands])
    none = has_no_value(values)
    notices: tuple[Notice, ...] = () if none is None else (not_finite_notice(where),)
    if has_alpha:
        counted = AlphaCount()
        counted.add(values[..., -1])
        notice = counted.notice(where, values.shape[2], "It is composited on white.")
        notices = () if notice is None else (notice,)
        values = _on_white(values)
    pixels = Pixels(values, none, None, notices)
    return pixels if bands is None else pixels.select([band - 1 for band in bands])


def _on_white(layers: NDArray[Any]) -> NDArray[Any]:
    """Composite (H, W, 2 or 4) uint8 or uint16, whose last channel is alpha, on white."""
    if layers.dtype == np.uint16:
        return png.without_alpha(layers)
    colors = layers[..., :-1]
    if layers[..., -1].min() == 255:
        return np.ascontiguousarray(colors)
    image = Image.fromarray(np.concatenate([np.broadcast_to(colors, (*colors.shape[:2], 3)), layers[..., -1:]], axis=2))
    flat = Image.new("RGBA", image.size, (255, 255, 255, 255))
    flat.alpha_composite(image)
    return np.array(flat)[..., : colors.shape[2]].copy()


def decode(
    source: str | os.PathLike[str] | bytes,
    where: str,
    convert: Callable[[Image.Image], NDArray[Any]],
    first_look: bool = True,
) -> NDArray[Any]:
    """Decode a file with all checks, and convert the loaded PIL image to an array.

    TIFFs that Pillow does not decode, and 16-bit colour PNGs, return an array (H, W, C) as stored, without `convert`.
    """
    with timed(DECODING), open_source(source) as file:
        start = file.read(32)
        _check_start(start, where)
        if png.is_deep_color(start):
            return _read_deep_png(file, start, where)
        if start.startswith(tiff.MAGIC):
            file.seek(0)
            if not tiff.pillow_decodes(tiff.read_layout(file, where)):
                stored = tiff.open_tiff(source if isinstance(source, bytes) else Path(source), where)
                with stored:
                    return stored.read_labels()
        with open_image(file, start, where) as image:
            return _decode_safely(image, file, start, where, convert, first_look)


def read_pages(path: Path, convert: Callable[[Image.Image], NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Decode the pages or frames of a file one by one, without smaller copies and masks, and convert each to an array.

    Raises:
        InputError: The file or a page cannot be read.
    """
    where = str(path)
    with open_source(path) as file:
        start = file.read(32)
        _check_start(start, where)
        with open_image(file, start, where) as image:
            for number in range(getattr(image, "n_frames", 1)):
                try:
                    image.seek(number)
                    if getattr(image, "tag_v2", {}).get(tiff.KIND_TAG, 0) & tiff.NO_PAGE:
                        continue
                    image.load()
                except Exception as error:  # Pillow's decoders raise whatever damaged data make them
                    raise _damage(error, where, file, start, f"page {number + 1} cannot be decoded") from error
                yield convert(image)


def image_size(source: str | os.PathLike[str] | bytes) -> tuple[int, int]:
    """Return (height, width) after EXIF orientation, from the header alone."""
    where = "bytes" if isinstance(source, bytes) else str(Path(source))
    with open_source(source) as file:
        start = file.read(32)
        _check_start(start, where)
        if start.startswith(tiff.MAGIC):
            layout = tiff.read_layout(file, where)
            check_pixels(layout.height, layout.width, where)
            return (
                (layout.width, layout.height) if layout.orientation in (5, 6, 7, 8) else (layout.height, layout.width)
            )
        with open_image(file, start, where) as image:
            turned = _orientation(image, file, start) in (5, 6, 7, 8)
            return (image.width, image.height) if turned else (image.height, image.width)


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
def open_image(file: IO[bytes], start: bytes, where: str) -> Iterator[Image.Image]:
    """Read an image's header.

    Pillow's own limit is replaced by `max_pixels`, which the user can raise; as it is a global, under a lock.
    """
    file.seek(0)
    try:
        image = _open_unlimited(file)
    except UnidentifiedImageError:
        image = _open_heif(file, start, where)
    except Exception as error:  # Pillow's plugins raise whatever a damaged header makes them
        raise _damage(error, where, file, start, "its header is damaged") from error
    with image:
        check_pixels(image.height, image.width, where)
        png.keep_small_grey(image)
        yield image


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
    if start[4:8] == b"ftyp" or start[8:12] == b"AVI " or start.startswith(b"\x1aE\xdf\xa3"):
        raise ImageError("not-a-picture", f"{where}: is a video, not an image. Export its frames as images.")
    if start.startswith(b"%PDF"):
        raise ImageError("not-a-picture", f"{where}: is a PDF document, not an image. Export its pages as images.")
    if start.startswith(_MAGIC):
        raise ImageError("unreadable", f"{where}: its header is damaged. {_FIX}.")
    kind = "a text file, not an image," if start.isascii() and start[:1].isalnum() else "not a readable image,"
    raise ImageError("not-a-picture", f"{where}: is {kind} despite its name. Replace it with an image, or remove it.")


def _decode_safely(
    image: Image.Image,
    file: IO[bytes] | None,
    start: bytes,
    where: str,
    convert: Callable[[Image.Image], NDArray[Any]],
    first_look: bool = True,
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
    if first_look and file is not None and start.startswith(jpeg.START):
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


def to_layers(image: Image.Image) -> NDArray[Any]:
    """Convert a loaded PIL image of any mode to (H, W) or (H, W, C), with its orientation applied, in sRGB.

    The last of 2 or 4 channels is alpha.
    """
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
        layers = np.asarray(image.convert("RGBA"))
        return layers[..., [0, 3]] if grey else layers
    if image.mode in ("L", "RGB", "F", "I"):
        return np.asarray(image)
    return np.asarray(image.convert("L" if image.mode == "1" else "RGB"))


def _read_deep_png(file: IO[bytes], start: bytes, where: str) -> NDArray[Any]:
    file.seek(0)
    data = file.read()
    with open_image(io.BytesIO(data), start, where) as image, open_image(io.BytesIO(data), start, where) as again:
        orientation = _orientation(image, io.BytesIO(data), start)
        try:
            array = png.read_deep_color(image, again, start)
            array = png.with_transparent_white(array, image.info.get("transparency"))
        except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
            raise _damage(error, where, file, start) from error
    if not array[-1].any() and _is_short(io.BytesIO(data), start, where):
        raise _too_few_rows(where)
    return apply_orientation(array, orientation)


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
