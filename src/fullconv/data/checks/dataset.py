"""Checks of a data set as a whole, by what the scan counted over all of its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fullconv.data.checks.aggregates import FEW_VALUES, Aggregates
from fullconv.data.config import config_hint, read_table, similar_class_names
from fullconv.data.label_diagnosis import LabelDiagnosis, threshold_fix, unnamed_colors
from fullconv.data.problems import Finding, Problem, Severity
from fullconv.data.statistics import common_kind
from fullconv.errors import percent
from fullconv.labels import left_right_pairs, parse_color

_MIN_SAMPLES = 6  # fewer prove nothing
_RIMS = (
    "classes lie between two others along most edges, one or two pixels wide, as compression and interpolation do it"
)
_IF_LEVELS = (
    "If the classes are levels of one quantity, all is well; else export the masks again as PNG, without smoothing."
)
_MAX_CLASSES_SHOWN = 12
_MAX_VALUES_SHOWN = 12
_MAX_VALUES_NAMED = 40
_MIN_HIDDEN_SHARE = 0.25
_NEAR_COLOR = 4  # levels: rounding and colour profiles change colours by less


def empty_splits(scan: Aggregates) -> Iterator[Finding]:
    """Splits without a sample."""
    splits, problems = scan.dataset.splits, scan.dataset.problems
    if not splits.get("train"):
        cause = "there is nothing to train on: train has no image with a mask"
        yield Finding("empty-split", ["train"], cause=cause, severity="error")
    withheld = any(one.code == "missing-mask" and one.severity == "note" for one in problems)
    for split in ("val", "test"):
        if split in splits and not splits[split] and not (split == "test" and withheld):
            fix = "Add some; without val the last model is kept, not the best." if split == "val" else ""
            yield Finding("empty-split", [split], cause=f"{split} has no image with a mask", fix=fix)


def different_kinds(scan: Aggregates) -> Iterator[Finding]:
    """Images whose channels or dtype differ from most."""
    kinds = scan.kinds
    if len(kinds) < 2 or (scan.dataset.bands is not None and len({dtype for _, dtype in kinds}) == 1):
        return
    if common_kind(kinds) is not None:
        yield Finding("grey-among-color", [scan.display(sample.image) for sample in kinds[1, "uint8"]])
        return
    most = max(kinds, key=lambda kind: len(kinds[kind]))
    for code, position in (("channels-differ", 0), ("dtype-differs", 1)):
        odd = [s for kind, members in kinds.items() if kind[position] != most[position] for s in members]
        if odd:
            others = ", ".join(sorted({str(kind[position]) for kind in kinds if kind[position] != most[position]}))
            detail = f"most have {most[position]}, these {others}"
            yield Finding(code, [scan.display(s.image) for s in odd], detail, stems=[s.stem for s in odd])


def constant_images(scan: Aggregates) -> Iterator[Finding]:
    """Images of one colour, or a training split of one value."""
    count = sum(scan.sizes.values())
    few_bytes = "uint8" in scan.train_dtypes and count < _MIN_SAMPLES
    if scan.train_low == scan.train_high and not few_bytes:
        cause = f"every pixel of every image in train is {scan.train_low:g}, so there is nothing to learn from"
        yield Finding("constant-pictures", scan.plain, cause=cause, fix="Check the export.", severity="error")
    elif scan.plain and (len(scan.plain) < count or count >= _MIN_SAMPLES):
        yield Finding("constant-pictures", scan.plain)


def diagnose_labels(scan: Aggregates) -> Iterator[Finding]:
    """Masks whose labels are not those of the classes, for one reason."""
    mapping, histogram, root = scan.mapping, scan.histogram, scan.dataset.root
    has_own_classes = bool(scan.head) and (root / f"classes_{scan.head}.txt").is_file()
    if mapping.threshold is not None:
        yield from _below_threshold(scan)
        return
    if mapping.colors or histogram.colored or (scan.settings.class_names() is None and not has_own_classes):
        return
    diagnosis = LabelDiagnosis(root, scan.mask_paths(), histogram, scan.names)
    if (table := mapping.labels.values) is not None:
        found = None if "values" in read_table(root) else diagnosis.diagnose_format(table)
    else:
        found = diagnosis.diagnose()
        odd, sure = histogram.binary_outliers()
        if found is None and odd:
            cause = "masks hold only 0 and 255 (void), while the others hold classes and no 255"
            fix = "Export them like the others; if 255 is void there, set ignore_index = 255 in data.toml."
            severity: Severity = "error" if sure else "warning"
            found = Finding("binary-mask", list(map(scan.report_path, odd)), cause=cause, fix=fix, severity=severity)
        if scan.settings.ignore_index is not None and found and found.code in ("binary-mask", "void-as-class"):
            found = None  # data.toml states what 255 is
    if found is not None:
        yield found


def jpeg_masks(scan: Aggregates) -> Iterator[Finding]:
    """Masks that are JPEGs, and are not read by a threshold."""
    if scan.jpegs:
        files = [scan.display(sample.masks[scan.head].path) for sample in scan.jpegs]
        stems = [sample.stem for sample in scan.jpegs]
        fix = threshold_fix(scan.dataset.root, scan.histogram, _named(scan))
        found = Finding("jpeg-mask", files, "compression changes labels near every edge", stems=stems)
        yield replace(found, **fix)


def blurred_masks(scan: Aggregates) -> Iterator[Finding]:
    """Masks that were compressed or interpolated: errors, or warnings where all labels are classes."""
    histogram = scan.histogram
    for severity, blurred in ("error", histogram.blurred()), ("warning", histogram.rims()):
        files = [scan.display(sample.masks[scan.head].path) for sample in blurred]
        stems = [sample.stem for sample in blurred]
        if severity == "error" and blurred:
            found = Finding("lossy-mask", files, histogram.blur_cause(), stems=stems)
            yield replace(found, **threshold_fix(scan.dataset.root, histogram, _named(scan)))
        elif blurred:
            yield Finding("lossy-mask", files, cause=_RIMS, fix=_IF_LEVELS, severity="warning")


def _below_threshold(scan: Aggregates) -> Iterator[Finding]:
    """Masks of 0 and 1 among those that a threshold reads, which would be of the first class everywhere."""
    if scan.below_threshold:
        cause = f"masks hold only 0 and 1, below threshold = {scan.mapping.threshold}, so they would be empty"
        fix = "Export them like the others, with 0 and 255."
        yield Finding(
            "binary-mask",
            [scan.report_path(s) for s in scan.below_threshold],
            cause=cause,
            fix=fix,
            stems=[sample.stem for sample in scan.below_threshold],
        )


def _named(scan: Aggregates) -> Sequence[str] | None:
    """Return the class names of the data set; None where they were inferred."""
    return None if scan.head in scan.dataset.histograms else scan.names


def exchanged_folders(scan: Aggregates) -> Iterator[Finding]:
    """Masks in the place of images and the other way round."""
    everyone = scan.mask_paths()
    if everyone and 4 * scan.photos >= 3 * len(everyone) and scan.max_unique < FEW_VALUES:  # small photographs have few
        yield Finding("folders-exchanged", everyone)


def colored_masks(scan: Aggregates) -> Iterator[Finding]:
    """Masks in colours that have no class."""
    colored = scan.histogram.colored
    if colored and not scan.mapping.colors:
        stems = [sample.stem for sample in colored] if len(colored) < len(scan.mask_paths()) else []
        yield unnamed_colors(scan.dataset.root, [scan.report_path(s) for s in colored], scan.histogram, stems)


def nothing_to_learn(scan: Aggregates) -> Iterator[Finding]:
    """A train split without a choice between classes, unless values without a meaning may be the classes."""
    found = _nothing_to_learn(scan)
    if found is not None and 2 * len(scan.unknown["unknown-label"]) <= len(found.files):
        yield found


def _nothing_to_learn(scan: Aggregates) -> Finding | None:
    train, members = scan.class_pixels.get("train"), scan.dataset.splits.get("train")
    if train is None or not members:
        return None
    if len(scan.void["train"]) == len(members):
        return Finding("nothing-to-learn", [path for paths in scan.void.values() for path in paths])
    if (train > 0).sum() != 1:
        return None
    only = scan.names[int(train.argmax())]
    cause = f"the masks in train hold no class but '{only}', so there is nothing to learn from"
    return Finding("nothing-to-learn", [scan.report_path(sample) for sample in members], cause=cause)


def void_masks(scan: Aggregates) -> Iterator[Finding]:
    """Masks that are void everywhere; a note where all of test are, as many sets withhold these."""
    test = scan.void.get("test", [])
    withheld = bool(test) and len(test) == len(scan.dataset.splits["test"])
    if withheld:
        cause = "masks of test are void everywhere, as where the ground truth is withheld"
        yield Finding("all-void", test, cause=cause, fix="", severity="note")
    if others := [path for split, paths in scan.void.items() if not (withheld and split == "test") for path in paths]:
        yield Finding("all-void", others)


def _may_number_objects(scan: Aggregates, values: Sequence[int]) -> bool:
    """Whether unknown labels follow the classes, the higher in fewer masks; or are many, each in a single mask."""
    masks, first = [scan.histogram.images[value] for value in values], len(scan.names)
    nested = masks == sorted(masks, reverse=True) and masks[0] > masks[-1]
    return (nested and list(values) == list(range(first, first + len(values)))) or (max(masks) == 1 and len(masks) >= 8)


def unknown_labels(scan: Aggregates) -> Iterator[Finding]:
    """Masks with labels that are neither a class nor void."""
    files, values = scan.unknown["unknown-label"], sorted(scan.unknown_values["unknown-label"])
    if not files:
        return
    root = scan.dataset.root
    hint: dict[str, object]
    if _nothing_to_learn(scan) is not None:  # void would be all that is left
        fix = "Export the masks again with class labels, or define in values of data.toml what each label means."
    elif by_threshold := threshold_fix(root, scan.histogram, _named(scan)):
        fix = str(by_threshold["fix"])
    elif len(values) > _MAX_VALUES_NAMED:
        fix = "Check that these are class masks: resized or compressed masks and instance masks are not."
    elif _may_number_objects(scan, values):
        fix = "If they number the objects of an image, export the masks again, with one label per class."
        if len(scan.names) == 2:
            given = read_table(root).get("values", {"0": scan.names[0], "1": scan.names[1]})
            hint = {"values": {**given, **dict.fromkeys(map(str, values), scan.names[1])}}
            fix = f"If they number the objects of an image: {config_hint(root, hint)}"
        fix += "\nIf they are classes, add their names to classes."
    else:
        table = read_table(root)
        if isinstance(table.get("values"), dict):
            hint = {"values": {**table["values"], **dict.fromkeys(map(str, values), "void")}}
        else:
            void = table.get("ignore_index", [])
            void = [*(void if isinstance(void, list) else [void]), *values]
            hint = {"ignore_index": void[0] if len(void) == 1 else void}
        fix = f"If they are classes, add their names to classes; if they are void: {config_hint(root, hint)}"
    cause = f"masks hold labels that are neither a class nor void: {_first(list(map(str, values)))}"
    yield Finding("unknown-label", list(files), cause=cause, fix=fix, stems=files.values())


def unknown_colors(scan: Aggregates) -> Iterator[Finding]:
    """Masks with colours that data.toml does not name."""
    files, colors = scan.unknown["unknown-color"], sorted(scan.unknown_values["unknown-color"])
    if not files:
        return
    root, named = scan.dataset.root, read_table(scan.dataset.root).get("colors")
    if (swapped := _with_red_and_blue_swapped(colors, scan.mapping.named_colors)) is not None:
        hint = config_hint(root, {"colors": swapped}, ("values",)).replace("Add", "add", 1)
        fix = f"They are named colours with red and blue swapped, as OpenCV writes them: export the masks again, or {hint}"
    elif len(colors) > _MAX_VALUES_NAMED or not isinstance(named, dict):
        fix = 'Name them in colors of data.toml, as a class or "void".'
    else:
        near = {f"#{color:06x}": _nearest_color(color, named) for color in colors}
        hint = config_hint(root, {"colors": {**named, **{color: name or "void" for color, name in near.items()}}})
        fix = f'With the name of a class instead of "void" where they are one: {hint}'
        if all(near.values()):
            fix = f"They are close to colours that are named: {hint}"
    cause = f"masks hold colours without a class: {_first([f'#{color:06x}' for color in colors])}"
    yield Finding("unknown-color", list(files), cause=cause, fix=fix, stems=files.values())


def _first(values: Sequence[str]) -> str:
    return ", ".join(values[:_MAX_VALUES_SHOWN]) + (", ..." if len(values) > _MAX_VALUES_SHOWN else "")


def _with_red_and_blue_swapped(colors: Sequence[int], named: Mapping[int, str]) -> dict[str, str] | None:
    """Return all named colours and these, where these are such with red and blue swapped, and clash with none."""
    swapped = {(c & 255) << 16 | c & 0xFF00 | c >> 16: name for c, name in named.items()}
    if not set(colors) <= set(swapped) or any(named.get(c, name) != name for c, name in swapped.items()):
        return None
    return {f"#{c:06x}": name for c, name in {**named, **{c: swapped[c] for c in colors}}.items()}


def _nearest_color(color: int, named: Mapping[str, object]) -> str | None:
    """Return the class of the one named colour that differs by a few levels only."""
    own = np.array([color >> 16, color >> 8 & 255, color & 255])
    near = [name for key, name in named.items() if np.abs(np.array(parse_color(key)) - own).max() <= _NEAR_COLOR]
    return str(near[0]) if len(near) == 1 else None


def same_mask(scan: Aggregates) -> Iterator[Finding]:
    """One mask file for many different images."""
    same = max(scan.digests.values(), key=len, default=[])
    if len(same) >= 3 and 2 * len(same) > sum(map(len, scan.digests.values())):
        yield Finding("same-mask", same)


def outside_image(scan: Aggregates) -> Sequence[Problem]:
    """Shapes whose coordinates are not those of their images, unless the format has reported it."""
    reported = any(one.code == "bad-shape" and not one.files for one in scan.dataset.problems)
    return [] if reported else scan.shapes.problems()


def missing_classes(scan: Aggregates) -> Iterator[Finding]:
    """Classes that train lacks, and classes that no mask holds."""
    train, everywhere = scan.class_pixels.get("train"), total_pixels(scan)
    if train is not None and train.any():
        lost = np.flatnonzero((train == 0) & (everywhere > 0))
        if len(lost):
            names = ", ".join(f"'{scan.names[i]}'" for i in lost[:_MAX_CLASSES_SHOWN])
            more = f" and {len(lost) - _MAX_CLASSES_SHOWN} more" if len(lost) > _MAX_CLASSES_SHOWN else ""
            files = list(dict.fromkeys(path for i in lost for path in scan.holders[int(i)]))
            yield Finding("class-missing-in-train", files, f"{names}{more}")
    unused = [scan.names[i] for i in np.flatnonzero(everywhere == 0)]
    if unused and everywhere.any():
        yield Finding("class-unused", unused)


def total_pixels(scan: Aggregates) -> NDArray[np.int64]:
    """Return (K,) pixels by class over all splits."""
    return sum(scan.class_pixels.values(), np.zeros(len(scan.names), np.int64))


def unpaired_sides(scan: Aggregates) -> Iterator[Finding]:
    """Classes called left and right, where no `mirror_pairs` are set."""
    pairs = left_right_pairs(scan.names)
    if not pairs or scan.mapping.labels.mirror_pairs is not None:
        return
    table = {"mirror_pairs": [list(pair) for pair in pairs]}
    shown = "; ".join(f"'{left}' and '{right}'" for left, right in pairs[:_MAX_CLASSES_SHOWN])
    cause = (
        f"classes are the mirror image of each other by their names, and mirrored images would exchange them: {shown}"
    )
    fix = f"mirror_pairs = [] leaves them as they are. {config_hint(scan.dataset.root, table)}"
    names = [name for pair in pairs for name in pair]
    yield Finding("mirror-pairs", names, cause=cause, fix=fix, settings=table)


def hidden_shapes(scan: Aggregates) -> Iterator[Finding]:
    """Classes much of which lies under larger shapes that are drawn later."""
    table = {"overlap": "smallest on top"}
    for label, by in scan.hidden.items() if scan.dataset.settings.overlap == "file" else ():
        (other, most), share = by.most_common(1)[0], sum(by.values()) / scan.drawn[label]
        if share >= _MIN_HIDDEN_SHARE and most > scan.hidden.get(other, Counter())[label]:
            cause = f"{percent(share)} of '{scan.names[label]}' lies under larger shapes, most of it under '{scan.names[other]}'"
            fix = f"{config_hint(scan.dataset.root, table)}\nOr list classes from bottom to top: overlap = [...]."
            yield Finding("hidden-shapes", scan.hidden_in[label], cause=cause, fix=fix, settings=table)


def similar_classes(scan: Aggregates) -> Sequence[Problem]:
    """Class names that differ in case, spaces or hyphens only, unless the format has reported it."""
    if any(one.code == "similar-classes" for one in scan.dataset.problems):
        return []
    return similar_class_names(scan.names, "Give them one name, or clearly different names.")
