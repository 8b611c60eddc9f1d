from __future__ import annotations

import io
import os
import re
import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fullconv.errors import InputError, MissingExtraError
from fullconv.images import image_size, read_image, read_pixels, resize_image, resize_mask
from fullconv.images.limits import ImageError
from synthetic.images import chunk, encode

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
TEXTURE = np.clip(120 + RNG.normal(0, 8, (64, 96, 3)), 0, 255).astype(np.uint8)
SMOOTH = np.tile(np.linspace(0, 250, 32, dtype=np.uint8)[None, :, None], (24, 1, 3))


def png(
    array: np.ndarray, color: int, depth: int, rows: int | None = None, interlace: int = 0, extra: bytes = b""
) -> bytes:
    """Write a PNG by hand: Pillow can neither write 16-bit colours nor leave out rows."""
    height, width = array.shape[:2]
    data = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in array[:rows])
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + extra + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def write_bands(path: Path, array: np.ndarray, **options: object) -> None:
    tifffile.imwrite(path, array, photometric="minisblack", planarconfig="contig", **options)


def test_an_image_keeps_its_values_and_has_three_dimensions():
    read = read_image(encode(Image.fromarray(PHOTO), "PNG"))
    assert read.dtype == np.uint8
    assert read.flags.writeable
    np.testing.assert_array_equal(read, PHOTO)
    grey = read_image(encode(Image.fromarray(PHOTO[..., 0]), "PNG"))
    np.testing.assert_array_equal(grey, PHOTO[..., :1])


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", "JPEG2000"])
def test_lossless_files_of_every_type_give_the_same_image(kind):
    few = (PHOTO // 128) * 128  # 8 colours, for GIF
    image = Image.fromarray(few)
    options = {"lossless": True} if kind == "WEBP" else {"irreversible": False} if kind == "JPEG2000" else {}
    image = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=8) if kind == "GIF" else image
    np.testing.assert_array_equal(read_image(encode(image, kind, **options)), few)


def test_a_palette_becomes_rgb():
    image = Image.fromarray(PHOTO).quantize(16)
    np.testing.assert_array_equal(read_image(encode(image, "PNG")), np.asarray(image.convert("RGB")))


def test_a_transparent_palette_is_composited_on_white():
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60])
    read = read_image(encode(image, "PNG", transparency=0))
    assert read.tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_alpha_is_composited_on_white_and_grey_stays_grey():
    rgba = np.dstack([PHOTO, np.full(PHOTO.shape[:2], 255, np.uint8)])
    np.testing.assert_array_equal(read_image(encode(Image.fromarray(rgba), "PNG")), PHOTO)
    rgba[0, 0] = (100, 100, 100, 0)
    assert read_image(encode(Image.fromarray(rgba), "PNG"))[0, 0].tolist() == [255, 255, 255]
    half = Image.merge("LA", [Image.new("L", (4, 4), 0), Image.new("L", (4, 4), 128)])
    read = read_image(encode(half, "PNG"))
    assert read.shape == (4, 4, 1)
    assert abs(int(read[0, 0, 0]) - 127) <= 1


def test_cmyk_and_grey_jpeg_come_as_rgb_and_grey():
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red = read_image(encode(cmyk, "JPEG", quality=100))
    assert red.shape == (8, 8, 3)
    assert red[..., 0].min() > 240
    assert red[..., 1:].max() < 15
    assert read_image(encode(Image.new("L", (8, 8), 77), "JPEG")).shape == (8, 8, 1)


def test_sixteen_bit_grey_keeps_all_bits():
    deep = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
    for data in (encode(Image.fromarray(deep), "PNG"), encode(Image.fromarray(deep), "TIFF"), png(deep, 0, 16)):
        read = read_image(data)
        assert read.dtype == np.uint16
        np.testing.assert_array_equal(read[..., 0], deep)


def test_sixteen_bit_alpha_is_composited_on_white():
    deep = np.array([[[1000, 2000, 3000, 0], [1000, 2000, 3000, 65535]]], np.uint16)
    assert read_image(png(deep, 6, 16)).tolist() == [[[65535] * 3, [1000, 2000, 3000]]]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("planar", [False, True])
def test_tiff_of_any_bands_and_type_keeps_its_numbers(tmp_path, dtype, channels, planar):
    array = (RNG.random((6, 9, channels)) * 200).astype(dtype)
    path = tmp_path / "a.tif"
    stored = np.moveaxis(array, -1, 0) if planar and channels > 1 else array
    config = {"planarconfig": "separate" if planar else "contig"} if channels > 1 else {}
    tifffile.imwrite(path, stored.squeeze(), photometric="minisblack", **config)
    read = read_image(path)
    assert read.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(read, array)
    assert image_size(path) == (6, 9)


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint32", "float64"])
def test_other_numbers_of_tiff_become_float32(tmp_path, dtype):
    array = (RNG.random((6, 9)) * 1000 - (500 if dtype[0] == "i" else 0)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array)
    read = read_image(tmp_path / "a.tif")
    assert read.dtype == np.float32
    np.testing.assert_allclose(read[..., 0], array.astype(np.float32))


def test_a_multi_band_tiff_without_rasterio_names_the_install_line(tmp_path, monkeypatch):
    write_bands(tmp_path / "a.tif", np.zeros((4, 4, 7), np.uint16))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(MissingExtraError, match=r'a\.tif: a TIFF with several bands.*pip install "fullconv\[geo\]"'):
        read_image(tmp_path / "a.tif")


def stored_for(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Lay an upright picture out as EXIF defines: where its first row and first column are seen."""
    rows, columns = {
        1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
        5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
    }[orientation]  # fmt: skip
    array = upright if rows in ("top", "bottom") else upright.swapaxes(0, 1)
    array = array[::-1] if rows in ("bottom", "right") else array
    return np.ascontiguousarray(array[:, ::-1] if columns in ("right", "bottom") else array)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    options = {"PNG": {}, "JPEG": {"quality": 100, "subsampling": 0}, "TIFF": {}, "WEBP": {"lossless": True}}[kind]
    data = encode(Image.fromarray(stored_for(PHOTO, orientation)), kind, exif=exif, **options)
    read = read_image(data)
    assert image_size(data) == read.shape[:2] == PHOTO.shape[:2]
    assert np.abs(read.astype(int) - PHOTO).max() <= (12 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_many_bands_and_of_sixteen_bits_is_applied(tmp_path, orientation):
    upright = RNG.integers(0, 65536, (6, 9, 5), dtype=np.uint16)
    write_bands(tmp_path / "a.tif", stored_for(upright, orientation), extratags=[(274, "H", 1, orientation, True)])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), upright)
    assert image_size(tmp_path / "a.tif") == (6, 9)
    exif = Image.Exif()
    exif[274] = orientation
    late = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    data = png(stored_for(upright[..., :3], orientation), 2, 16, extra=late)
    np.testing.assert_array_equal(read_image(data), upright[..., :3])
    assert image_size(data) == (6, 9)


def test_an_opened_image_is_read_like_its_file():
    exif = Image.Exif()
    exif[274] = 6
    data = encode(Image.fromarray(stored_for(PHOTO, 6)), "PNG", exif=exif)
    np.testing.assert_array_equal(read_image(Image.open(io.BytesIO(data))), PHOTO)


def test_arrays_are_taken_as_they_are():
    assert read_image(np.zeros((4, 5), np.uint16)).shape == (4, 5, 1)
    assert read_image(np.zeros((4, 5, 9), np.float64)).dtype == np.float32
    assert read_image(np.array([[True, False]]))[..., 0].tolist() == [[255, 0]]
    assert read_image(PHOTO) is PHOTO


def test_tensors_of_torch_have_their_channels_first():
    tensor = torch.from_numpy(PHOTO).movedim(-1, 0)
    for source in (tensor, tensor[None], tensor.clone()):
        np.testing.assert_array_equal(read_image(source), PHOTO)
    fractions = (tensor / 255).requires_grad_()
    np.testing.assert_allclose(read_image(fractions), PHOTO / np.float32(255), rtol=1e-6)
    assert read_image(fractions.to(torch.bfloat16)).dtype == np.float32
    assert read_image(torch.zeros(4, 5)).shape == (4, 5, 1)
    with pytest.raises(InputError, match=r"\(20, 30, 3\); an image as a tensor has the shape \(C, H, W\)"):
        read_image(torch.zeros(20, 30, 3))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_array_with_its_channels_first_says_how_to_move_them(channels):
    image = np.zeros((channels, 20, 30), np.uint8)
    with pytest.raises(InputError, match=r"channels? first; .*Give np\.moveaxis\(image, 0, -1\)") as caught:
        read_image(image)
    fix = re.search(r"Give (.*)\.$", str(caught.value))
    assert read_image(eval(fix[1])).shape == (20, 30, channels)
    assert read_pixels(image, channels=30).values.shape == image.shape  # what a network takes
    assert read_image(np.zeros((3, 40, 5), np.uint8)).shape == (3, 40, 5)  # a window of three rows


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 5), np.int64), r"array: int64 cannot be an image\. Convert it to uint8"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"an image has the shape \(H, W\) or \(H, W, C\).*not \(2, 4, 5, 3\)"),
        (np.zeros((0, 5), np.uint8), r"at least one pixel, not \(0, 5\)"),
    ],
)
def test_an_array_that_is_no_image_is_refused(array, words):
    with pytest.raises(InputError, match=words):
        read_image(array)


@pytest.mark.parametrize(
    ("name", "content", "code", "words"),
    [
        ("a.png", b"", "empty-file", r"a\.png: is empty \(0 bytes\)\. Copy or export it again"),
        (
            "a.jpg",
            b"hello, I am text\n" * 9,
            "not-a-picture",
            r"a\.jpg: is a text file, not an image, despite its name",
        ),
        ("a.jpg", bytes(range(1, 200)), "not-a-picture", r"a\.jpg: is not a readable image"),
        ("a.png", bytes(300), "truncated", r"a\.png: begins with zeros: its content was lost"),
        ("a.png", b"version https://git-lfs.github.com/spec/v1\n", "not-a-picture", r"Git LFS pointer.*git lfs pull"),
        (
            "a.mp4",
            b"\0\0\0\x20ftypisom\0\0\2\0isomavc1" + bytes(99),
            "not-a-picture",
            r"a\.mp4: is a video, not an image",
        ),
        ("a.png", b"\0\0\0\x14ftypqt  " + bytes(99), "not-a-picture", "is a video.* Export its frames"),
        ("a.avi", b"RIFF\x10\0\0\0AVI LIST" + bytes(99), "not-a-picture", "is a video"),
        ("a.webm", b"\x1aE\xdf\xa3" + bytes(99), "not-a-picture", "is a video"),
        ("a.jpg", b"%PDF-1.7\n" + bytes(99), "not-a-picture", r"a\.jpg: is a PDF document.* Export its pages"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + b"\0\0\0\x0dIHDR", "truncated", r"a\.png: is truncated: its data end"),
    ],
)
def test_files_that_are_no_images_are_reported_with_the_reason(tmp_path, name, content, code, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ImageError, match=words) as caught:
        read_image(path)
    assert caught.value.code == code
    with pytest.raises(InputError, match=words):
        image_size(path)


def test_what_is_no_file_is_named_and_a_pipe_does_not_hang(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.png: no such file"):
        read_image(tmp_path / "nowhere.png")
    (tmp_path / "x.png").mkdir()
    with pytest.raises(InputError, match=r"x\.png: is a folder, not an image"):
        read_image(tmp_path / "x.png")
    with pytest.raises(InputError, match="cannot be a file name"):
        read_image("a\0b.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(InputError, match="is not a regular file"):
            read_image(tmp_path / "pipe.png")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(InputError, match=r"a\.png: cannot be read \(Permission denied\)"):
        read_image(path)


FILES = {
    "png": encode(Image.fromarray(PHOTO), "PNG"),
    "jpeg": encode(Image.fromarray(SMOOTH), "JPEG"),
    "progressive": encode(Image.fromarray(PHOTO), "JPEG", progressive=True),
    "deep": png(RNG.integers(1, 65536, (9, 9, 3), dtype=np.uint16), 2, 16),
    "tiff": encode(Image.fromarray(PHOTO), "TIFF"),
    "bmp": encode(Image.fromarray(PHOTO), "BMP"),
    "webp": encode(Image.fromarray(PHOTO), "WEBP"),
    "gif": encode(Image.fromarray(PHOTO[..., 0]), "GIF"),
}


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.floats(0, 1))
def test_a_cut_file_is_an_error_and_never_filled_in(kind, share):
    data = FILES[kind]
    cut = data[: int(share * len(data))]
    try:
        read = read_image(cut)
    except InputError:
        return
    np.testing.assert_array_equal(read, read_image(data))


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(sorted(FILES)), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6)
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_file_is_read_or_refused_but_never_a_crash(kind, changes):
    data = bytearray(FILES[kind])
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    for reader in (read_image, image_size):
        try:
            reader(bytes(data))
        except (InputError, MissingExtraError):
            continue


@pytest.mark.parametrize("color", [0, 2])
@pytest.mark.parametrize("rows", [0, 1, 10, 19])
def test_a_png_with_fewer_rows_than_its_header_is_truncated(color, rows):
    array = (PHOTO if color == 2 else PHOTO[..., 0]).copy()
    with pytest.raises(InputError, match=r"is truncated: it has fewer rows than its header|cannot be decoded"):
        read_image(png(array, color, 8, rows=rows))
    array[-5:] = 0  # a black end is not a missing one
    np.testing.assert_array_equal(read_image(png(array, color, 8))[..., : 1 + color], array.reshape(20, 30, -1))


@pytest.mark.parametrize("number", [0, 165, 255])
@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "LA", "1"])
def test_a_png_of_one_number_everywhere_is_whole_and_without_its_end_is_truncated(mode, number):
    data = encode(Image.new(mode, (30, 20), number if mode in ("L", "P", "1") else (number,) * len(mode)), "PNG")
    read_image(data)
    start = data.index(b"IDAT") - 4
    rows = zlib.decompress(data[start + 8 : start + 8 + int.from_bytes(data[start : start + 4], "big")])
    short = data[:start] + chunk(b"IDAT", zlib.compress(rows[: 15 * len(rows) // 20])) + chunk(b"IEND", b"")
    with pytest.raises(InputError, match="is truncated: it has fewer rows than its header"):
        read_image(short)


@pytest.mark.parametrize(("interlace", "number"), [(1, 7), (0, 165)])
def test_a_png_whose_checksum_is_wrong_behind_its_last_row_is_refused_and_no_crash(interlace, number):
    rows = np.full((20, 1 if interlace else 30), number, np.uint8)  # a column fills four passes of Adam7
    passes = np.concatenate([rows[0::8], rows[4::8], rows[2::4], rows[1::2]]) if interlace else rows
    whole = png(rows, 0, 8, interlace=interlace)
    data = bytearray(zlib.compress(b"".join(b"\0" + one.tobytes() for one in passes) + RNG.bytes(1 << 16)))
    for damage in (0, 1):
        data[-1] ^= damage
        file = whole[: whole.index(b"IDAT") - 4] + chunk(b"IDAT", bytes(data)) + chunk(b"IEND", b"")
        Image.open(io.BytesIO(file)).load()  # Pillow stops at the last row, so it does not see it
        if damage:
            with pytest.raises(InputError, match="cannot be decoded"):
                read_image(file)
        else:
            np.testing.assert_array_equal(read_image(file)[..., 0], rows)


@pytest.mark.parametrize(("color", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_a_sixteen_bit_png_with_fewer_rows_is_truncated(color, channels):
    deep = RNG.integers(1, 65536, (9, 9, channels), dtype=np.uint16)
    with pytest.raises(InputError, match="is truncated: it has fewer rows than its header"):
        read_image(png(deep, color, 16, rows=7))


def jpeg(picture: np.ndarray, **options: object) -> bytes:
    return encode(Image.fromarray(picture), "JPEG", **options)


FLAT_END = np.concatenate([np.tile(PHOTO, (4, 3, 1)), np.full((40, 90, 3), 255, np.uint8)])


@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str
)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_jpeg_whose_end_was_put_on_too_early_is_truncated(options, share):
    whole = jpeg(np.tile(PHOTO, (4, 3, 1)), **options)
    if not options.get("progressive"):  # there it leaves a blurred picture, which is a valid file
        with pytest.raises(InputError, match="is truncated"):
            read_image(whole[: int(share * len(whole))] + b"\xff\xd9")
    with pytest.raises(InputError, match=r"is truncated|cannot be decoded"):
        read_image(whole[: int(share * len(whole))] + bytes(500))


@pytest.mark.parametrize("picture", [FLAT_END, FLAT_END[..., 0], np.zeros((50, 70, 3), np.uint8)])
@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str
)
@pytest.mark.parametrize("tail", [b"", bytes(100), b"more after the end" * 9])
def test_a_whole_jpeg_with_a_flat_end_is_read(picture, options, tail):
    read = read_image(jpeg(picture, comment=b"\xff\xd9 as a thumbnail has", **options) + tail)
    assert read.shape[:2] == picture.shape[:2]


def test_a_bomb_is_refused_until_the_user_raises_the_limit(monkeypatch):
    data = encode(Image.new("L", (100, 50)), "PNG")
    monkeypatch.setenv("FULLCONV_MAX_PIXELS", "4999")
    for reader in (read_image, image_size):
        with pytest.raises(
            InputError, match=r"100x50 is 5,000 pixels, the limit is 4,999.*set FULLCONV_MAX_PIXELS=5000"
        ):
            reader(data)
    deep = png(np.zeros((100, 50, 3), np.uint16), 2, 16)
    with pytest.raises(InputError, match="5,000 pixels"):
        read_image(deep)
    monkeypatch.setenv("FULLCONV_MAX_PIXELS", "5000")
    assert read_image(data).shape == (50, 100, 1)
    monkeypatch.setenv("FULLCONV_MAX_PIXELS", "many")
    with pytest.raises(InputError, match="FULLCONV_MAX_PIXELS=many is not a number of pixels"):
        read_image(data)


def test_pillows_own_limit_does_not_count_and_stays_as_it_was(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    assert read_image(png(np.zeros((40, 40), np.uint8), 0, 8)).shape == (40, 40, 1)
    assert Image.MAX_IMAGE_PIXELS == 500


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [(13, 50), (40, 21), (90, 100)])
def test_resizing_gives_the_same_bits_on_any_number_of_threads(dtype, channels, size):
    image = (RNG.random((60, 70, channels)) * 255).astype(dtype)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(resize_image(image, size))
    torch.set_num_threads(before)
    assert results[0].shape == (*size, channels)
    assert results[0].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(results[0], results[1])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_resizing_keeps_a_constant_and_the_mean(dtype):
    flat = np.full((40, 50, 3), 93, dtype)
    np.testing.assert_allclose(resize_image(flat, (17, 80)), 93, atol=1e-4 if dtype == "float32" else 0)
    ramp = np.tile(np.arange(64, dtype=dtype)[None, :, None], (8, 1, 1))
    half = resize_image(ramp, (4, 32))[2, 4:-4, 0].astype(float)
    np.testing.assert_allclose(half, 2 * np.arange(4, 28) + 0.5, atol=0.51 if dtype != "float32" else 1e-4)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_a_resized_mask_holds_the_value_under_each_centre(height, width, new_height, new_width):
    mask = np.arange(height * width, dtype=np.int64).reshape(height, width)
    resized = resize_mask(mask, (new_height, new_width))
    y = np.floor((np.arange(new_height) + 0.5) * height / new_height + 1e-9).astype(int)
    x = np.floor((np.arange(new_width) + 0.5) * width / new_width + 1e-9).astype(int)
    np.testing.assert_array_equal(resized, mask[y][:, x])


def test_a_path_with_spaces_and_other_letters_is_read(tmp_path: Path):
    path = tmp_path / "Straße 01 北.png"
    path.write_bytes(FILES["png"])
    np.testing.assert_array_equal(read_image(str(path)), PHOTO)


def test_a_tiff_without_a_page_is_reported_once(tmp_path: Path, capfd):
    path = tmp_path / "begun.tif"
    path.write_bytes(b"II*\0" + bytes(12))  # what a program leaves that stopped before its first page
    with pytest.raises(ImageError, match=r"begun\.tif: is a TIFF without pages\. Copy or export it again"):
        read_image(path)
    assert capfd.readouterr().err == ""


def test_a_jpeg_that_was_sent_as_text_is_an_error():
    data = jpeg(np.tile(TEXTURE, (2, 2, 1)), quality=95)
    start = data.index(b"\xff\xda")
    head, body = data[:start], data[start:]
    with pytest.raises(InputError, match="carriage return before each line feed"):
        read_image(head + body.replace(b"\n", b"\r\n"))


def test_a_jpeg_with_zeros_in_the_middle_is_an_error():
    data = jpeg(TEXTURE, quality=95)
    middle = len(data) // 2
    with pytest.raises(InputError, match="64 zero bytes or more"):
        read_image(data[:middle] + bytes(512) + data[middle + 512 :])


@pytest.mark.parametrize("keys", [{"optimize": True}, {"progressive": True}, {"quality": 30}])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_jpegs_are_no_error(keys, value):
    image = np.full((600, 800, 3), value, np.uint8)
    image[:64, :96] = TEXTURE
    assert read_image(jpeg(image, **keys)).shape == image.shape
    assert read_image(jpeg(image[..., 0], **keys)).shape == (600, 800, 1)


def test_bytes_after_a_jpeg_are_not_read(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(TEXTURE))
    with path.open("r+b") as file:
        file.truncate(2 << 30)  # a sparse file; reading it all would take its size in memory
    assert read_image(path).shape == TEXTURE.shape


def test_a_png_whose_end_was_lost_to_zeros_is_refused_and_a_padded_one_is_not(tmp_path):
    path = tmp_path / "p.png"
    Image.fromarray(SMOOTH).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(512))
    assert (read_image(path) == SMOOTH).all()
    grain = np.linspace(0, 200, 160)[None, :, None] + np.random.default_rng(0).normal(0, 6, (96, 160, 3))
    Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(InputError, match="ends in zeros, so part of its content was lost"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_further_frames_and_pages_are_a_notice(tmp_path, suffix):
    frames = [Image.fromarray(np.roll(PHOTO, shift, 0)) for shift in range(3)]
    path, alone = tmp_path / f"film{suffix}", tmp_path / f"alone{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    frames[0].save(alone)
    (notice,) = read_pixels(path).notices
    assert (notice.code, notice.file) == ("several-frames", str(path))
    assert "film" in notice.message
    assert "holds 3 pages or frames, of which the first is read" in notice.message
    assert read_pixels(alone).notices == ()


def test_gdals_own_warnings_do_not_reach_stderr(tmp_path, capfd):
    path = tmp_path / "unsorted.tif"
    write_bands(path, np.zeros((20, 30, 4), np.uint8))
    data = bytearray(path.read_bytes())
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    tags = [bytes(data[start + 2 + 12 * i :][:12]) for i in range(count)]
    data[start + 2 : start + 2 + 12 * count] = b"".join([*tags[:-2], tags[-1], tags[-2]])
    path.write_bytes(data)
    with ThreadPoolExecutor(1) as pool:
        for read in (read_pixels, lambda file: pool.submit(read_pixels, file).result()):
            for source in (path, bytes(data)):
                assert read(source).values.shape == (20, 30, 4)
    assert capfd.readouterr().err == ""
