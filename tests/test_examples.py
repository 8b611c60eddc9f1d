"""Every example runs, on small settings, and what it claims holds."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fullconv
from fullconv.nn import VARIANTS

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("FULLCONV_OFFLINE", "1")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)  # training takes over those that were measured


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / name), run_name="example")


@pytest.mark.parametrize("name", NAMES)
def test_an_example_states_how_to_run_it(name):
    said = example(name)["__doc__"]
    assert f"Run it: python examples/{name}" in said
    assert "download" not in (EXAMPLES / name).read_text(encoding="utf-8").replace("no download", "")


def test_every_example_is_tested():
    tests = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in NAMES if f'"{name}"' not in tests] == []


def test_the_small_network_keeps_the_size_and_finds_rectangles_that_it_has_not_seen(capsys):
    module = example("small_network.py")
    found = module["main"]()
    said = capsys.readouterr().out
    assert "(1, 3, 128, 128) -> (1, 2, 128, 128)" in said
    assert "epoch 5 of 5: loss" in said
    assert "offset 0, stride 8" in said
    assert found["losses"] == sorted(found["losses"], reverse=True)
    assert found["losses"][-1] < found["losses"][0] / 5
    assert found["iou"] > 0.9
    assert found["shape"] == (127, 93)
    assert found["same"]


@pytest.mark.parametrize("size", [(1, 1), (7, 8), (8, 7), (31, 9), (64, 40)])
def test_the_small_network_gives_back_any_size(size):
    network = example("small_network.py")["SmallNetwork"](2)
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, *size)).shape == (1, 2, *size)


def test_the_rectangle_is_visible_in_its_image():
    rectangle = example("small_network.py")["rectangle"]
    image, mask = rectangle(np.random.default_rng(3))
    assert image.shape == (128, 128, 3)
    assert image[mask == 1].mean() > image[mask == 0].mean() + 30


def test_the_small_network_draws_its_result(tmp_path):
    pytest.importorskip("matplotlib")
    example("small_network.py")["main"](count=2, epochs=1, plot=str(tmp_path / "plot.png"))
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_probabilities_of_a_pixel_sum_to_one(capsys):
    for width in (64, 32):
        found = example("pixel_probabilities.py")["main"](width)
        assert found["logits"] == found["fcn8s"] == (1, 2, 4, 4)
        assert sum(found["probabilities"]) == pytest.approx(1, abs=1e-6)
        assert all(0 < probability < 1 for probability in found["probabilities"])
        assert found["receptive_field"] == 3
    assert "pixel (0, 0) is background: 0." in capsys.readouterr().out


def test_the_resnet_keeps_any_size_and_is_the_one_that_build_makes(capsys):
    found = example("resnet_fcn32s.py")["main"]()
    assert found["shapes"] == {224: (8, 21, 224, 224), 225: (1, 21, 225, 225)}
    assert found["phase"] == 0
    assert found["difference"] < 1e-5
    assert "(8, 3, 224, 224) -> (8, 21, 224, 224)" in capsys.readouterr().out


def test_size_based_interpolation_would_shift_the_resnets_scores():
    network = example("resnet_fcn32s.py")["ResNetFCN32s"](1)
    ramp = torch.arange(0, 320, 32.0).expand(1, 1, 10, 10)  # each cell holds the pixel that it lies on
    ours = network.upsample.to_size(ramp, 320, 320)[0, 0, 0]
    theirs = torch.nn.functional.interpolate(ramp, (320, 320), mode="bilinear", align_corners=False)[0, 0, 0]
    inside = torch.arange(32, 256)
    torch.testing.assert_close(ours[inside], inside.float())
    torch.testing.assert_close(theirs[inside], inside - 15.5)


def test_the_vgg_adds_maps_of_one_shape_and_has_one_loss():
    found = example("vgg_fcn8s.py")["main"]()
    assert found["shape"] == (1, 21, 224, 225)
    assert (found["wrong"], found["right"]) == (15, 14)
    losses = found["losses"]
    wrong = losses.pop("flattened without permuting (wrong)")
    right = losses["as it is"]
    assert list(losses.values()) == pytest.approx([right] * 3, abs=1e-5)
    assert abs(wrong - right) > 1e-3


def test_the_vgg_refuses_to_add_maps_of_different_shapes():
    add = example("vgg_fcn8s.py")["add"]
    with pytest.raises(ValueError, match=r"scores \(1, 2, 15, 15\) and \(1, 2, 14, 14\) cannot be added"):
        add(torch.zeros(1, 2, 15, 15), torch.zeros(1, 2, 14, 14))
    with pytest.raises(ValueError, match="cannot be added"):
        add(torch.zeros(1, 1, 14, 14), torch.zeros(1, 21, 14, 14))  # would broadcast


def test_the_vgg_is_the_one_that_build_makes_away_from_the_border():
    torch.manual_seed(0)
    network = example("vgg_fcn8s.py")["VGGFCN8s"](3).eval()
    same = fullconv.build("fcn8s", backbone="vgg16", num_classes=3, head={"fc": False})
    same.backbone.features.load_state_dict(network.features.state_dict())
    for stride, layer in ((32, network.score), (16, network.score_pool4), (8, network.score_pool3)):
        same.head.score[str(stride)].load_state_dict(layer.state_dict())
    x = torch.randn(1, 3, 160, 192)
    with torch.inference_mode():
        ours, theirs = network(x), same(x)
    # The transposed convolutions see zeros beyond the border, `build` repeats the last cell: 28 pixels at strides 32 to 8.
    inside = (..., slice(32, -32), slice(32, -32))
    torch.testing.assert_close(ours[inside], theirs[inside], rtol=1e-4, atol=1e-5)
    assert (ours - theirs).abs().max() > 1e-4


@pytest.mark.slow
def test_the_vgg_with_its_fully_connected_layers_as_convolutions():
    found = example("vgg_fcn8s.py")["main"](size=96, num_classes=3, fc=True)
    assert found["shape"] == (1, 3, 96, 97)


def test_own_data_reports_what_is_missing_and_then_learns(capsys):
    module = example("own_data.py")
    found = module["main"]()
    assert "[binary-mask] masks hold only 0 and 255" in found["reported"][0]
    assert 'values = { 0 = "background", 255 = "foreground" }' in found["reported"][0]
    assert "nothing is wrong" in capsys.readouterr().out
    assert found["mean_iou"] > 0.7
    assert sum(found["share"].values()) == 72 * 96
    assert found["files"] >= 5


@pytest.mark.slow
def test_own_data_takes_a_folder(tmp_path):
    module = example("own_data.py")
    data = module["make_export"](tmp_path / "mine", count=6)
    (data / "data.toml").write_text(module["SETTINGS"], encoding="utf-8")
    assert module["main"](data, epochs=1)["reported"] == []


def test_the_python_api_does_what_it_says():
    found = example("python_api.py")["main"]()
    assert found["network"] == {"logits": (1, 21, 97, 130), "scores": (1, 21, 16, 20), "equal": True}
    assert found["tiles"]["difference"] < 1e-5
    assert found["tiles"]["same"]
    assert found["run"]["mean_iou"] == found["run"]["in_card"]
    assert found["run"]["probabilities"] == (4, 48, 64)


def test_scores_counted_from_the_written_files_are_those_of_evaluate(demo):
    counted = example("count_scores.py")["main"](demo / "data" / "test" / "masks", demo / "predictions")
    report = fullconv.evaluate(fullconv.load(demo / "run"), demo / "data", split="test")
    assert (counted["images"], counted["pixels"]) == (report.images, report.pixels)
    assert counted["pixel_accuracy"] == pytest.approx(report.pixel_accuracy, abs=1e-12)
    assert counted["mean_iou"] == pytest.approx(report.mean_iou, abs=1e-12)


def test_tiles_are_exact_on_an_image_larger_than_the_window(demo, tmp_path, capsys):
    found = example("exact_tiles.py")["main"](demo / "run", save=tmp_path / "large.png", height=300, width=340)
    assert list(found) == [32, 64, 128, 256]
    assert all(difference < 1e-5 and labels == 0 for difference, labels in found.values())
    assert "tiles of 32: 110 windows of up to 288x288" in capsys.readouterr().out
    assert fullconv.read_image(tmp_path / "large.png").shape == (300, 340, 3)


def test_every_published_net_has_an_example_that_runs(capsys):
    found = example("published_nets.py")["main"]()
    published = [name for name, row in VARIANTS.items() if row.caffe is not None or row.upsample_mode == "size"]
    assert list(found) == published
    said = capsys.readouterr().out
    for name, shown in found.items():
        assert f"\n{name}: {VARIANTS[name].description}" in said
        assert set(shown["shapes"].values()) == {(97, 130)}
        assert max(row[3] for row in shown["layers"]) == shown["field"]
    assert set(found["siftflow-fcn8s"]["shapes"]) == {"semantic", "geometric"}
    crops = {name: shown["crops"] for name, shown in found.items()}
    assert (crops["voc-fcn32s"], crops["voc-fcn16s"], crops["voc-fcn8s"]) == ("19", "5, 27", "5, 9, 31")
    assert crops["voc-fcn-alexnet"] == "18"
    fields = {name: found[name]["field"] for name in ("voc-fcn8s", "voc-fcn-alexnet", "voc-fcn-googlenet")}
    assert fields == {"voc-fcn8s": 404, "voc-fcn-alexnet": 355, "voc-fcn-googlenet": 715}
