"""timm and torchvision are loaded as far as needed, and are whole for whoever asks."""

import subprocess
import sys

import pytest

SPARING = """
import sys
from fullconv.card import Card
from fullconv.nn import build, zoo
from fullconv.nn.build import filled

weights = build("fcn8s", backbone="{backbone}", num_classes=2, weights="none").state_dict()
again = filled(Card(variant="fcn8s", backbone="{backbone}", classes=("a", "b")), weights).state_dict()
assert all((again[name] == value).all() for name, value in weights.items())
print("torch._dynamo" in sys.modules, "timm.models.beit" in sys.modules)
"""

WHOLE = """
import timm
import torchvision
import torchvision.ops
from timm.data import create_transform
from timm.models import resnet

print(timm.is_model("regnety_002"), timm.create_model("resnet18", num_classes=7).fc.out_features)
print(timm.models.resnet is resnet, timm.layers.BatchNormAct2d.__name__, timm.__version__ == timm.version.__version__)
boxes, scores = torchvision.ops.boxes._box_inter_union.__name__, torchvision.models.resnet18().fc.out_features
print(boxes, scores, torchvision.transforms.functional.InterpolationMode.BILINEAR.value, len(zoo._pending))
"""


def answers(program: str) -> list[str]:
    """Run a program in a process of its own; return the lines that it prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_network_loads_neither_the_compiler_nor_other_families_and_others_get_the_packages_whole():
    assert answers(SPARING.format(backbone="resnet18") + WHOLE) == [
        "False False",
        "True 7",
        "True BatchNormAct2d True",
        "_box_inter_union 1000 bilinear 0",
    ]


@pytest.mark.slow
def test_a_timm_that_is_built_otherwise_is_loaded_whole():
    elsewhere = 'from fullconv.nn import zoo\nzoo._FAMILIES = {"resnet": "no_such_file"}\n'
    assert answers(elsewhere + SPARING.format(backbone="resnet18")) == ["True True"]
