"""What a format is: a row of the registry, and what it reads from a folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fullconv.data.config import DataSettings
from fullconv.data.files import Folder
from fullconv.data.problems import Problem, Severity, problem
from fullconv.data.samples import Sample

SPLIT_NAMES = {
    "train": ("train", "training", "train_extra"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Names of folders, lists and subsets by split."""
_SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}


def split_of(*names: str) -> str:
    """Return the split of the first of some names that is one of `SPLIT_NAMES`; "" if none is."""
    return next((_SPLIT_OF[name] for name in map(str.lower, names) if name in _SPLIT_OF), "")


def split_in(text: str) -> str:
    """Return the split of the first word in a text that names one: instances_val2017 is val; "" if none does."""
    return split_of(*re.findall(r"[a-z]+", text.lower()))


@dataclass
class FormatResult:
    """Samples by split, and what the format knows about the classes."""

    root: Path
    splits: dict[str, list[Sample]] = field(default_factory=dict)
    """By "train", "val", "test"; "" where the format does not split."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Keys of data.toml that follow from the format (classes, values, colors, ...); the user's own come first."""
    problems: list[Problem] = field(default_factory=list)
    partial: frozenset[str] = frozenset()
    """Stems of images that have no mask; `splits` omits them."""

    @property
    def samples(self) -> list[Sample]:
        """All samples."""
        return [sample for members in self.splits.values() for sample in members]

    def add(self, split: str, sample: Sample) -> None:
        """Add a sample to a split."""
        self.splits.setdefault(split, []).append(sample)

    def report(
        self,
        code: str,
        severity: Severity,
        files: Iterable[Path | str],
        cause: str,
        fix: str = "",
        stems: Sequence[str] = (),
    ) -> None:
        """Add a problem of some files (those of the data folder relative to it), if there are any."""
        names = [path if isinstance(path, str) else path.relative_to(self.root).as_posix() for path in files]
        if names:
            self.problems.append(problem(code, severity, names, cause, fix, stems))

    def report_missing_images(self, masks: Iterable[Path], where: str) -> None:
        """Report masks without an image: an error if nothing could be paired."""
        severity: Severity = "warning" if any(self.splits.values()) else "error"
        fix = "Add the images, or move the masks elsewhere."
        self.report("missing-picture", severity, masks, f"masks have no image {where}", fix)

    def merge_unsplit(self) -> None:
        """Move samples without a split to train if there are other splits."""
        if len(self.splits) > 1 and "" in self.splits:
            self.splits.setdefault("train", []).extend(self.splits.pop(""))


class Format(NamedTuple):
    """A row of the registry."""

    name: str
    """What `--format` and data.toml call it."""
    family: str
    """What is reported as the format."""
    detect: Callable[[Folder, DataSettings], str | None]
    """Returns the evidence for the format, or None if it does not fit."""
    read: Callable[[Folder, DataSettings], FormatResult]
    priority: int = 0
    """A format counts only if none of a lower number fits: data sets of other formats have lists and suffixes, too."""
