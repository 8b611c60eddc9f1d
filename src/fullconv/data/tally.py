"""What is wrong with a data set as a whole, counted sample by sample."""

from __future__ import annotations

from collections import Counter

import numpy as np

from fullconv.data.dataset import Dataset
from fullconv.data.findings import shown
from fullconv.data.inference import binary_problem, color_problem
from fullconv.data.problems import Problem, problem
from fullconv.data.samples import Sample
from fullconv.data.scan import MaskFacts, PictureFacts
from fullconv.data.statistics import all_grey, class_counts
from fullconv.labels import VOID


class Tally:
    """What shows only over the whole data set."""

    def __init__(self, dataset: Dataset, head: str = "") -> None:
        self.dataset, self.head = dataset, head
        self.coding = dataset.codings[head]
        self.names = self.coding.labels.classes
        self.own = dataset.settings.of_head(head)
        self.pixels = {split: np.zeros(len(self.names), np.int64) for split in dataset.splits}
        self.numbers: Counter[int] = Counter()
        self.colors: Counter[int] = Counter()
        self.colored: list[Sample] = []
        self.first: dict[bytes, tuple[str, Sample]] = {}
        self.twice: list[tuple[Sample, Sample]] = []
        self.types: set[str] = set()
        self.low, self.high = float("inf"), float("-inf")
        self.void: list[Sample] = []

    def add(self, split: str, sample: Sample, picture: PictureFacts, mask: MaskFacts) -> None:
        """Count one sample."""
        if not picture.error:
            key = bytes.fromhex(picture.digest[:24])
            before = self.first.setdefault(key, (split, sample))
            if before[0] != split:
                self.twice.append((before[1], sample))
        if split == "train" and not picture.error:
            self.types.add(picture.dtype)
            self.low, self.high = min(self.low, *picture.low), max(self.high, *picture.high)
        if mask.error:
            return
        coding = self.coding
        if mask.in_color and not all_grey(mask):
            if not coding.colors:
                self.colors.update(mask.counts)
                self.colored.append(sample)
        elif not coding.by_color:
            self.numbers.update({value & 255 if mask.in_color else value for value in mask.counts})
        counts, _, unknown = class_counts(mask, coding)
        self.pixels[split] += counts
        if split == "train" and not unknown and not counts.any():
            self.void.append(sample)

    def of_masks(self) -> list[Problem]:
        """Return what the counts say of masks."""
        return [*self._binary(), *self._shifted(), *self._colored(), *self._void(), *self._classes()]

    def of_pictures(self) -> list[Problem]:
        """Return what the counts say of pictures."""
        return [*self._constant(), *self._repeated()]

    def _constant(self) -> list[Problem]:
        if self.low != self.high or "uint8" in self.types:
            return []
        files = [shown(sample.image, self.dataset.root) for sample in self.dataset.splits["train"]]
        words = f"every pixel of every picture in train is {self.low:g}, so there is nothing to learn from"
        return [problem("constant-pictures", "error", files, words, "Check how the pictures were exported.")]

    def _void(self) -> list[Problem]:
        if not self.void or len(self.void) < len(self.dataset.splits["train"]):
            return []
        words = "every mask in train is void everywhere, so there is nothing to learn from"
        remedy = "Name the numbers that are classes in values of data.toml, or export the masks again."
        return [problem("nothing-to-learn", "error", [self._name(s) for s in self.void], words, remedy)]

    def _binary(self) -> list[Problem]:
        coding = self.coding
        named = coding.labels.values is not None or self.own.ignore_index is not None
        if named or len(self.names) != 2 or set(self.numbers) not in ({0, VOID}, {VOID}) or self.colored:
            return []
        files = [self._name(s) for members in self.dataset.splits.values() for s in members]
        return [binary_problem(files, self.names)]

    def _shifted(self) -> list[Problem]:
        """Find masks that count from 1 where classes count from 0."""
        coding = self.coding
        names = self.names
        values = set(self.numbers) - {VOID}
        named = coding.labels.values is not None or self.own.ignore_index is not None
        if named or self.colored or not values or min(values) != 1 or max(values) != len(names):
            return []
        table = ", ".join(f'{i} = "{name}"' for i, name in enumerate(names, 1))
        words = f"masks hold the labels 1 to {len(names)} and no 0, so they count the {len(names)} classes from 1"
        files = [self._name(s) for members in self.dataset.splits.values() for s in members]
        return [problem("off-by-one", "error", files, words, f"Add to data.toml:\nvalues = {{ {table} }}")]

    def _colored(self) -> list[Problem]:
        if not self.colored:
            return []
        told = color_problem([self._name(s) for s in self.colored], self.colors)
        some = len(self.colored) < sum(len(members) for members in self.dataset.splits.values())
        stems = frozenset(s.stem for s in self.colored) if some else frozenset()
        return [Problem(told.code, told.severity, told.count, told.files, told.cause, told.remedy, stems)]

    def _repeated(self) -> list[Problem]:
        if not self.twice:
            return []
        root = self.dataset.root
        files = [shown(second.image, root) for _, second in self.twice]
        first = shown(self.twice[0][0].image, root)
        words = (
            f"pictures are in two splits with the same bytes, as {files[0]} and {first}, so scores would be too good"
        )
        return [problem("duplicate-across-splits", "warning", files, words, "Remove them from one of the splits.")]

    def _classes(self) -> list[Problem]:
        found = []
        names = self.names
        train = self.pixels.get("train")
        everywhere = sum(self.pixels.values(), np.zeros(len(names), np.int64))
        if train is not None and train.any():
            lost = [names[i] for i in np.flatnonzero((train == 0) & (everywhere > 0))]
            if lost:
                words = "classes are in val or test but not in train, so they cannot be learned"
                remedy = "Move pictures with them to train, or take the classes off."
                found.append(problem("class-missing-in-train", "warning", lost, words, remedy))
        unused = [names[i] for i in np.flatnonzero(everywhere == 0)]
        if unused and everywhere.any():
            found.append(problem("class-unused", "note", unused, "classes are in no mask", ""))
        return found

    def _name(self, sample: Sample) -> str:
        return shown(sample.masks[self.head].path, self.dataset.root)
