"""Look at every file of a data set, and say all that is wrong with it in one go."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fullconv.data.dataset import Dataset, open_dataset
from fullconv.data.findings import Findings
from fullconv.data.inference import binary_problem, color_problem
from fullconv.data.problems import BadDataError, Problem, errors, problem
from fullconv.data.samples import Sample
from fullconv.data.scan import MaskFacts, PictureFacts
from fullconv.data.statistics import all_grey, class_counts, common_kind
from fullconv.errors import FullconvError
from fullconv.labels import VOID

Progress = Callable[[int, int], None]
"""Called with how many samples are done, and how many there are."""

_ORDER = {"error": 0, "warning": 1, "note": 2}


def inspect(
    data: Dataset | str | os.PathLike[str],
    progress: Progress | None = None,
    format: str | None = None,  # noqa: A002  # the name of the option
) -> list[Problem]:
    """Decode every picture and mask, and return what is wrong, errors first.

    Args:
        data: An opened data set, or its path.
        progress: Told after each sample.
        format: Name of the layout of a path where several fit.

    Returns:
        Problems with a code of docs/checks.md; empty for a healthy data set.
    """
    return _examine(data, progress, format)[1]


def summary(
    data: Dataset | str | os.PathLike[str],
    progress: Progress | None = None,
    format: str | None = None,  # noqa: A002  # the name of the option
) -> dict[str, Any]:
    """Return what `fullconv check --json` prints: ok, format, classes, splits, problems; arguments as of `inspect`."""
    dataset, problems = _examine(data, progress, format)
    classes: list[dict[str, Any]] = []
    splits: dict[str, int] = {}
    if dataset is not None:
        splits = {split: len(members) for split, members in dataset.splits.items()}
        pixels, pictures = _frequencies(dataset)
        classes = [
            {"index": i, "name": name, "pixels": int(pixels[i]), "pictures": int(pictures[i])}
            for i, name in enumerate(dataset.classes)
        ]
    return {
        "ok": not errors(problems),
        "format": None if dataset is None else dataset.format,
        "classes": classes,
        "splits": splits,
        "problems": [found.to_dict() for found in problems],
    }


def require_usable(dataset: Dataset, progress: Progress | None = None) -> tuple[Dataset, list[Problem]]:
    """Inspect a data set before training; return it, without bad samples where `skip_bad` is set, and all problems.

    Raises:
        BadDataError: There are errors, all named; with `skip_bad`, those that leaving out samples does not mend.
    """
    problems = inspect(dataset, progress)
    bad = errors(problems)
    if not bad:
        return dataset, problems
    if not dataset.skip_bad:
        raise BadDataError(str(dataset.root), bad)
    whole = [found for found in bad if not found.stems and found.code not in ("duplicate-stem", "missing-listed")]
    if whole:
        raise BadDataError(str(dataset.root), whole)
    rest = dataset.without(stem for found in bad for stem in found.stems)
    if not rest.splits.get("train"):
        raise BadDataError(str(dataset.root), bad)
    return rest, problems


def _examine(
    data: Dataset | str | os.PathLike[str], progress: Progress | None, name: str | None
) -> tuple[Dataset | None, list[Problem]]:
    if isinstance(data, Dataset):
        dataset = data
    else:
        try:
            dataset = open_dataset(data, format=name)
        except BadDataError as error:
            return None, _sorted(error.problems)
        except FullconvError as error:
            return None, [_unusable(str(data), str(error))]
    findings = Findings(dataset.root)
    problems = [*dataset.problems, *_empty_splits(dataset)]
    kinds: dict[tuple[int, str], list[Sample]] = {}
    tally = _Tally(dataset)
    total = sum(len(members) for members in dataset.splits.values())
    done = 0
    for split, members in dataset.splits.items():
        pictures = dataset.scanner.pictures(sample.image for sample in members)
        masks = dataset.scanner.masks(sample.masks[""] for sample in members)
        for sample, picture, mask in zip(members, pictures, masks, strict=True):
            _look_at_picture(dataset, sample, picture, findings)
            if not picture.error:
                kinds.setdefault((picture.channels, picture.dtype), []).append(sample)
            _look_at_mask(dataset, sample, picture, mask, findings)
            tally.add(split, sample, picture, mask)
            done += 1
            if progress is not None:
                progress(done, total)
    problems += findings.problems() + _different_kinds(dataset, kinds) + tally.problems()
    return dataset, _sorted(_without_repetition(problems))


def _unusable(name: str, words: str) -> Problem:
    """Tell an error's first sentence as the cause, and the rest as the remedy."""
    skip = len(name) if words.startswith(name) else 0  # a full stop in the name ends no sentence
    end = re.search(r"[.;] (?=[A-Z])", words[skip:])
    cause, remedy = (words, "") if end is None else (words[: skip + end.start()], words[skip + end.end() :])
    if not remedy and "data.toml" in words:
        remedy = "Correct data.toml."
    return problem("unusable", "error", [name], cause.removesuffix("."), remedy)


def _sorted(problems: Sequence[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda found: _ORDER[found.severity])


def _without_repetition(problems: list[Problem]) -> list[Problem]:
    """Leave out what follows from a larger problem: 0/255 masks also have all-void ones."""
    codes = {found.code for found in problems}
    hidden = {"all-void"} if "nothing-to-learn" in codes else set()
    if codes & {"binary-mask", "rgb-mask"}:
        hidden = {"all-void", "nothing-to-learn", "class-missing-in-train", "class-unused"}
    return [found for found in problems if found.code not in hidden]


def _empty_splits(dataset: Dataset) -> list[Problem]:
    found = []
    if not dataset.splits.get("train"):
        words = "there is nothing to train on: no picture with a mask in train"
        found.append(problem("empty-split", "error", ["train"], words, "Put pictures and masks there."))
    for split in ("val", "test"):
        if split in dataset.splits and not dataset.splits[split]:
            words = f"there is no picture with a mask in {split}"
            remedy = "Put some there; without val the last model is kept, not the best."
            found.append(problem("empty-split", "warning", [split], words, remedy if split == "val" else ""))
    return found


def _look_at_picture(dataset: Dataset, sample: Sample, facts: PictureFacts, findings: Findings) -> None:
    if facts.error:
        findings.unreadable(facts.code, sample, sample.image, facts.error)
        return
    if facts.strange:
        findings.add("not-finite", sample, sample.image, f"{facts.strange} numbers of the first are NaN or infinite")
    if dataset.bands is not None and max(dataset.bands) > facts.channels:
        asked = f"the first has {facts.channels}, data.toml asks for band {max(dataset.bands)}"
        findings.add("missing-band", sample, sample.image, asked)


def _look_at_mask(
    dataset: Dataset, sample: Sample, picture: PictureFacts, facts: MaskFacts, findings: Findings
) -> None:
    path = sample.masks[""].path
    if facts.error:
        findings.unreadable(facts.code, sample, path, facts.error)
        return
    if not picture.error and facts.size != picture.size:
        (h, w), (height, width) = facts.size, picture.size
        turned = ", turned by 90 degrees" if (h, w) == (width, height) and h != w else ""
        findings.add("mask-size", sample, path, f"the first is {w}x{h}, its picture {width}x{height}{turned}")
    if facts.format in ("JPEG", "MPO"):
        findings.add("jpeg-mask", sample, path, "JPEG changes numbers near every edge")
    coding = dataset.codings[""]
    if facts.in_color and not coding.colors and not all_grey(facts):
        return  # told once for all, with the colours
    classes, _, unknown = class_counts(facts, coding)
    if unknown and not (facts.format in ("JPEG", "MPO") and facts.many):
        in_color = coding.by_color or (facts.in_color and bool(coding.colors))
        findings.unknown(sample, path, unknown, in_color)
    elif not unknown and not classes.any():
        findings.add("all-void", sample, path, "they hold no class at all")


def _different_kinds(dataset: Dataset, kinds: dict[tuple[int, str], list[Sample]]) -> list[Problem]:
    """Name the pictures whose channels or type are not those of most."""
    if len(kinds) < 2 or (dataset.bands is not None and len({dtype for _, dtype in kinds}) == 1):
        return []
    if common_kind(kinds) is not None:
        grey = [sample.image.relative_to(dataset.root).as_posix() for sample in kinds[1, "uint8"]]
        return [problem("grey-among-color", "note", grey, "pictures are grey and are read as R = G = B", "")]
    most = max(kinds, key=lambda kind: len(kinds[kind]))
    found = []
    for code, position, words in (("channels-differ", 0, "channels"), ("dtype-differs", 1, "number type")):
        other = [s for kind, members in kinds.items() if kind[position] != most[position] for s in members]
        if other:
            files = [sample.image.relative_to(dataset.root).as_posix() for sample in other]
            kinds_said = sorted({str(kind[position]) for kind in kinds if kind[position] != most[position]})
            cause = f"pictures differ in {words}: most have {most[position]}, these {', '.join(kinds_said)}"
            remedy = "Convert all to one kind, or leave these out."
            found.append(problem(code, "error", files, cause, remedy, (sample.stem for sample in other)))
    return found


class _Tally:
    """What shows only over the whole data set."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.pixels = {split: np.zeros(len(dataset.classes), np.int64) for split in dataset.splits}
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
        coding = self.dataset.codings[""]
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

    def problems(self) -> list[Problem]:
        """Return what the counts say."""
        return [
            *self._binary(),
            *self._colored(),
            *self._constant(),
            *self._void(),
            *self._repeated(),
            *self._classes(),
        ]

    def _constant(self) -> list[Problem]:
        if self.low != self.high or "uint8" in self.types:
            return []
        files = [sample.image.relative_to(self.dataset.root).as_posix() for sample in self.dataset.splits["train"]]
        words = f"every pixel of every picture in train is {self.low:g}, so there is nothing to learn from"
        return [problem("constant-pictures", "error", files, words, "Check how the pictures were exported.")]

    def _void(self) -> list[Problem]:
        if not self.void or len(self.void) < len(self.dataset.splits["train"]):
            return []
        words = "every mask in train is void everywhere, so there is nothing to learn from"
        remedy = "Name the numbers that are classes in values of data.toml, or export the masks again."
        return [problem("nothing-to-learn", "error", [self._name(s) for s in self.void], words, remedy)]

    def _binary(self) -> list[Problem]:
        coding = self.dataset.codings[""]
        named = coding.labels.values is not None or self.dataset.settings.ignore_index is not None
        if named or len(self.dataset.classes) != 2 or set(self.numbers) not in ({0, VOID}, {VOID}) or self.colored:
            return []
        files = [self._name(s) for members in self.dataset.splits.values() for s in members]
        return [binary_problem(files, self.dataset.classes)]

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
        files = [second.image.relative_to(root).as_posix() for _, second in self.twice]
        first = self.twice[0][0].image.relative_to(root).as_posix()
        words = (
            f"pictures are in two splits with the same bytes, as {files[0]} and {first}, so scores would be too good"
        )
        return [problem("duplicate-across-splits", "warning", files, words, "Remove them from one of the splits.")]

    def _classes(self) -> list[Problem]:
        found = []
        names = self.dataset.classes
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
        return sample.masks[""].path.relative_to(self.dataset.root).as_posix()


def _frequencies(dataset: Dataset) -> tuple[Any, Any]:
    """Return (K,) pixels and pictures by class over all splits."""
    pixels = np.zeros(len(dataset.classes), np.int64)
    pictures = np.zeros(len(dataset.classes), np.int64)
    for members in dataset.splits.values():
        for facts in dataset.scanner.masks(sample.masks[""] for sample in members):
            if not facts.error:
                counts = class_counts(facts, dataset.codings[""])[0]
                pixels += counts
                pictures += counts > 0
    return pixels, pictures
