"""Why pictures have no mask although there are masks: what their names differ in, and the edit that makes up for it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

from fullconv.data.files import Pictures, is_glob

_KEYS = ("images", "masks")
BRUSH = re.compile(r"task-\d+-annotation-\d+-by-.*\.(png|npy)")
"""Files of Label Studio's export "Brush labels"."""
BRUSH_WORDS = 'This is Label Studio\'s export "Brush labels", which does not say of which picture: export JSON instead.'


def common_suffix(alone: Collection[str], masks: Collection[str]) -> str | None:
    """Return what the names of masks have after those of the pictures without one, if it is the same for most."""
    counts: dict[str, int] = {}
    lone = set(alone)
    for key in masks:
        for cut in range(len(key) - 1, 0, -1):
            if key[:cut] in lone:
                counts[key[cut:]] = counts.get(key[cut:], 0) + 1
                break
    best = max(counts, key=lambda suffix: counts[suffix], default=None)
    return best if best is not None and 2 * counts[best] > len(alone) else None


def advice(alone: list[str], pictures: Pictures, labels: Pictures, places: tuple[str, str], only: bool) -> str:
    """Return the remedy for pictures without a mask.

    Args:
        alone: Keys of the pictures.
        pictures: What lies in the folder of pictures.
        labels: What lies in the folder of masks.
        places: These two folders.
        only: Whether there are no others, as of other splits.
    """
    if (suffix := common_suffix(alone, labels.files)) is not None:
        return f'Masks are named with a suffix: add to data.toml: mask_suffix = "{suffix}"'
    masks = places[1]
    if any(BRUSH.fullmatch(path.name) for path in list(labels.files.values())[:20]):
        return BRUSH_WORDS
    inner = _further_in(alone, labels.files) if only and not any(map(is_glob, places)) else None
    if inner is not None:
        several = _sides_by_side(alone, labels.files)
        lines = "\n".join(f'{k} = "{p}{"/" * bool(i)}{i}"' for k, p, i in zip(_KEYS, places, inner, strict=True))
        if len(several) > 1:
            return (
                f"{masks}/ has a mask of most pictures in each of {', '.join(several)}. If these are the classes, draw the"
                f" masks of a picture into one, with a number a class; for one of them alone, add to data.toml:\n{lines}"
            )
        return f"They lie in folders of their own: add to data.toml:\n{lines}"
    others = {PurePosixPath(path.name).stem: path.suffix for path in labels.others}
    kinds = sorted({others[name] for key in alone if (name := key.rpartition("/")[2]) in others})
    if kinds:
        return (
            f"{masks}/ has {', '.join(kinds)} files of these names, which are not read: save the masks as indexed PNG."
        )
    small = {key.lower(): key for key in labels.files}
    if near := next(((key, small[key.lower()]) for key in alone if key.lower() in small), None):
        return f"Names differ in upper and lower case, as {near[0]} and {near[1]}: rename one of the two."
    patterns = _patterns({key: pictures.files[key] for key in alone}, labels.files)
    if patterns is not None and only and not any(map(is_glob, places)):
        lines = "\n".join(
            f'{k} = "{place}/{pattern}"' for k, place, pattern in zip(_KEYS, places, patterns, strict=True)
        )
        return f"Names are the same but for what comes before or behind them: add to data.toml:\n{lines}"
    example = next((path.name for key, path in labels.files.items() if key not in alone), None)
    said = f" ({masks}/ has {example}, for example)" if example else ""
    return f"Add a mask of the same name to {masks}/{said}, or move the picture away."


def _further_in(alone: Collection[str], masks: Collection[str]) -> tuple[str, str] | None:
    """Return the inner folders of pictures and of masks below which the names are the same, if that pairs most."""
    by_name: dict[str, list[str]] = {}
    for key in masks:
        by_name.setdefault(PurePosixPath(key).name, []).append(key)
    found: Counter[tuple[str, str]] = Counter()
    for key in alone:
        for mask in by_name.get(PurePosixPath(key).name, ())[:8]:
            one, other = key.split("/"), mask.split("/")
            while one and other and one[-1] == other[-1]:
                one.pop()
                other.pop()
            found["/".join(one), "/".join(other)] += 1
    ((best, count),) = found.most_common(1) or (((("", ""), 0)),)
    return best if 2 * count > len(alone) and any(best) else None


def _sides_by_side(alone: Collection[str], masks: Collection[str]) -> list[str]:
    """Return the folders of which each has a mask of most pictures, as a folder a class does."""
    wanted = {PurePosixPath(key).name for key in alone}
    found: dict[str, set[str]] = {}
    for key in masks:
        place, _, name = key.rpartition("/")
        if place and name in wanted:
            found.setdefault(place, set()).add(name)
    return sorted(place for place, names in found.items() if 2 * len(names) > len(wanted))


def _patterns(alone: Mapping[str, Path], masks: Mapping[str, Path]) -> tuple[str, str] | None:
    """Return patterns of pictures and of masks whose asterisks match the same, if that pairs most."""
    if len(alone) < 2 or len(masks) < 2 or any("/" in key or is_glob(key) for key in (*alone, *masks)):
        return None
    patterns, inner = [], []
    for files in (alone, masks):
        keys, suffixes = list(files), {path.suffix for path in files.values()}
        before = _shared(keys)
        behind = _shared([key[len(before) :][::-1] for key in keys])[::-1]
        if behind and len(suffixes) > 1:
            return None
        patterns.append(f"{before}*{behind + suffixes.pop() if behind else ''}")
        inner.append({key[len(before) : len(key) - len(behind)] for key in keys})
    both = inner[0] & inner[1]
    return None if 2 * len(both) <= len(alone) or "" in both else (patterns[0], patterns[1])


def _shared(names: list[str]) -> str:
    """Return what all names begin with."""
    first, last = min(names), max(names)
    return first[: next((i for i, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))]
