"""The settings of a data set: `data.toml`, `classes.txt`, tables of colours, and edits that remedies print."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fullconv.card import check_mirror_pairs
from fullconv.data.files import DEEPEST, column, load_rows, load_text, read_text, single_subfolder
from fullconv.data.problems import Problem, problem
from fullconv.errors import DataError, FullconvError, nearest
from fullconv.labels import MAX_CLASSES, VOID, Color, format_color, parse_color, voc_palette
from fullconv.recipe import toml_key, toml_value

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_TABLE_HEADER = re.compile(r"^\s*\[{1,2}[\w.\"' -]+\]{1,2}\s*(#.*)?$", re.MULTILINE)
VOID_NAME = "void"
BINARY_NAMES = ("background", "foreground")
"""The classes of binary masks that have no names."""
_NUMBERED = re.compile(r"(\d+)\s*[:;.,)\t ]\s*(\D.*)")
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
Boxes = Literal["fill", "void", "skip"]
Overlap = Literal["file", "smallest on top"] | list[str]


def inside(path: str) -> str:
    """Return a relative path or glob with forward slashes; "." is the data folder itself."""
    clean = path.replace("\\", "/")
    parts = PurePosixPath(clean).parts
    if not clean:
        raise ValueError("the path is empty. Name a folder or glob inside the data folder")
    if clean.startswith("/") or re.match(r"[A-Za-z]:", clean) or ".." in parts:
        raise ValueError(f"'{path}' leaves the data folder. Name a path inside it")
    return "/".join(parts) or "."


InnerPath = Annotated[str, AfterValidator(inside)]


class LabelSettings(BaseModel):
    """What masks mean: classes, colours, values."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    classes: list[str] | None = None
    """Names, index = position."""
    palette: list[tuple[int, int, int]] | None = None
    """RGB 0..255 by class, for painting only."""
    ignore_index: int | list[int] | None = None
    """Mask values that are void; 255 is void, too, unless it is a class."""
    values: dict[int, str] | None = None
    """Mask value -> class name or "void"."""
    colors: dict[str, str] | None = None
    """"#rrggbb" -> class name or "void", for RGB masks."""
    threshold: int | None = Field(default=None, ge=1, le=65535)
    """The first mask value of the second of two classes, for grey masks that were compressed or drawn with soft edges."""
    pages: list[str] | None = Field(default=None, min_length=1)
    """The class (or "void") of each page of a mask file: what is not 0 there; later pages lie on top."""
    mirror_pairs: list[tuple[str, str]] | None = None
    """Pairs of classes that are exchanged where an image is mirrored: left hand and right hand."""

    class_colors: list[Color] | None = Field(default=None, exclude=True)
    """From classes.txt: colours by class, which also decode RGB masks."""

    @field_validator("values", mode="before")
    @classmethod
    def _number_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for key in values:
            if not re.fullmatch(r"\d{1,9}", str(key)):
                raise ValueError(f"'{key}' is not a mask value. Use whole numbers from 0")
        return {int(key): name for key, name in values.items()}

    @field_validator("palette", "class_colors", "mirror_pairs", mode="before")
    @classmethod
    def _tuples(cls, rows: Any) -> Any:
        return [tuple(row) if isinstance(row, list) else row for row in rows] if isinstance(rows, list) else rows

    @field_validator("colors")
    @classmethod
    def _are_colors(cls, colors: dict[str, str] | None) -> dict[str, str] | None:
        for color in colors or {}:
            parse_color(color)
        return colors

    @model_validator(mode="after")
    def _labels_agree(self) -> LabelSettings:
        if self.values is not None and self.colors is not None:
            raise ValueError("values (for masks of labels) and colors (for RGB masks) exclude each other. Remove one")
        if self.threshold is not None:
            for key in ("values", "colors", "ignore_index"):
                if getattr(self, key) is not None:
                    raise ValueError(f"threshold gives every mask value a class, so {key} has no meaning. Remove one")
            if self.classes is not None and len(self.classes) != 2:
                raise ValueError(f"threshold is for two classes, not {len(self.classes)}. Remove it, or name two")
        if self.pages is not None:
            for key in ("values", "colors", "ignore_index", "threshold"):
                if getattr(self, key) is not None:
                    raise ValueError(f"pages gives every pixel a class, so {key} has no meaning. Remove one")
            unknown = next(
                (name for name in self.pages if name not in (*(self.classes or self.pages), VOID_NAME)), None
            )
            if unknown is not None:
                raise ValueError(f"pages names '{unknown}', which is not in classes. Add it there, or write \"void\"")
        if self.classes is not None:
            twice = next((name for name in self.classes if self.classes.count(name) > 1), None)
            if twice is not None:
                raise ValueError(f"class '{twice}' is listed twice. Remove one")
            if any(not name.strip() for name in self.classes):
                raise ValueError("a class has an empty name. Give it one")
            if VOID_NAME in self.classes and (self.values or self.colors):
                raise ValueError("'void' means no class in values and colors. Give the class another name")
        for key in ("values", "colors"):
            table: dict[Any, str] | None = getattr(self, key)
            if table is not None and not table:
                raise ValueError(f"{key} is empty. Remove it, or name a class for each")
            for source, name in (table or {}).items():
                if self.classes is not None and name != VOID_NAME and name not in self.classes:
                    hint = nearest(name, self.classes)
                    raise ValueError(f"{key}: {source} = '{name}' is not among the classes.{hint}")
        for value in self.void_values():
            name = (self.values or {}).get(value, VOID_NAME)
            if value != VOID and name != VOID_NAME:  # 255 may stand there, as it is void where it is no class
                raise ValueError(f"{value} is void by ignore_index and '{name}' by values. Remove one")
            if not 0 <= value <= 65535:
                raise ValueError("ignore_index is out of range. Use a mask value from 0 to 65535, or a list of them")
        names = self.class_names()
        if names is not None and not 2 <= len(names) <= MAX_CLASSES:
            raise ValueError(f"the number of classes is {len(names)}. Name 2 to {MAX_CLASSES}")
        if names is not None:
            check_mirror_pairs(self.mirror_pairs or (), names)
        if names is not None and self.palette is not None and len(self.palette) != len(names):
            raise ValueError(f"palette has {len(self.palette)} colours for {len(names)} classes. Give one per class")
        if any(not 0 <= channel <= 255 for color in self.palette or () for channel in color):
            raise ValueError("palette has numbers out of range. Use three from 0 to 255 per colour")
        return self

    def void_values(self) -> list[int]:
        """Return `ignore_index` as a list."""
        if self.ignore_index is None:
            return []
        return [self.ignore_index] if isinstance(self.ignore_index, int) else list(self.ignore_index)

    def class_names(self) -> tuple[str, ...] | None:
        """Return the class names: as listed, else in the order of `values` or `colors`, else those of binary masks, else None."""
        if self.classes is not None:
            return tuple(self.classes)
        if self.values is not None:
            names = [name for _, name in sorted(self.values.items()) if name != VOID_NAME]
        elif self.colors is not None:
            names = [name for name in self.colors.values() if name != VOID_NAME]
        elif self.threshold is not None:
            return BINARY_NAMES
        elif self.pages is not None:
            names = [*BINARY_NAMES[:1], *(name for name in self.pages if name != VOID_NAME)]
        else:
            return None
        return tuple(dict.fromkeys(names))


class HeadSettings(LabelSettings):
    """What the masks of one of several heads mean."""

    masks: InnerPath | None = None
    """Their folder; None is `masks_NAME`."""


class DataSettings(LabelSettings):
    """The keys of `data.toml`, all optional; an unknown key is an error."""

    format: str | None = None
    """Name of the format; None detects it."""
    heads: dict[str, HeadSettings] | None = None
    """What the masks of each head mean, where an image has several."""
    unlabeled: str | None = None
    """What pixels outside all shapes are: a class or "void"; None is class 0."""
    boxes: Boxes | None = None
    """What annotated boxes draw: their class, void, or nothing; None depends on the format."""
    overlap: Overlap = "file"
    """Which shape wins where several lie: the last one in the file, the smallest, or by class, listed from bottom to top."""
    align: Literal["nearest"] | None = None
    """How mask files on another grid than their image, both georeferenced, are warped onto it; None is an error."""
    groups: str | None = None
    """A regular expression on the stem (first group), or the name of a CSV file stem,group."""
    images: InnerPath | None = None
    """Folder or glob of images, relative to the data folder."""
    bands_from: InnerPath | None = None
    """Folder or glob of images of the same names, whose bands follow those of `images`."""
    masks: InnerPath | None = None
    """Folder or glob of masks, relative to the data folder."""
    mask_suffix: str = ""
    """Suffix of a mask's stem after the image's."""
    bands: list[int] | None = Field(default=None, min_length=1)
    """1-based bands in the order of use; None for all."""
    splits: dict[Split, InnerPath] | None = None
    """Split -> a text file with a stem or path per line."""
    folds: int | None = Field(default=None, ge=2)
    """Merge train and val and cut them into this many parts, of which one is val."""

    @field_validator("bands")
    @classmethod
    def _bands_count_from_one(cls, bands: list[int] | None) -> list[int] | None:
        if bands and min(bands) < 1:
            raise ValueError(f"bands are counted from 1, so {min(bands)} does not exist. Correct it")
        return bands

    @model_validator(mode="after")
    def _agree(self) -> DataSettings:
        if self.unlabeled not in (None, VOID_NAME) and self.classes and self.unlabeled not in self.classes:
            raise ValueError(f"unlabeled = '{self.unlabeled}' is neither a class nor 'void'. Name one of them")
        if self.heads is None:
            return self
        if len(self.heads) < 2:
            raise ValueError("heads has fewer than two. For one kind of masks, set classes and masks without heads")
        for head in self.heads:
            if not re.fullmatch(r"\w[\w-]*", head):
                raise ValueError(f"heads: '{head}' is no valid name. Use letters, digits, '_' and '-'")
        for key in (*LabelSettings.model_fields, "masks", "unlabeled"):
            if key != "class_colors" and getattr(self, key) is not None:
                raise ValueError(f"{key} belongs to one head. Write it below [heads.{next(iter(self.heads))}]")
        return self

    def of_head(self, head: str) -> LabelSettings:
        """Return what the masks of a head mean; "" is the only one."""
        if self.heads is not None and head in self.heads:
            return self.heads[head]
        return self if not head else LabelSettings()


def table_file(root: Path) -> Path:
    """Return where `data.toml` is, or would be: in the data folder, or in a folder above that holds nothing else."""
    for above in root.parents[:DEEPEST]:
        if (root / "data.toml").is_file():
            break
        if (above / "data.toml").is_file():
            inner: Path | None = above
            while inner is not None and inner != root and inner in root.parents:
                inner = single_subfolder(inner)
            return (above if inner == root else root) / "data.toml"
    return root / "data.toml"


def read_table(root: Path) -> dict[str, Any]:
    """Read `data.toml` without validation; empty where there is none."""
    where = table_file(root)
    if not where.is_file():
        names = ("data.toml", "data.toml.txt")  # editors of Windows add a suffix that its file manager hides
        near = next((path.name for path in sorted(root.glob("[dD]*")) if path.name.lower() in names), None)
        if near is not None:  # its settings would be ignored silently
            raise DataError(f"{root / near}: is not read. Make it a file named data.toml.")
        return {}
    try:
        return tomllib.loads(read_text(where))
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror or error}). Check its permissions.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: not valid TOML: {error}.") from error


def read_settings(root: Path) -> DataSettings:
    """Read `data.toml`, and `classes.txt` where it names no classes, from a data folder."""
    table = read_table(root)
    where = table_file(root)
    if "class_colors" in table:
        raise DataError(f"{where}: there is no key 'class_colors'.{nearest('class_colors', DataSettings.model_fields)}")
    listed = root / "classes.txt"
    if not {"classes", "heads", "values", "colors", "threshold", "pages"} & set(table) and not listed.is_file():
        table = {**read_color_table(root), **table}
    if "classes" not in table and "heads" not in table and listed.is_file():
        table = {**_from_class_file(listed), **table}
    return parse_settings(table, str(where if where.is_file() or not listed.is_file() else listed))


def with_classes(settings: LabelSettings, listed: Path) -> LabelSettings:
    """Add the classes and colours of a `classes.txt`, or of a head's `classes_NAME.txt`."""
    found = _from_class_file(listed)
    if settings.palette is not None:
        found.pop("palette", None)
    return settings.model_copy(update=found)


def _from_class_file(listed: Path) -> dict[str, Any]:
    names, colors = read_classes(listed)
    found: dict[str, Any] = {"classes": names}
    if any(colors):  # classes without a colour get VOC's for their index
        found["palette"] = [own or spare for own, spare in zip(colors, voc_palette(len(colors)), strict=True)]
    if colors and None not in colors and len(set(colors)) == len(colors):  # else masks in colour are ambiguous
        found["class_colors"] = colors
    return found


def parse_settings(table: dict[str, Any], where: str) -> DataSettings:
    """Check the keys of a `data.toml`."""
    try:
        return DataSettings.model_validate(table)
    except ValidationError as error:
        raise DataError(f"{where}: {_sentence(error)}") from None
    except FullconvError as error:  # of parse_color
        raise DataError(f"{where}: {error}") from None


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    loc = [str(part) for part in first["loc"] if part not in ("[key]", "list[int]", "int")]
    key = ".".join(loc)
    if first["type"] == "extra_forbidden":
        fields = HeadSettings.model_fields if loc[0] == "heads" else DataSettings.model_fields
        known = [name for name in dict.fromkeys(("format", *fields)) if name in fields and name != "class_colors"]
        return f"there is no key '{key}'.{nearest(loc[-1], known)} The keys are {', '.join(known)}."
    reason = str(first["msg"]).removeprefix("Value error, ")
    if loc[:1] == ["splits"] and first["type"] == "literal_error":
        return f"there is no split '{loc[1]}'.{nearest(loc[1], SPLITS)} The splits are train, val and test."
    if first["type"] == "value_error":
        return f"{key}: {reason}." if key else f"{reason}."
    return f"{key} = {first['input']!r} is invalid: {reason[:1].lower()}{reason[1:]}. Correct it."


def read_classes(path: Path) -> tuple[list[str], list[Color | None]]:
    """Read a `classes.txt`: a name per line, with or without R G B at the end; empty lines and `#` lines are ignored.

    Returned are the names, and the colours, None where a line has none.
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


def config_hint(root: Path, table: Mapping[str, Any], remove: tuple[str, ...] = ()) -> str:
    """Return how to edit `data.toml` so that it has these keys, in prose and lines."""
    present = read_table(root)
    new = {key: value for key, value in table.items() if key not in present}
    other = {key: value for key, value in table.items() if key in present}
    parts = []
    if gone := [key for key in remove if key in present]:
        parts.append(f"Remove {' and '.join(gone)} from data.toml.")
    if other:
        parts.append("Replace in data.toml:\n" + "\n".join(toml_lines(other)))
    if new:
        # below the header of a table a line would belong to that table
        place = "at the top of" if present and _TABLE_HEADER.search(read_text(table_file(root))) else "to"
        parts.append(f"Add {place} data.toml:\n" + "\n".join(toml_lines(new)))
    return "\n".join(parts)


def toml_lines(table: Mapping[str, Any]) -> list[str]:
    """Write keys of `data.toml` as one line each."""
    return [f"{toml_key(key)} = {toml_value(value, literal=True)}" for key, value in table.items()]
