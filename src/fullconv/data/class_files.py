"""Files that name classes: `classes.txt`, and the tables of colours that come with public sets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fullconv.data.files import column, load_rows, load_text
from fullconv.data.problems import Problem, problem
from fullconv.errors import DataError
from fullconv.labels import Color, format_color

VOID_NAME = "void"
_NUMBERED = re.compile(r"(\d+)\s*[:;.,)\t ]\s*(\D.*)")


def read_classes(path: Path) -> tuple[list[str], list[Color | None]]:
    """Read a `classes.txt`: a name per line, with or without R G B at the end; empty lines and `#` lines are ignored.

    Returns:
        Names, and colours, None where a line has none. Masks in colour can be decoded where all have one.
    """
    lines = load_text(path, "Save it as UTF-8 text.").splitlines()
    names: list[str] = []
    colors: list[Color | None] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        found = re.fullmatch(r"(.*?\S)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(\d+)", text)
        names.append(_unquoted(found[1] if found else text))
        color = (int(found[2]), int(found[3]), int(found[4])) if found else None
        if color is not None and max(color) > 255:
            raise DataError(f"{path}, line {number}: '{text}' has a number over 255. Use colours from 0 to 255.")
        colors.append(color)
    # Numbers that count all names from 0 or 1, as in "0 road", "1: sidewalk", in any order, give the order.
    numbered = [match for name in names if (match := _NUMBERED.fullmatch(name)) is not None]
    numbers = [int(match[1]) for match in numbered]
    first = min(numbers, default=0)
    if len(numbers) < 2 or first > 1 or sorted(numbers) != list(range(first, first + len(names))):
        return names, colors
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    return [_unquoted(numbered[i][2].strip()) for i in order], [colors[i] for i in order]


def spelling(name: str) -> str:
    """Return what class names that differ in case, spaces or hyphens only have in common."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def similar_class_names(names: Iterable[str], fix: str) -> list[Problem]:
    """Find class names that differ in case, spaces or hyphens only."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(spelling(name), []).append(name)
    several = [group for group in groups.values() if len(group) > 1]
    if not several:
        return []
    shown = "; ".join(" and ".join(f"'{name}'" for name in group) for group in several)
    cause = f"class names differ in case, spaces or hyphens only and are probably one class: {shown}"
    return [problem("similar-classes", "warning", [name for group in several for name in group], cause, fix)]


def _unquoted(text: str) -> str:
    """Remove a trailing comma and a pair of quotation marks, as lists in programs and tables have them."""
    text = text.rstrip(", ")
    return text[1:-1].strip() if len(text) > 2 and text[0] == text[-1] and text[0] in "\"'" else text


def read_color_table(root: Path) -> dict[str, Any]:
    """Return the keys that follow from a `class_dict.csv` (name,r,g,b) or `label_colors.txt` ("r g b name"), if there is one.

    They are those of a `classes.txt` with colours; where a colour is void, they are `colors`.
    """
    path = next((root / name for name in ("class_dict.csv", "label_colors.txt") if (root / name).is_file()), None)
    if path is None:
        return {}
    fix = "Save it as UTF-8 text, or remove it."
    if path.suffix == ".csv":
        rows = _color_columns(load_rows(path, fix))
    else:
        cells = [line.split(maxsplit=3) for line in load_text(path, fix).splitlines()]
        rows = [[row[3].strip(), *row[:3]] for row in cells if len(row) == 4]
    listed = [(name, (int(r), int(g), int(b))) for name, r, g, b in rows if all(map(_is_channel, (r, g, b)))]
    found = list(dict.fromkeys(listed))
    colors: dict[str, str] = {}
    for name, color in found:
        if colors.setdefault(format_color(color), name) != name:
            raise DataError(f"{path}: {name} has the colour of {colors[format_color(color)]}. Give it another one.")
    colors = {color: VOID_NAME if name.lower() in (VOID_NAME, "unlabelled") else name for color, name in colors.items()}
    names = list(dict.fromkeys(name for name in colors.values() if name != VOID_NAME))
    if len(names) < 2:
        return {}
    if len(names) < len(colors):
        return {"classes": names, "colors": colors}
    palette = [list(color) for _, color in found]
    return {"classes": names, "palette": palette, "class_colors": palette}


def _color_columns(rows: list[list[str]]) -> list[list[str]]:
    """Return the cells of the name, red, green and blue by the heading of a table; none without all of these."""
    heading = rows[0] if rows else []
    places = [column(heading, *names) for names in (("name", "class"), ("r", "red"), ("g", "green"), ("b", "blue"))]
    whole = [place for place in places if place is not None]
    if len(whole) < 4:
        return []
    return [[row[place] for place in whole] for row in rows[1:] if len(row) > max(whole)]


def _is_channel(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= 255
