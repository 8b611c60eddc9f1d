"""Try timm's models picked at random as backbones, and write which serve and why others do not.

python benchmarks/backbones.py            # writes docs/reference/backbones.md
"""

from __future__ import annotations

import random
import warnings
from dataclasses import dataclass
from pathlib import Path

import timm
import torch

from fullconv.errors import FullconvError
from fullconv.nn import build
from fullconv.tiling import explain_inexact

LARGEST = 60.0
"""Millions of parameters; larger ones are drawn again, as memory would decide on them."""
HEADING = """# Any of timm's models as a backbone

{count} models of at most {largest:g} M parameters, picked at random (seed {seed}) from the {total} of timm {timm}, in
`fcn8s`. Made by `python benchmarks/backbones.py`; `make test-slow` tries them again. {serving} of {count} serve, {exact} of
them with exact tiles. One that cannot serve says so in one sentence and names the nearest in size that can.

| backbone | parameters | serves | receptive field | exact tiles |
|---|---|---|---|---|
"""


@dataclass
class Trial:
    """What became of one name."""

    name: str
    millions: float
    refusal: str | None
    field: int | None = None
    exact: bool = False
    reason: str = ""

    def row(self) -> str:
        """Return a row of the table."""
        if self.refusal is not None:
            return f"| {self.name} | {self.millions:.1f} M | no: {self.refusal} | | |"
        field = "unbounded" if self.field is None else str(self.field)
        return f"| {self.name} | {self.millions:.1f} M | yes | {field} | {'yes' if self.exact else self.reason} |"


def size(name: str) -> float:
    """Return a model's millions of parameters, or infinity where it cannot be made without numbers."""
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sum(p.numel() for p in timm.create_model(name, pretrained=False).parameters()) / 1e6
    except Exception:  # families that compute while they are made
        return float("inf")


def pick(count: int, seed: int) -> list[tuple[str, float]]:
    """Pick names at random, omitting what is too large."""
    names = timm.list_models()
    random.Random(seed).shuffle(names)
    chosen: list[tuple[str, float]] = []
    for name in names:
        if len(chosen) == count:
            break
        if (millions := size(name)) <= LARGEST:
            chosen.append((name, millions))
    return chosen


def attempt(name: str, millions: float) -> Trial:
    """Build one, and run it on an odd size.

    Raises:
        AssertionError: It was built and yet gives another size than the image's.
    """
    try:
        network = build("fcn8s", backbone=name, num_classes=2)
    except FullconvError as error:
        return Trial(name, millions, str(error).removeprefix(f"{name} ").replace("|", "/"))
    with torch.inference_mode():
        assert network(torch.randn(1, 3, 97, 65)).shape == (1, 2, 97, 65)
    exact = network.halo is not None
    return Trial(name, millions, None, network.receptive_field, exact, "" if exact else explain_inexact(network))


def table(count: int = 50, seed: int = 0) -> tuple[str, list[Trial]]:
    """Return the page and its trials."""
    trials = [attempt(name, millions) for name, millions in sorted(pick(count, seed))]
    serving = [trial for trial in trials if trial.refusal is None]
    heading = HEADING.format(
        count=len(trials), seed=seed, timm=timm.__version__, serving=len(serving), total=len(timm.list_models()),
        exact=sum(trial.exact for trial in serving), largest=LARGEST,
    )  # fmt: skip
    return heading + "".join(trial.row() + "\n" for trial in trials), trials


if __name__ == "__main__":
    page, _ = table()
    target = Path(__file__).parents[1] / "docs" / "reference" / "backbones.md"
    target.write_text(page, encoding="utf-8")
    print(target)
