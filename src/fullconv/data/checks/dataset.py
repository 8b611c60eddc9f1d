"""What is wrong with a data set as a whole, counted sample by sample."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
from numpy.typing import NDArray

from fullconv.data.checks.alignment import FEWEST, Pairing
from fullconv.data.checks.appearance import Appearance
from fullconv.data.checks.catalog import JPEG_FORMATS, Findings, shown
from fullconv.data.checks.duplicates import Alike
from fullconv.data.checks.palettes import Palettes
from fullconv.data.class_files import similar_classes
from fullconv.data.config import read_table
from fullconv.data.dataset import Dataset
from fullconv.data.formats import BoundsCheck, DrawnMask
from fullconv.data.labels.diagnose import Numbering
from fullconv.data.labels.histogram import Census, void_numbers
from fullconv.data.labels.infer import color_problem
from fullconv.data.problems import SHOWN, Problem, problem
from fullconv.data.samples import MaskFile, Sample
from fullconv.data.scan.stats import MaskFacts, PictureFacts
from fullconv.data.statistics import class_counts, meaning_of
from fullconv.labels import VOID

_CLASSES_SHOWN = 12
_FEW_LEVELS = 64
"""Pictures with fewer different numbers look like masks."""


class Tally:
    """What shows only over the whole data set."""

    def __init__(self, dataset: Dataset, head: str = "") -> None:
        self.dataset, self.head = dataset, head
        self.coding = dataset.codings[head]
        self.names = self.coding.labels.classes
        self.own = dataset.settings.of_head(head)
        self.census = Census(void_numbers(self.coding.labels))
        self.pixels = {split: np.zeros(len(self.names), np.int64) for split in dataset.splits}
        self.pictures = np.zeros(len(self.names), np.int64)
        self.void_pixels = 0
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.types: set[str] = set()
        self.low, self.high = float("inf"), float("-inf")
        self.levels = 0
        self.void: dict[str, list[Sample]] = defaultdict(list)
        self.digests: dict[str, list[Sample]] = defaultdict(list)
        self.holders: dict[int, list[Sample]] = defaultdict(list)
        """Of val and test, the first few by class."""
        self.photos = 0
        self.plain: list[Sample] = []
        self.palettes = Palettes()
        self.alike = Alike()
        self.pairing = Pairing()
        self.appearance = Appearance(self.names)
        self._numbers: NDArray[np.uint8] | None = None
        self.frame = BoundsCheck()

    def add(self, split: str, sample: Sample, picture: PictureFacts, mask: MaskFacts) -> None:
        """Count one sample."""
        if not picture.error:
            self.sizes[picture.size] += 1
            self.levels = max(self.levels, picture.levels or _FEW_LEVELS)
            self.alike.add(split, sample, picture)
            if picture.low == picture.high:
                self.plain.append(sample)
            if split == "train":
                self.types.add(picture.dtype)
                self.low, self.high = min(self.low, *picture.low), max(self.high, *picture.high)
        if mask.error:
            return
        self.frame.add(sample, sample.masks[self.head], mask.size)
        coding = self.coding
        counts, void, unknown = class_counts(mask, coding)
        self.pixels[split] += counts
        self.pictures += counts > 0
        self.void_pixels += void
        if split != "train":
            for index in np.flatnonzero(counts).tolist():
                if len(self.holders[index]) < SHOWN:
                    self.holders[index].append(sample)
        if not unknown and not counts.any():
            self.void[split].append(sample)
        if mask.format in JPEG_FORMATS:
            self.photos += mask.many and mask.in_color
            return
        self.photos += mask.many and mask.in_color
        if not isinstance(sample.masks[self.head], DrawnMask):  # we number these ourselves
            self.census.add(sample, mask, by_color=bool(coding.colors))
        self.palettes.add(sample, mask)
        if (counts > 0).sum() > 1 and isinstance(sample.masks[self.head], MaskFile):
            self.digests[mask.digest].append(sample)
        if not picture.error:
            self._look(split, sample, picture, mask)

    def _look(self, split: str, sample: Sample, picture: PictureFacts, mask: MaskFacts) -> None:
        pair = self.pairing.add(split, sample, picture, mask)
        if pair is not None and (meaning := self._meaning(mask, pair.mask)) is not None:
            self.appearance.add(split, pair, meaning)

    def _meaning(self, mask: MaskFacts, cells: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """Return the class of each number of a mask's small copy, where colours and large numbers are ranks; None if unclear."""
        held = sorted(mask.counts)
        plain = not (mask.in_color or self.coding.by_color or held[-1] > VOID)
        if plain and self._numbers is not None:
            return self._numbers
        if plain:
            numbers = {value: value for value in range(VOID + 1)}
        elif mask.in_color or held[-1] > VOID:
            if len(np.unique(cells)) < len(held):  # some are not in the copy, so ranks say nothing
                return None
            numbers = dict(enumerate(held))
        else:
            numbers = dict(zip(held, held, strict=True))
        table = np.full(256, VOID, np.uint8)
        for place, value in numbers.items():
            found = meaning_of(value, mask, self.coding)
            table[place] = VOID if found is None else found
        if plain:
            self._numbers = table
        return table

    def of_masks(self) -> list[Problem]:
        """Return what the counts say of masks."""
        return [
            *self._numbered(),
            *self._blurred(),
            *(self._exchanged() or self._colored()),
            *self._nothing(),
            *self._same_mask(),
            *self._frame(),
            *self.palettes.problems(self.dataset, self.head),
            *self._classes(),
        ]

    def of_pictures(self) -> list[Problem]:
        """Return what the counts say of pictures, by themselves and beside the masks."""
        return [
            *self._constant(),
            *self.pairing.problems(self.dataset),
            *self.appearance.problems(self.dataset, self.head),
            *self.alike.problems(self.dataset),
        ]

    def _constant(self) -> list[Problem]:
        few = "uint8" in self.types and sum(self.sizes.values()) < FEWEST
        if self.low != self.high or few:
            return self._plain()
        files = [shown(sample.image, self.dataset.root) for sample in self.plain]
        words = f"every pixel of every picture in train is {self.low:g}, so there is nothing to learn from"
        return [problem("constant-pictures", "error", files, words, "Check how the pictures were exported.")]

    def _plain(self) -> list[Problem]:
        count = sum(self.sizes.values())
        if not self.plain or (len(self.plain) == count and count < FEWEST):
            return []
        files = [shown(sample.image, self.dataset.root) for sample in self.plain]
        words = "pictures are of one colour everywhere, so they show nothing"
        remedy = "Check how they were exported, or delete them with their masks."
        return [problem("constant-pictures", "warning", files, words, remedy)]

    def _nothing(self) -> list[Problem]:
        """Find a train split in which there is no choice between classes."""
        train = self.pixels.get("train")
        if train is None or not self.dataset.splits.get("train"):
            return []
        remedy = "Name the numbers that are classes in values of data.toml, or export the masks again."
        if self.void["train"] and len(self.void["train"]) == len(self.dataset.splits["train"]):
            words = "every mask in train is void everywhere, so there is nothing to learn from"
            files = [self._name(s) for members in self.void.values() for s in members]
            return [problem("nothing-to-learn", "error", files, words, remedy)]
        if (train > 0).sum() != 1:
            return []
        files = [self._name(s) for s in self.dataset.splits["train"]]
        name = self.names[int(train.argmax())]
        words = f"the masks in train hold no class but '{name}', so there is nothing to learn from"
        return [problem("nothing-to-learn", "error", files, words, remedy)]

    def _numbered(self) -> list[Problem]:
        """Say why masks of numbers do not hold those of the classes."""
        coding, own = self.coding, self.own
        unnamed = own.class_names() is None and not (self.head and self.named())
        if coding.colors or self.census.colored:
            return []
        numbering = Numbering(self.dataset.root, self._names(), self.census, self.names)
        if unnamed:
            return []
        if (table := coding.labels.values) is not None:
            return [] if "values" in read_table(self.dataset.root) else numbering.diagnose_format(table)
        found = numbering.diagnose() or self._binary_among_others()
        told = own.ignore_index is not None  # what 255 is
        return [p for p in found if not (told and p.code in ("binary-mask", "void-as-class"))]

    def _binary_among_others(self) -> list[Problem]:
        few = self.census.other_binary()
        if not few:
            return []
        words = (
            "masks hold only 0 and 255 while the others hold classes and no 255, which is void, so these teach nothing"
        )
        remedy = "Export them as the others; if 255 is void there, say so: ignore_index = 255 in data.toml."
        return [problem("binary-mask", "warning", [self._name(sample) for sample in few], words, remedy)]

    def _blurred(self) -> list[Problem]:
        findings = Findings(self.dataset.root)
        for sample in self.census.blurred():
            findings.add("lossy-mask", sample, sample.masks[self.head].path, self.census.cause())
        return findings.problems()

    def _colored(self) -> list[Problem]:
        colored = self.census.colored
        if not colored:
            return []
        if self.coding.colors:
            return []
        everyone = sum(len(members) for members in self.dataset.splits.values())
        stems = frozenset(s.stem for s in colored) if len(colored) < everyone else frozenset()
        return [color_problem(self.dataset.root, [self._name(s) for s in colored], self.census, stems)]

    def _exchanged(self) -> list[Problem]:
        """Find masks in the place of pictures, and the other way round."""
        everyone = sum(len(members) for members in self.dataset.splits.values())
        if not everyone or 4 * self.photos < 3 * everyone or self.levels >= _FEW_LEVELS:  # small ones have few colours
            return []
        words = "masks look like photographs and pictures like masks, so their folders are exchanged"
        return [problem("folders-exchanged", "error", self._names(), words, "Exchange the two folders.")]

    def _frame(self) -> list[Problem]:
        """Find coordinates that are none of these pictures, unless the format has said so."""
        told = any(one.code == "bad-shape" and not one.files for one in self.dataset.problems)
        return [] if told else self.frame.problems()

    def _same_mask(self) -> list[Problem]:
        """Find a mask that stands for many different pictures."""
        same = max(self.digests.values(), key=len, default=[])
        total = sum(len(members) for members in self.digests.values())
        if len(same) < 3 or 2 * len(same) <= total:
            return []
        words = "masks of different pictures are the same, byte by byte"
        return [problem("same-mask", "warning", [self._name(s) for s in same], words, "Export the masks again.")]

    def _classes(self) -> list[Problem]:
        found = []
        names = self.names
        train = self.pixels.get("train")
        everywhere = sum(self.pixels.values(), np.zeros(len(names), np.int64))
        if train is not None and train.any():
            lost = np.flatnonzero((train == 0) & (everywhere > 0))
            if len(lost):
                named = ", ".join(f"'{names[i]}'" for i in lost[:_CLASSES_SHOWN])
                more = f" and {len(lost) - _CLASSES_SHOWN} more" if len(lost) > _CLASSES_SHOWN else ""
                words = f"classes are in val or test but not in train, so they cannot be learned: {named}{more}"
                remedy = "Move pictures with them to train, or take the classes off."
                holders = dict.fromkeys(sample for i in lost for sample in self.holders[int(i)])
                files = [self._name(sample) for sample in holders]
                found.append(problem("class-missing-in-train", "warning", files, words, remedy))
        unused = [names[i] for i in np.flatnonzero(everywhere == 0)]
        if unused and everywhere.any():
            found.append(problem("class-unused", "note", unused, "classes are in no mask", ""))
        told = any(one.code == "similar-classes" for one in self.dataset.problems)
        return (
            found if told else [*found, *similar_classes(names, "Give them one name, or names that tell them apart.")]
        )

    def named(self) -> bool:
        """Whether a head has a list of classes of its own."""
        return (self.dataset.root / f"classes_{self.head}.txt").is_file()

    def _names(self) -> list[str]:
        return [self._name(sample) for members in self.dataset.splits.values() for sample in members]

    def _name(self, sample: Sample) -> str:
        return shown(sample.judged(self.head), self.dataset.root)
