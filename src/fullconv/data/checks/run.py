"""Look at every file of a data set, and say all that is wrong with it in one go."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fullconv.data.checks.catalog import Findings, shown
from fullconv.data.checks.dataset import Tally
from fullconv.data.checks.files import look_at_mask, look_at_picture
from fullconv.data.checks.training_notes import forecast
from fullconv.data.dataset import Dataset, find_root, open_dataset, open_with
from fullconv.data.problems import BadDataError, Problem, errors, of_head, problem
from fullconv.data.samples import Sample
from fullconv.data.statistics import common_kind
from fullconv.errors import FullconvError

Progress = Callable[[int, int], None]
"""Called with how many samples are done, and how many there are."""

_ORDER = {"error": 0, "warning": 1, "note": 2}

_NUMBERS = ("unknown-label", "class-missing-in-train", "class-unused", "constant-mask")
_MEANING = ("all-void", "nothing-to-learn", "class-missing-in-train", "class-unused", "constant-mask")
_EXPLAINS: dict[str, tuple[str, ...]] = {
    "nothing-to-learn": ("all-void", "constant-mask", "class-unused"),
    "binary-mask": _MEANING,
    "rgb-mask": _MEANING,
    "few-classes": _MEANING,
    "label-gaps": (*_MEANING, "unknown-label"),
    "folders-exchanged": (*_MEANING, "jpeg-mask", "lossy-mask", "rgb-mask"),
    "constant-pictures": ("duplicate-across-splits", "near-duplicate"),
    "mask-is-picture": ("rgb-mask", "class-unused"),
    "off-by-one": (*_NUMBERS, "nothing-to-learn"),
    "scaled-labels": (*_NUMBERS, "nothing-to-learn", "all-void"),
    "instance-ids": (*_NUMBERS, "nothing-to-learn"),
    "void-as-class": ("class-unused",),
    "lossy-mask": ("class-unused", "class-missing-in-train", "nothing-to-learn"),
    "jpeg-mask": ("class-unused", "class-missing-in-train", "nothing-to-learn"),
}
"""What follows from a larger problem is not told again: 0/255 masks also have all-void ones."""

_UNKNOWN = (
    "Without them there is nothing to learn from: export the masks again with class numbers as they are, not stretched"
    " to be seen; or say in values of data.toml what each number means."
)


@dataclass
class Examination:
    """What was found out about a data set."""

    root: Path
    dataset: Dataset | None
    """None where it could not even be opened as if the proposed lines were in data.toml."""
    problems: list[Problem]
    """Errors first."""
    tallies: dict[str, Tally] = field(default_factory=dict)
    """What was counted by head; empty where nothing could be."""

    @property
    def tally(self) -> Tally | None:
        """What was counted of the first head."""
        return next(iter(self.tallies.values()), None)

    def expect(self) -> list[str]:
        """Return what training on it will probably be like, in sentences: small sets, rare classes, large pictures."""
        return [] if self.dataset is None or self.tally is None else forecast(self.dataset, self.tally)

    def summary(self) -> dict[str, Any]:
        """Return what `fullconv check --json` prints.

        Classes are those of the first head; a data set of several has all of them in `heads`, by name.
        """
        by_head = {head: _classes_of(tally) for head, tally in self.tallies.items()}
        splits = {} if self.dataset is None else {split: len(members) for split, members in self.dataset.splits.items()}
        return {
            "ok": not errors(self.problems),
            "format": None if self.dataset is None else self.dataset.format,
            "classes": next(iter(by_head.values()), []),
            **({"heads": by_head} if len(by_head) > 1 else {}),
            "splits": splits,
            "problems": [found.to_dict() for found in self.problems],
        }


def examine(
    data: Dataset | str | os.PathLike[str],
    progress: Progress | None = None,
    format: str | None = None,  # noqa: A002  # the name of the option
) -> Examination:
    """Decode every picture and mask, and find what is wrong.

    Args:
        data: An opened data set, or its path.
        progress: Told after each sample.
        format: Name of the layout of a path where several fit.
    """
    if isinstance(data, Dataset):
        return _examine(data, [], progress)
    root = Path(data)
    try:
        root = find_root(data, format)
        return _examine(open_dataset(data, format=format), [], progress)
    except BadDataError as error:
        before = list(error.problems)
    except FullconvError as error:
        words = (
            str(error).replace(str(root), str(data)) if Path(data).is_file() else str(error)
        )  # not where it was unpacked
        return Examination(root, None, [_unusable(str(data), words)])
    more = {key: value for found in before for key, value in found.settings.items()}
    try:  # everything else that is wrong, as if this were mended
        return _examine(open_with(more, data, format, skip_bad=True), before, progress)
    except FullconvError:
        return Examination(root, None, _sorted(before))


def inspect(
    data: Dataset | str | os.PathLike[str],
    progress: Progress | None = None,
    format: str | None = None,  # noqa: A002  # the name of the option
) -> list[Problem]:
    """Return what is wrong with a data set, errors first; arguments as of `examine`.

    Returns:
        Problems with a code of docs/reference/checks.md; empty for a healthy data set.
    """
    return examine(data, progress, format).problems


def summary(
    data: Dataset | str | os.PathLike[str],
    progress: Progress | None = None,
    format: str | None = None,  # noqa: A002  # the name of the option
) -> dict[str, Any]:
    """Return what `fullconv check --json` prints: ok, format, classes, splits, problems; arguments as of `examine`."""
    return examine(data, progress, format).summary()


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


def _examine(dataset: Dataset, before: Sequence[Problem], progress: Progress | None) -> Examination:
    found: list[Problem] = list(before)
    known = {problem.code for problem in before}
    tallies: dict[str, Tally] = {}
    for head in dataset.heads:
        tallies[head] = tally = Tally(dataset, head)
        problems = _examine_head(dataset, tally, progress if head == dataset.heads[0] else None)
        new = _without_void_for_all(one for one in problems if one.code not in known)
        left = {id(one) for one in _without_repetition([*before, *new])}
        found += [one for one in new if id(one) in left]
    return Examination(dataset.root, dataset, _sorted(found), tallies)


def _examine_head(dataset: Dataset, tally: Tally, progress: Progress | None) -> list[Problem]:
    """Look at all masks of a head, with the pictures; what is wrong with pictures is told with the first head."""
    head = tally.head
    findings, of_masks = Findings(dataset.root), Findings(dataset.root, dataset.codings[head].named_colors)
    kinds: dict[tuple[int, str], list[Sample]] = {}
    total = sum(len(members) for members in dataset.splits.values())
    done = 0
    for split, members in dataset.splits.items():
        masks = dataset.scanner.masks(sample.masks[head] for sample in members)
        for sample, picture, mask in zip(members, dataset.picture_facts(members), masks, strict=True):
            look_at_picture(dataset, sample, picture, findings)
            if not picture.error:
                kinds.setdefault((picture.channels, picture.dtype), []).append(sample)
            look_at_mask(dataset, head, sample, picture, mask, of_masks)
            tally.add(split, sample, picture, mask)
            done += 1
            if progress is not None:
                progress(done, total)
    judged = _without_kept_back(dataset, tally, of_masks.problems())
    problems = [of_head(found, head) for found in [*judged, *tally.of_masks()]]
    if head == dataset.heads[0]:
        general = [*findings.problems(), *_different_kinds(dataset, kinds), *tally.of_pictures()]
        problems = [*dataset.problems, *_empty_splits(dataset), *general, *problems]
    return problems


def _without_kept_back(dataset: Dataset, tally: Tally, problems: list[Problem]) -> list[Problem]:
    """Tell masks that are void everywhere as a note where all of test are: many sets keep these back so."""
    void = tally.void.get("test", [])
    if not void or len(void) < len(dataset.splits["test"]):
        return problems
    names = [shown(sample.judged(tally.head), dataset.root) for sample in void]
    words = "masks of test are void everywhere, as where those who made the set keep them back"
    found = [problem("all-void", "note", names, words, "")]
    for one in problems:
        if one.code != "all-void":
            found.append(one)
        elif more := [s for split, members in tally.void.items() if split != "test" for s in members]:
            files = [shown(sample.judged(tally.head), dataset.root) for sample in more]
            found.append(problem("all-void", "warning", files, one.cause, one.remedy))
    return found


def _classes_of(tally: Tally) -> list[dict[str, Any]]:
    """Return index, name, pixels and pictures of a head's classes, over all splits."""
    pixels = sum(tally.pixels.values(), np.zeros(len(tally.names), np.int64))
    return [
        {"index": i, "name": name, "pixels": int(pixels[i]), "pictures": int(tally.pictures[i])}
        for i, name in enumerate(tally.names)
    ]


def _unusable(name: str, words: str) -> Problem:
    """Tell an error's first sentence as the cause, and the rest as the remedy."""
    skip = len(name) if words.startswith(name) else 0  # a full stop in the name ends no sentence
    end = re.search(r"[.;?] (?=[A-Z])", words[skip:])
    cause, remedy = (words, "") if end is None else (words[: skip + end.start()], words[skip + end.end() :])
    if not remedy and "data.toml" in words:
        remedy = "Correct data.toml."
    return problem("unusable", "error", [name], cause.removesuffix("."), remedy)


def _sorted(problems: Sequence[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda found: _ORDER[found.severity])


def _without_repetition(problems: list[Problem]) -> list[Problem]:
    """Leave out what follows from a larger problem."""
    codes = {found.code for found in problems}
    hidden = {code for larger, smaller in _EXPLAINS.items() if larger in codes for code in smaller}
    counts = {found.code: found.count for found in problems}
    if 2 * counts.get("unknown-label", 0) > counts.get("nothing-to-learn", 0):  # what is unknown may be the classes
        hidden.add("nothing-to-learn")
    return [found for found in problems if found.code not in hidden]


def _without_void_for_all(problems: Iterable[Problem]) -> list[Problem]:
    """Do not propose to make unknown numbers void where nothing but them could be learned."""
    listed = list(problems)
    if not any(one.code == "nothing-to-learn" for one in listed):
        return listed
    return [replace(one, remedy=_UNKNOWN) if one.code == "unknown-label" else one for one in listed]


def _empty_splits(dataset: Dataset) -> list[Problem]:
    found = []
    if not dataset.splits.get("train"):
        words = "there is nothing to train on: no picture with a mask in train"
        found.append(problem("empty-split", "error", ["train"], words, "Put pictures and masks there."))
    kept_back = any(one.code == "missing-mask" and one.severity == "note" for one in dataset.problems)
    for split in ("val", "test"):
        if split in dataset.splits and not dataset.splits[split] and not (split == "test" and kept_back):
            words = f"there is no picture with a mask in {split}"
            remedy = "Put some there; without val the last model is kept, not the best."
            found.append(problem("empty-split", "warning", [split], words, remedy if split == "val" else ""))
    return found


def _different_kinds(dataset: Dataset, kinds: dict[tuple[int, str], list[Sample]]) -> list[Problem]:
    """Name the pictures whose channels or type are not those of most."""
    if len(kinds) < 2 or (dataset.bands is not None and len({dtype for _, dtype in kinds}) == 1):
        return []
    if common_kind(kinds) is not None:
        grey = [shown(sample.image, dataset.root) for sample in kinds[1, "uint8"]]
        return [problem("grey-among-color", "note", grey, "pictures are grey and are read as R = G = B", "")]
    most = max(kinds, key=lambda kind: len(kinds[kind]))
    found = []
    for code, position, words in (("channels-differ", 0, "channels"), ("dtype-differs", 1, "number type")):
        other = [s for kind, members in kinds.items() if kind[position] != most[position] for s in members]
        if other:
            files = [shown(sample.image, dataset.root) for sample in other]
            kinds_said = sorted({str(kind[position]) for kind in kinds if kind[position] != most[position]})
            cause = f"pictures differ in {words}: most have {most[position]}, these {', '.join(kinds_said)}"
            remedy = "Convert all to one kind, or leave these out."
            found.append(problem(code, "error", files, cause, remedy, (sample.stem for sample in other)))
    return found
