"""Look at every file of a data set, and say all that is wrong with it in one go."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fullconv.data.dataset import Dataset, open_dataset
from fullconv.data.findings import Findings, shown
from fullconv.data.problems import BadDataError, Problem, errors, of_head, problem
from fullconv.data.samples import Sample
from fullconv.data.scan import MaskFacts, PictureFacts
from fullconv.data.statistics import all_grey, class_counts, common_kind
from fullconv.data.tally import Tally
from fullconv.errors import FullconvError

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
    """Return what `fullconv check --json` prints: ok, format, classes, splits, problems; arguments as of `inspect`.

    Classes are those of the first head; a data set of several has all of them in `heads`, by name.
    """
    dataset, problems = _examine(data, progress, format)
    classes: list[dict[str, Any]] = []
    splits: dict[str, int] = {}
    heads: dict[str, Any] = {}
    if dataset is not None:
        splits = {split: len(members) for split, members in dataset.splits.items()}
        classes = _classes_of(dataset, dataset.heads[0])
        if len(dataset.heads) > 1:
            heads = {"heads": {head: _classes_of(dataset, head) for head in dataset.heads}}
    return {
        "ok": not errors(problems),
        "format": None if dataset is None else dataset.format,
        "classes": classes,
        **heads,
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
    found: list[Problem] = []
    for head in dataset.heads:
        found += _examine_head(dataset, head, progress if head == dataset.heads[0] else None)
    return dataset, _sorted(found)


def _examine_head(dataset: Dataset, head: str, progress: Progress | None) -> list[Problem]:
    """Look at all masks of a head, with the pictures; what is wrong with pictures is told with the first head."""
    findings, of_masks = Findings(dataset.root), Findings(dataset.root)
    kinds: dict[tuple[int, str], list[Sample]] = {}
    tally = Tally(dataset, head)
    total = sum(len(members) for members in dataset.splits.values())
    done = 0
    for split, members in dataset.splits.items():
        masks = dataset.scanner.masks(sample.masks[head] for sample in members)
        for sample, picture, mask in zip(members, dataset.picture_facts(members), masks, strict=True):
            _look_at_picture(dataset, sample, picture, findings)
            if not picture.error:
                kinds.setdefault((picture.channels, picture.dtype), []).append(sample)
            _look_at_mask(dataset, head, sample, picture, mask, of_masks)
            tally.add(split, sample, picture, mask)
            done += 1
            if progress is not None:
                progress(done, total)
    problems = [of_head(found, head) for found in [*of_masks.problems(), *tally.of_masks()]]
    if head == dataset.heads[0]:
        general = [*findings.problems(), *_different_kinds(dataset, kinds), *tally.of_pictures()]
        problems = [*dataset.problems, *_empty_splits(dataset), *general, *problems]
    return _without_repetition(problems)


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
    if "off-by-one" in codes:
        hidden = {"unknown-label", "class-missing-in-train", "class-unused"}
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
        if facts.code == "band-size" and sample.more is not None:
            findings.add("band-size", sample, sample.more, f"the first {facts.error}")
        else:
            path = next((path for path in sample.pictures if facts.error.startswith(str(path))), sample.image)
            findings.unreadable(facts.code, sample, path, facts.error)
        return
    if facts.strange:
        findings.add("not-finite", sample, sample.image, f"{facts.strange} numbers of the first are NaN or infinite")
    if dataset.bands is not None and max(dataset.bands) > facts.channels:
        asked = f"the first has {facts.channels}, data.toml asks for band {max(dataset.bands)}"
        findings.add("missing-band", sample, sample.image, asked)


def _look_at_mask(
    dataset: Dataset, head: str, sample: Sample, picture: PictureFacts, facts: MaskFacts, findings: Findings
) -> None:
    path = sample.masks[head].path
    if facts.error:
        findings.unreadable(facts.code, sample, path, facts.error)
        return
    if not picture.error and facts.size != picture.size:
        (h, w), (height, width) = facts.size, picture.size
        said = f"the first is {w}x{h}, its picture {width}x{height}{_relation(facts.size, picture.size)}"
        findings.add("mask-size", sample, path, said)
    if facts.format in ("JPEG", "MPO"):
        findings.add("jpeg-mask", sample, path, "JPEG changes numbers near every edge")
    coding = dataset.codings[head]
    if facts.in_color and not coding.colors and not all_grey(facts):
        return  # told once for all, with the colours
    classes, _, unknown = class_counts(facts, coding)
    if unknown and not (facts.format in ("JPEG", "MPO") and facts.many):
        in_color = coding.by_color or (facts.in_color and bool(coding.colors))
        findings.unknown(sample, path, unknown, in_color)
    elif not unknown and not classes.any():
        findings.add("all-void", sample, path, "they hold no class at all")


def _relation(mask: tuple[int, int], picture: tuple[int, int]) -> str:
    """Say how a mask of another size came to be, where the sizes tell."""
    (h, w), (height, width) = mask, picture
    if (h, w) == (width, height):
        return ", turned by 90 degrees"
    if max(abs(h - height), abs(w - width)) <= 1:
        return ", off by one pixel"
    if min(h, w) > 1 and abs(h / height - w / width) * max(height, width) <= max(h / height, w / width, 1):
        return f", scaled by {h / height:.3g}"
    return ""


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


def _classes_of(dataset: Dataset, head: str) -> list[dict[str, Any]]:
    """Return index, name, pixels and pictures of a head's classes."""
    pixels, pictures = _frequencies(dataset, head)
    names = dataset.labels[head].classes
    return [
        {"index": i, "name": name, "pixels": int(pixels[i]), "pictures": int(pictures[i])}
        for i, name in enumerate(names)
    ]


def _frequencies(dataset: Dataset, head: str) -> tuple[Any, Any]:
    """Return (K,) pixels and pictures by class over all splits."""
    classes = len(dataset.labels[head].classes)
    pixels, pictures = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    for members in dataset.splits.values():
        for facts in dataset.scanner.masks(sample.masks[head] for sample in members):
            if not facts.error:
                counts = class_counts(facts, dataset.codings[head])[0]
                pixels += counts
                pictures += counts > 0
    return pixels, pictures
