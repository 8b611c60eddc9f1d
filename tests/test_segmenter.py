"""Prediction: any picture in, its own size out, the same answer for every tile."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from torch import nn
from torchvision.transforms._presets import SemanticSegmentation

import fullconv
from fullconv.card import Card
from fullconv.errors import InputError, ModelFileError, NetworkError, RecipeError
from fullconv.nn import build
from fullconv.nn.build import empty_init, has_unsaved_tensors
from fullconv.segmenter import Segmenter, choose_device, load
from fullconv.tiling import estimate_bytes
from networks import enliven
from synthetic.shapes import draw

CLASSES = ("ground", "disc", "box")


def made(scale: float = 1.0, in_channels: int = 3, **card) -> Segmenter:
    torch.manual_seed(0)
    network = enliven(build("fcn8s", backbone="tiny", num_classes=len(CLASSES), in_channels=in_channels))
    statistics = {"mean": (0.5,) * in_channels, "std": (0.25,) * in_channels}
    full = {"variant": "fcn8s", "backbone": "tiny", "in_channels": in_channels, "classes": CLASSES, **statistics}
    return Segmenter(network, Card(**{**full, "scale": scale, **card}), device="cpu")


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return made()


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return draw(np.random.default_rng(0), (70, 101), 3)[0]


# --- what goes in ----------------------------------------------------------------------------------------------------


def test_grey_is_r_equal_to_g_equal_to_b(segmenter, picture):
    grey = picture[..., 0]
    rgb = np.stack([grey] * 3, axis=-1)
    for source in (grey, grey[..., None], Image.fromarray(grey)):
        assert np.array_equal(segmenter.logits(source), segmenter.logits(rgb))


def test_alpha_is_laid_on_white(segmenter, picture):
    alpha = np.full((*picture.shape[:2], 1), 255, np.uint8)
    alpha[:20] = 0
    white = picture.copy()
    white[:20] = 255
    rgba = Image.fromarray(np.concatenate([picture, alpha], axis=-1))
    assert np.array_equal(segmenter.logits(rgba), segmenter.logits(white))


def test_bands_that_the_model_does_not_know_are_refused_in_words(segmenter):
    for bands, words in (
        (2, "^the image has 2 bands, the model expects 3"),
        (4, "has 4 bands, the model expects 3. Convert it to RGB, or give an array of its bands"),
    ):
        with pytest.raises(InputError, match=words):
            segmenter.predict(np.zeros((9, 9, bands), np.uint8))
    with pytest.raises(InputError, match="has 1 band, the model expects 5"):
        made(in_channels=5).predict(np.zeros((9, 9), np.uint8))
    with pytest.raises(InputError, match="the model expects bands 7, 1"):
        made(in_channels=2, bands=(7, 1)).predict(np.zeros((9, 9, 3), np.uint8))


def test_values_of_another_kind_than_in_training_are_told_once(caplog):
    eight, sixteen = made(), made(range=(0.0, 40000.0))
    dark = np.full((9, 9, 3), 255, np.uint16)
    eight.predict(dark)  # may well be 8 bits in a 16-bit file
    eight.predict(dark.astype(np.float32))  # and in a file of floats
    made(range=(0.0, 300.0)).predict(dark.astype(np.uint8))
    assert not caplog.messages
    for _ in range(2):
        eight.predict(eight.read(dark * 3, "a/b.tif"))
        sixteen.predict(dark.astype(np.uint8))
    assert len(caplog.messages) == 2
    assert (
        "a/b.tif: holds values from 765 to 765 (uint16); the model was trained on values from 0 to 255" in caplog.text
    )
    assert "holds values from 255 to 255 (uint8); the model was trained on values from 0 to 40000" in caplog.text


def test_too_little_memory_is_told_once_with_what_it_takes(caplog):
    segmenter = made()
    segmenter.with_options(memory=10**9).predict(np.zeros((600, 600, 3), np.uint8))
    assert not caplog.messages
    short = segmenter.with_options(memory=1000)
    for _ in range(2):
        prediction = short.predict(np.zeros((600, 600, 3), np.uint8))
    (message,) = caplog.messages
    words = r"0.001 MB are less than the smallest tile, (\d+)x(\d+), takes with this network: about (\d+) MB"
    height, width, megabytes = map(int, re.match(words, message).groups())
    assert [(notice.code, notice.message) for notice in prediction.notices] == [("memory", message)]
    assert height == width < 600
    assert estimate_bytes(segmenter.network, height, width) / 1e6 == pytest.approx(megabytes, abs=0.5)


def test_the_cards_bands_are_taken_in_its_order():
    five = np.random.default_rng(0).integers(0, 255, (33, 40, 5), np.uint8)
    chosen = made(bands=(4, 1, 2))
    assert np.array_equal(chosen.logits(five), chosen.logits(five[..., [3, 0, 1]]))


def test_the_range_is_the_cards_and_never_the_pictures(picture):
    eight, sixteen = made(), made(range=(0.0, 65535.0))
    floats = made(range=(0.0, 1.0))
    wanted = eight.logits(picture)
    np.testing.assert_allclose(sixteen.logits(picture.astype(np.uint16) * 257), wanted, atol=1e-4)
    np.testing.assert_allclose(floats.logits(picture.astype(np.float32) / 255), wanted, atol=1e-4)
    dark = (picture // 200).astype(np.uint8)  # an almost black picture stays one
    assert np.abs(eight.logits(dark) - eight.logits(dark * 200)).max() > 0.01


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(1, 90), width=st.integers(1, 90), tile=st.sampled_from(["auto", "none", 1, 32, 64]))
def test_the_answer_has_the_pictures_size_and_does_not_depend_on_the_tile(segmenter, height, width, tile):
    image = np.random.default_rng(height * 100 + width).integers(0, 255, (height, width, 3), np.uint8)
    whole, tiled = segmenter.logits(image), segmenter.logits(image, tile=tile)
    assert tiled.shape == (3, height, width)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-5 * np.abs(whole).max())
    assert segmenter.predict(image, tile=tile).label_map.shape == (height, width)


@pytest.mark.parametrize("tile", [0, -3, 1.5, "some", True])
def test_a_tile_that_cannot_be_is_told_what_can(segmenter, picture, tile):
    with pytest.raises(InputError, match='tile must be "auto", "none" or a number of pixels from 1'):
        segmenter.predict(picture, tile=tile)


def test_memory_is_kept_to_by_tiles(picture):
    small = made()
    big = np.tile(picture, (12, 9, 1))
    seen = []
    engine = small.engine.for_size(*big.shape[:2])
    scores = engine.scores
    engine.scores = lambda images: seen.append(images.shape[1:3]) or scores(images)
    tiled = small.with_options(memory=1).predict(big)
    assert len(seen) > 1
    assert (tiled.label_map != small.predict(big, tile="none").label_map).mean() < 1e-4


@pytest.mark.parametrize("size", [(70, 101), (90, 33), (40, 40), (20, 31)])
def test_a_shorter_side_is_resized_as_torchvisions_preset_does(size):
    picture = draw(np.random.default_rng(1), size, 3)[0]
    segmenter = made(short_side=40)
    mean, std = list(segmenter.card.mean), list(segmenter.card.std)
    x = SemanticSegmentation(resize_size=40, mean=mean, std=std)(torch.from_numpy(picture).permute(2, 0, 1))
    (view,) = segmenter.scores(picture[None], "none", [])
    assert view.working == tuple(x.shape[1:])
    with torch.inference_mode():
        expected = segmenter.network.scores(x[None])
    np.testing.assert_allclose(view.scores[""], expected.numpy(), atol=0.05)  # uint8 may round to the other side
    assert segmenter.predict(picture).label_map.shape == size
    native = segmenter.with_options(scale=1.0)
    assert np.array_equal(native.logits(picture), made().logits(picture))
    with torch.inference_mode():
        assert segmenter.network(x[None]).shape[2:] == x.shape[1:]  # networks know no scale


def test_a_shorter_side_batches_images_of_one_size(picture):
    segmenter = made(short_side=50)
    for one in segmenter.predict_many([picture, picture[:, ::-1], picture[:40]]):
        assert np.array_equal(one.label_map, segmenter.predict(one.image).label_map)


def test_a_shorter_side_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setenv("FULLCONV_MAX_PIXELS", "100000")
    with pytest.raises(InputError, match=r"an image of 1x4000, resized to a shorter side of 40: 40x160000"):
        made(short_side=40).predict(np.zeros((4000, 1, 3), np.uint8))


def test_a_shorter_side_and_a_scale_exclude_each_other():
    with pytest.raises(ValidationError, match=r"short_side = 520 and scale = 0\.5 exclude each other"):
        made(0.5, short_side=520)


@pytest.mark.parametrize("scale", [0.5, 0.37, 2.0])
def test_at_another_working_resolution_the_answer_has_the_pictures_own_size(picture, scale):
    other = made(scale)
    prediction = other.predict(picture, probabilities=True)
    assert prediction.label_map.shape == (70, 101)
    assert prediction.probabilities.shape == (3, 70, 101)
    assert np.array_equal(other.logits(picture, tile=32).argmax(0), prediction.label_map)


# --- what comes out --------------------------------------------------------------------------------------------------


def test_a_prediction_saves_an_indexed_png_and_shows_itself(segmenter, picture, tmp_path):
    prediction = segmenter.predict(picture)
    prediction.save(tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), prediction.label_map)
        assert image.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
    shown = prediction.overlay()
    assert shown.mode == "RGB"
    assert shown.width >= 101
    assert shown.height > 70  # the legend below
    assert prediction._repr_png_().startswith(b"\x89PNG")
    assert sum(prediction.counts().values()) == 70 * 101
    assert "Prediction(70x101: " in repr(prediction)
    assert prediction.classes == CLASSES


def test_show_draws_picture_mask_and_prediction_side_by_side(segmenter, picture):
    prediction = segmenter.predict(picture)
    figure = fullconv.show(picture, prediction.label_map, prediction)
    assert [axis.get_title() for axis in figure.axes] == ["image", "mask", "prediction"]
    assert len(fullconv.show(picture).axes) == 1
    assert len(fullconv.show(picture.astype(np.float32), prediction=prediction).axes) == 2


def test_bf16_answers_almost_the_same_and_leaves_the_network_as_it_was(segmenter, picture):
    low = Segmenter(segmenter.network, segmenter.card, device="cpu", precision="bf16")
    exact, rough = segmenter.logits(picture), low.logits(picture)
    assert rough.dtype == np.float32
    assert 0 < np.abs(rough - exact).max() < 0.05 * np.abs(exact).max()
    assert next(segmenter.network.parameters()).dtype == torch.float32


# --- any module ------------------------------------------------------------------------------------------------------


def test_a_beginners_module_becomes_a_segmenter():
    """The four by four picture of a first lesson."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    segmenter = Segmenter.from_network(net, classes=["road", "sky"])
    prediction = segmenter.predict(np.zeros((4, 4, 3), np.uint8), probabilities=True)
    assert prediction.probabilities.shape == (2, 4, 4)
    np.testing.assert_allclose(prediction.probabilities[:, 1, 2].sum(), 1, atol=1e-6)
    assert segmenter.card.mean == (0.485, 0.456, 0.406)
    grey = np.full((40, 50, 3), 7, np.uint8)
    np.testing.assert_allclose(segmenter.logits(grey, tile=16), segmenter.logits(grey), atol=1e-6)
    with pytest.raises(ModelFileError, match="custom networks cannot be saved as fullconv model files"):
        segmenter.save("never.safetensors")


def test_the_mean_and_std_given_are_those_used():
    net = nn.Conv2d(1, 2, 1)
    nn.init.ones_(net.weight)
    nn.init.zeros_(net.bias)
    segmenter = Segmenter.from_network(net, ["a", "b"], mean=[0.5], std=[0.25], range=(0, 100))
    assert segmenter.logits(np.full((1, 1), 75, np.uint8))[0, 0, 0] == pytest.approx((0.75 - 0.5) / 0.25)


def test_our_own_network_keeps_its_name_and_can_be_saved(tmp_path, picture):
    torch.manual_seed(0)
    segmenter = Segmenter.from_network(build("fcn8s", backbone="tiny", num_classes=2, norm="none"), ["a", "b"])
    assert (segmenter.card.variant, segmenter.card.backbone, segmenter.card.stride) == ("fcn8s", "tiny", 32)
    segmenter.save(tmp_path / "m.safetensors")
    assert np.array_equal(load(tmp_path / "m.safetensors").logits(picture), segmenter.logits(picture))


def test_a_list_of_classes_of_another_length_is_refused(picture):
    with pytest.raises(NetworkError, match="the network has 3 classes, 2 names were given"):
        Segmenter.from_network(build("fcn8s", backbone="tiny", num_classes=3), ["a", "b"])


def test_a_network_of_two_heads_answers_by_name(picture, tmp_path):
    torch.manual_seed(0)
    network = build("fcn8s", backbone="tiny", num_classes={"what": 3, "where": 2})
    heads = {"what": {"classes": CLASSES}, "where": {"classes": ("left", "right")}}
    card = Card(variant="fcn8s", backbone="tiny", classes=CLASSES, heads=heads)
    segmenter = Segmenter(network, card, device="cpu")
    prediction = segmenter.predict(picture)
    assert set(prediction.label_maps) == {"what", "where"}
    assert np.array_equal(prediction.label_map, prediction.label_maps["what"])
    only = segmenter.predict(picture, head="where")
    assert np.array_equal(only.label_map, prediction.label_maps["where"])
    assert only.classes == ("left", "right")
    with pytest.raises(ModelFileError, match="this model has no head 'when', it has what, where"):
        segmenter.predict(picture, head="when")
    segmenter.save(tmp_path / "m.safetensors")
    assert np.array_equal(load(tmp_path / "m.safetensors").predict(picture, head="where").label_map, only.label_map)


# --- loading ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(segmenter, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model.safetensors"
    segmenter.save(path)
    return path


def test_a_loaded_model_answers_with_the_same_bits(segmenter, saved, picture):
    for path in (saved, saved.parent, str(saved)):
        assert np.array_equal(load(path, device="cpu").logits(picture), segmenter.logits(picture))


def rewritten(saved: Path, to: Path, change: dict) -> Path:
    from safetensors.torch import save_file

    from fullconv.modelfile import read_model

    card, tensors = read_model(saved)
    save_file(tensors, to, {"fullconv": json.dumps({**json.loads(card.to_json()), **change})})
    return to


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"variant": "fcn2s"}, "its network 'fcn2s' is not known here: update fullconv"),
        ({"backbone": "resnet99"}, "its network cannot be built: there is no backbone 'resnet99'"),
        ({"classes": ["a", "b"], "palette": []}, "damaged: its weights do not fit its network"),
        ({"network": {"wide": 3}}, "unknown network settings"),
        ({"variant": "fcn32s"}, "damaged: its weights do not fit its network"),
    ],
)
def test_a_card_that_does_not_fit_its_weights_is_told_so(saved, tmp_path, change, words):
    path = rewritten(saved, tmp_path / "m.safetensors", change)
    with pytest.raises(ModelFileError, match=words) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_loading_draws_no_weights_at_random(saved, segmenter):
    """A network is built without memory first, and filled where all weights fit it: VGG-16 took 3 s to draw in vain."""
    before = torch.get_rng_state()
    found = load(saved, engine="torch", precision="fp32")
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in segmenter.network.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], value), name
    assert all(p.requires_grad for p in found.network.parameters())
    assert not found.network.training


def test_a_card_of_a_large_network_takes_no_memory_for_it(saved, tmp_path):
    path = rewritten(saved, tmp_path / "m.safetensors", {"backbone": "vgg16", "network": {"width": 4.0}})
    before = torch.get_rng_state()
    with pytest.raises(ModelFileError, match="damaged: its weights do not fit its network"):
        load(path)
    assert torch.equal(torch.get_rng_state(), before)  # 8 GB of weights would have been drawn


class Grid(nn.Module):
    """Holds numbers that are computed when it is built, and that no file has."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("grid", torch.arange(4.0), persistent=False)


def test_numbers_that_a_file_brings_are_not_drawn_before():
    with empty_init():
        layers = [nn.Conv2d(3, 4, 3), nn.Linear(5, 6), nn.init.trunc_normal_(torch.ones(3))]
    assert not any(value.any() for layer in layers[:2] for value in layer.parameters())
    assert not layers[2].any()
    assert nn.Conv2d(3, 4, 3).weight.all()  # and are drawn again afterwards


def test_tensors_that_no_file_has_are_computed_again():
    plain = nn.Identity()
    plain.grid = torch.arange(4.0)
    modules = (Grid(), plain, nn.BatchNorm2d(3))
    assert [has_unsaved_tensors(nn.Sequential(module)) for module in modules] == [True, True, False]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "cuda:9"}, "device cuda:9 is not available: PyTorch finds"),
        ({"device": "gpu"}, "there is no device 'gpu': use auto, cpu, cuda or cuda:0"),
        ({"device": "meta"}, "device meta is not supported"),
    ],
)
def test_a_device_that_is_not_there_is_reported(saved, options, words):
    with pytest.raises(RecipeError, match=words):
        load(saved, **options)


def test_auto_takes_what_is_there():
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_threads_may_predict_at_once_also_while_a_network_is_traced():
    """torch.fx changes how all modules are called while it traces, in every thread."""
    torch.manual_seed(0)
    fresh = Segmenter.from_network(build("fcn8s", backbone="tiny", num_classes=3, width=0.5), classes=["a", "b", "c"])
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    with ThreadPoolExecutor(4) as pool:
        maps = [pool.submit(lambda: fresh.predict(image).label_map) for _ in range(8)]
        built = [pool.submit(build, "fcn16s", backbone="tiny", num_classes=2, width=0.25) for _ in range(4)]
        assert all(np.array_equal(found.result(), fresh.predict(image).label_map) for found in maps)
        assert all(found.result().stride == 32 for found in built)


def test_a_tensor_is_labelled_as_its_image(segmenter, picture):
    tensor = torch.from_numpy(picture).movedim(-1, 0)
    expected = segmenter.predict(picture).label_map
    assert np.array_equal(segmenter.predict(tensor).label_map, expected)
    assert np.array_equal(segmenter.predict_many([picture, tensor.float()[None]])[1].label_map, expected)
    fractions = segmenter.predict(tensor / 255)
    assert [notice.code for notice in fractions.notices] == ["value-range"]
    with pytest.raises(InputError, match=r"np\.moveaxis"):
        segmenter.predict(tensor.numpy())
