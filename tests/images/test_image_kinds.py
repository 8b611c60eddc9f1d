"""Images of rarer types, against arithmetic, Pillow's own decoders and GDAL."""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms

from fullconv.data.samples import MaskFile
from fullconv.data.scan.analyze import analyze_image, analyze_mask
from fullconv.images import image_size, read_image
from synthetic.images import ADOBE, GAMMA, SRGB, chunk, encode, png, profile

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("adam7", [False, True])
@pytest.mark.parametrize(
    ("color", "depth"),
    [*((0, depth) for depth in (1, 2, 4, 8, 16)), *((3, depth) for depth in (1, 2, 4, 8)),
     *((color, depth) for color in (2, 4, 6) for depth in (8, 16))],
)  # fmt: skip
def test_png_of_every_kind_and_depth_gives_its_numbers(color, depth, adam7):
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    samples = RNG.integers(0, 1 << depth, (11, 13, channels))
    if channels in (2, 4):
        samples[..., -1] = (1 << depth) - 1  # opaque
    table = RNG.integers(0, 256, (1 << min(depth, 8), 3)).astype(np.uint8)
    data = png(samples, color, depth, adam7, chunk(b"PLTE", table.tobytes()) if color == 3 else b"")
    read = read_image(data)
    most = (1 << depth) - 1
    expected = table[samples[..., 0]] if color == 3 else samples[..., : {2: 1, 4: 3}.get(channels, channels)]
    if depth < 8 and color == 0:
        expected = expected * 255 // most
    assert read.dtype == (np.uint16 if depth == 16 else np.uint8)
    np.testing.assert_array_equal(read, expected)
    assert image_size(data) == (11, 13)


@pytest.mark.parametrize(("color", "depth"), [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (3, 2), (3, 4)])
@pytest.mark.parametrize("adam7", [False, True])
def test_masks_of_few_bits_hold_class_numbers_which_pillow_would_spread(tmp_path, color, depth, adam7):
    samples = np.arange(11 * 13).reshape(11, 13, 1) % min(1 << depth, 300)
    table = chunk(b"PLTE", bytes(3 << depth)) if color == 3 else b""
    (tmp_path / "m.png").write_bytes(png(samples, color, depth, adam7, table))
    source = MaskFile(tmp_path / "m.png")
    np.testing.assert_array_equal(source.raw(), samples[..., 0])
    facts = analyze_mask(source)
    assert facts.counts == dict(zip(*map(np.ndarray.tolist, np.unique(samples, return_counts=True)), strict=True))


def test_tiff_masks_of_four_bits_hold_class_numbers(tmp_path):
    numbers = np.arange(12 * 14).reshape(12, 14) % 16
    packed = (numbers[:, 0::2] << 4 | numbers[:, 1::2]).astype(np.uint8).tobytes()
    entries = [(256, 4, 14), (257, 4, 12), (258, 3, 4), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 4, 12),
               (279, 4, len(packed))]  # fmt: skip
    body = b"".join(struct.pack("<HHI", tag, kind, 1) + struct.pack("<I", value) for tag, kind, value in entries)
    plain = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(entries)) + body + bytes(4)
    path = tmp_path / "m.tif"
    path.write_bytes(plain)
    with Image.open(path) as image:
        assert int(np.asarray(image).max()) == 255  # Pillow spreads the numbers
    np.testing.assert_array_equal(MaskFile(path).raw(), numbers)
    np.testing.assert_array_equal(read_image(path)[..., 0], numbers * 17)


def test_one_transparent_colour_is_composited_on_white_at_any_depth():
    for depth, most in ((1, 1), (2, 3), (4, 15), (8, 255), (16, 65535)):
        samples = (np.arange(9 * 5).reshape(5, 9, 1) * 7919) % (most + 1)
        hit = int(samples[2, 3, 0])
        read = read_image(png(samples, 0, depth, extra=chunk(b"tRNS", struct.pack(">H", hit))))
        expected = samples if depth == 16 else samples * 255 // most
        np.testing.assert_array_equal(read, np.where(samples == hit, 65535 if depth == 16 else 255, expected))
    deep = RNG.integers(0, 65536, (5, 6, 3))
    read = read_image(png(deep, 2, 16, extra=chunk(b"tRNS", struct.pack(">HHH", *deep[1, 2]))))
    assert read[1, 2].tolist() == [65535] * 3
    assert (read != deep).any(-1).sum() == 1


def to_srgb(colors: np.ndarray, primaries: dict[str, tuple[float, float, float]]) -> np.ndarray:
    linear = (colors / 255.0) ** GAMMA
    linear = linear @ np.array(list(primaries.values())) @ np.linalg.inv(np.array(list(SRGB.values())))
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF"])
def test_a_colour_profile_is_applied(kind):
    best = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}, "AVIF": {"quality": 100}}
    options = best.get(kind, {})
    smooth = np.stack(np.meshgrid(np.linspace(20, 230, 32), np.linspace(40, 200, 24)), -1)
    colors = np.dstack([smooth, 255 - smooth[..., :1]]).astype(np.uint8)
    plain = read_image(encode(Image.fromarray(colors), kind, **options))
    read = read_image(encode(Image.fromarray(colors), kind, icc_profile=profile(ADOBE), **options))
    expected = to_srgb(plain.astype(float), ADOBE)
    assert np.abs(read - expected).max() <= 3
    assert np.abs(read.astype(int) - plain).max() > 20


def test_profiles_of_srgb_and_damaged_ones_change_nothing():
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for data in (own, b"no profile", profile(ADOBE)[:200], profile(None)):
        np.testing.assert_array_equal(read_image(encode(Image.fromarray(PHOTO), "PNG", icc_profile=data)), PHOTO)


def test_grey_alpha_and_palettes_keep_their_kind_under_a_profile(tmp_path):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    read = read_image(encode(Image.fromarray(ramp), "PNG", icc_profile=profile(None)))
    linear = (np.arange(256) / 255) ** GAMMA
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert read.shape == (16, 16, 1)
    assert np.abs(read.ravel() - expected).max() <= 2
    rgba = Image.fromarray(np.dstack([PHOTO, np.where(PHOTO[..., 0] > 99, 255, 0).astype(np.uint8)]))
    read = read_image(encode(rgba, "PNG", icc_profile=profile(ADOBE)))
    clear = PHOTO[..., 0] <= 99
    assert (read[clear] == 255).all()
    assert np.abs(read[~clear] - to_srgb(PHOTO[~clear].astype(float), ADOBE)).max() <= 3
    few = Image.fromarray(PHOTO).quantize(8)
    read = read_image(encode(few, "PNG", icc_profile=profile(ADOBE)))
    assert np.abs(read - to_srgb(np.asarray(few.convert("RGB"), float), ADOBE)).max() <= 3
    path = tmp_path / "a.png"
    path.write_bytes(encode(Image.fromarray(PHOTO), "PNG", icc_profile=profile(ADOBE)))
    assert analyze_image(path).total == read_image(path).astype(float).sum((0, 1)).tolist()


def test_a_mask_keeps_its_numbers_whatever_its_profile(tmp_path):
    numbers = np.arange(20, dtype=np.uint8).reshape(4, 5)
    path = tmp_path / "m.png"
    path.write_bytes(encode(Image.fromarray(numbers), "PNG", icc_profile=profile(None)))
    np.testing.assert_array_equal(MaskFile(path).raw(), numbers)


def test_ycck_jpeg_is_cmyk_in_other_colours():
    """A YCCK file holds luma and chroma of the inks C, M, Y as if they were R, G, B, and K; all inverted by Adobe."""
    stored = Image.merge("CMYK", [Image.new("L", (16, 16), value) for value in (90, 140, 100, 60)])
    data = encode(stored, "JPEG", quality=100, subsampling=0)
    place = data.index(b"Adobe") + 11
    assert data[place] == 0
    read = read_image(data[:place] + b"\2" + data[place + 1 :])[8, 8].astype(float)
    y, cb, cr, k = (255.0 - value for value in (90, 140, 100, 60))  # Adobe's files are inverted
    rgb = np.array([y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)])
    inks = np.clip(rgb, 0, 255)
    assert np.abs(read - (255 - inks) * k / 255).max() <= 3


@pytest.mark.parametrize("options", [
    {"compress": "lzw"}, {"compress": "zstd"}, {"compress": "lzw", "predictor": 2}, {"compress": "lzw", "interleave": "band"},
    {"compress": "deflate", "predictor": 2}, {"compress": "packbits"}, {"tiled": True, "blockxsize": 16, "blockysize": 16},
    {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "lzw", "interleave": "band"},
    {"BIGTIFF": "YES"}, {"ENDIANNESS": "BIG"}, {"ENDIANNESS": "BIG", "compress": "lzw"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize(("dtype", "bands"), [("uint16", 3), ("float32", 3), ("uint8", 6), ("uint16", 1)])
def test_tiff_of_every_compression_and_arrangement_gives_its_numbers(tmp_path, options, dtype, bands):
    import rasterio

    if dtype == "float32" and options.get("predictor") == 2:
        options = {**options, "predictor": 3}
    numbers = (RNG.random((bands, 21, 33)) * 60000).astype(dtype)
    path = tmp_path / "a.tif"
    profile = {
        "driver": "GTiff",
        "height": 21,
        "width": 33,
        "count": bands,
        "dtype": dtype,
        "photometric": "minisblack",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has no place on earth
        with rasterio.open(path, "w", **profile, **options) as file:
            file.write(numbers)
    np.testing.assert_array_equal(read_image(path), np.moveaxis(numbers, 0, -1))
    assert image_size(path) == (21, 33)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "PNG", "AVIF"])
def test_of_several_pages_or_frames_the_first_is_read(kind):
    pages = [Image.new("RGB", (32, 32), color) for color in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(pages[0], kind, save_all=True, append_images=pages[1:], **options)
    assert np.abs(read_image(data)[5, 5].astype(int) - (255, 0, 0)).max() <= 2


def test_heic_is_read_by_its_extra():
    pillow_heif = pytest.importorskip("pillow_heif")
    smooth = np.tile(np.linspace(0, 250, 64, dtype=np.uint8)[None, :, None], (48, 1, 3))
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(smooth)).save(buffer, quality=95)
    read = read_image(buffer.getvalue())
    assert read.shape == (48, 64, 3)
    assert np.abs(read.astype(int) - smooth).max() <= 8
