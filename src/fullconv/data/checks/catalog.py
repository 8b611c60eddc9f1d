"""The words for what is wrong with files, gathered over a data set: a problem a code, not one a file."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fullconv.data.config import read_table
from fullconv.data.config_hints import advise
from fullconv.data.problems import SHOWN, Problem, Severity
from fullconv.data.samples import Sample
from fullconv.labels import parse_color

_AGAIN = "Copy or export them again, or leave the pairs out (--skip-bad)."

WORDS: dict[str, tuple[Severity, str, str]] = {
    "empty-file": ("error", "files are empty (0 bytes)", _AGAIN),
    "truncated": ("error", "files are truncated: data are missing at the end", _AGAIN),
    "not-a-picture": (
        "error",
        "files are no pictures, whatever their names say",
        "Replace them, or leave the pairs out.",
    ),
    "unreadable": ("error", "files cannot be decoded", _AGAIN),
    "missing-file": ("error", "files are not there", "Check the names, and links that lead nowhere."),
    "too-large": ("error", "pictures are larger than allowed", "Set FULLCONV_MAX_PIXELS in the environment."),
    "needs-extra": ("error", "files need a reader that is not installed", ""),
    "link-loop": ("error", "links lead back to themselves", "Replace them by the files, or leave the pairs out."),
    "bad-mask": ("error", "masks hold no class numbers", "Save them as indexed or grey PNG."),
    "float-mask": (
        "error",
        "masks hold fractions, so they were scaled or averaged",
        "Save them as whole class numbers, as indexed or grey PNG.",
    ),
    "float-mask:whole": ("note", "masks store whole numbers as fractions; they are read as numbers", ""),
    "mask-alpha": (
        "error",
        "masks are transparent in places, so it is not clear what counts there",
        "Save them without an alpha channel, as indexed or grey PNG.",
    ),
    "mask-alpha:opaque": ("note", "masks have an alpha channel; it is opaque and left out", ""),
    "not-finite": ("error", "files hold NaN or infinite numbers", "Replace these numbers, for example by 0."),
    "missing-band": (
        "error",
        "pictures have fewer bands than data.toml asks for",
        "Correct bands in data.toml, or leave these pictures out.",
    ),
    "band-size": (
        "error",
        "pictures with further bands have another size than their pictures",
        "Export both at one size, or leave the pairs out.",
    ),
    "mask-size": (
        "error",
        "masks have another size than their pictures",
        "Export both at one size, or leave the pairs out.",
    ),
    "exif-orientation": (
        "error",
        "pictures have an EXIF orientation, and their masks were drawn on them without it",
        "Take the orientation out of these pictures: exiftool -Orientation= -overwrite_original FILE",
    ),
    "mask-is-picture": (
        "error",
        "masks are the pictures themselves, byte by byte",
        "Put the masks there, or leave the pairs out.",
    ),
    "lossy-mask": (
        "error",
        "masks were compressed or resized with interpolation: their edges hold values in between",
        "Export the masks again as PNG, without anti-aliasing, and resize them with nearest neighbour only.",
    ),
    "several-frames": ("note", "files hold several pages or frames, of which the first is read", ""),
    "constant-mask": ("note", "masks hold one class everywhere", ""),
    "jpeg-mask": ("error", "masks are stored as JPEG", "Export the masks again, as indexed PNG."),
    "all-void": ("warning", "masks are void everywhere", "Check them; nothing can be learned from them."),
    "unknown-label": ("error", "masks hold labels that are neither a class nor void", ""),
    "unknown-color": ("error", "masks hold colours that are not named", ""),
}
"""Severity, cause and remedy by code, for what is wrong with single files; behind a colon, its harmless kind."""

JPEG_FORMATS = ("JPEG", "MPO")
JPEG_WORDS = "JPEG changes numbers near every edge"

_VALUES_SHOWN = 12
_VALUES_NAMED = 40
_NEARLY = 4


@dataclass
class _Finding:
    files: list[str] = field(default_factory=list)
    count: int = 0
    stems: set[str] = field(default_factory=set)
    detail: str = ""
    values: set[int] = field(default_factory=set)


class Findings:
    """What is wrong with single files, by code.

    Args:
        root: The data folder.
        named: The colours 0xrrggbb of masks that have a meaning, with it.
    """

    def __init__(self, root: Path, named: Mapping[int, str] | None = None) -> None:
        self.root, self.named = root, named or {}
        self._by_code: dict[str, _Finding] = {}

    def add(self, code: str, sample: Sample, path: Path, detail: str = "", values: Sequence[int] = ()) -> None:
        """Note one file; the detail of the first is told."""
        finding = self._by_code.setdefault(code, _Finding(detail=detail))
        finding.count += 1
        finding.values.update(values)
        finding.stems.add(sample.stem)
        if len(finding.files) < SHOWN:
            finding.files.append(self._name(path))

    def unreadable(self, code: str, sample: Sample, path: Path, error: str) -> None:
        """Note a file that cannot be decoded, with the reader's words but for its advice."""
        code = code if code in WORDS else "unreadable"
        if code == "unreadable" and _is_loop(path):
            code = "link-loop"
        self.add(code, sample, path, reason(code, error, path))

    def unknown(self, sample: Sample, path: Path, values: Sequence[int], in_color: bool) -> None:
        """Note a mask with numbers or colours that mean nothing."""
        self.add("unknown-color" if in_color else "unknown-label", sample, path, values=values)

    def problems(self) -> list[Problem]:
        """Return a problem for each code that was seen."""
        return [self._problem(code, finding) for code, finding in self._by_code.items()]

    def _problem(self, code: str, finding: _Finding) -> Problem:
        severity, cause, remedy = WORDS[code]
        if finding.values:
            shown = sorted(finding.values)[:_VALUES_SHOWN]
            more = ", ..." if len(finding.values) > _VALUES_SHOWN else ""
            if code == "unknown-color":
                cause += f": {', '.join(f'#{value:06x}' for value in shown)}{more}"
                remedy = self._color_remedy(sorted(finding.values))
            else:
                cause += f": {', '.join(map(str, shown))}{more}"
                remedy = self._label_remedy(sorted(finding.values))
        elif finding.detail:
            cause += f" ({finding.detail})"
        code = code.partition(":")[0]
        stems = frozenset(finding.stems) if severity == "error" else frozenset()
        return Problem(code, severity, finding.count, tuple(finding.files), cause, remedy, stems)

    def _label_remedy(self, values: Sequence[int]) -> str:
        if len(values) > _VALUES_NAMED:
            return "Check that these are class masks: resized or compressed masks and instance numbers are not."
        there = read_table(self.root)
        if isinstance(there.get("values"), dict):
            table: dict[str, object] = {"values": {**there["values"], **dict.fromkeys(map(str, values), "void")}}
        else:
            void = there.get("ignore_index", [])
            void = [*(void if isinstance(void, list) else [void]), *values]
            table = {"ignore_index": void[0] if len(void) == 1 else void}
        return f"If they are classes, add their names to classes; if they are void: {advise(self.root, table)}"

    def _color_remedy(self, colors: Sequence[int]) -> str:
        if (exchanged := self._with_red_for_blue(colors)) is not None:
            words = (
                "They are named colours with red and blue exchanged, as OpenCV writes them: export the masks again, or"
            )
            return f"{words} {advise(self.root, {'colors': exchanged}, ('values',))}".replace("or Add", "or add")
        there = read_table(self.root).get("colors")
        if len(colors) > _VALUES_NAMED or not isinstance(there, dict):
            return 'Name them in colors of data.toml, as a class or "void".'
        meant = {f"#{color:06x}": _nearest_color(color, there) for color in colors}
        table = {"colors": {**there, **{color: name or "void" for color, name in meant.items()}}}
        if all(meant.values()):
            return f"They are nearly colours that are named: {advise(self.root, table)}"
        return f'With the name of a class instead of "void" where they are one: {advise(self.root, table)}'

    def _with_red_for_blue(self, colors: Sequence[int]) -> dict[str, str] | None:
        """Return all named colours, these too, where they are such with red and blue exchanged, and clash with none."""
        other = {(c & 255) << 16 | c & 0xFF00 | c >> 16: name for c, name in self.named.items()}
        if not set(colors) <= set(other) or any(self.named.get(c, name) != name for c, name in other.items()):
            return None
        return {f"#{c:06x}": name for c, name in {**self.named, **{c: other[c] for c in colors}}.items()}

    def _name(self, path: Path) -> str:
        return shown(path, self.root)


def _nearest_color(color: int, named: Mapping[str, object]) -> str | None:
    """Return the class of the one named colour that differs by a few levels only: rounding and colour profiles do that."""
    own = np.array([color >> 16, color >> 8 & 255, color & 255])
    near = [name for key, name in named.items() if np.abs(np.array(parse_color(key)) - own).max() <= _NEARLY]
    return str(near[0]) if len(near) == 1 else None


def shown(path: Path, root: Path) -> str:
    """Return how a problem names a file."""
    try:
        return path.relative_to(root).as_posix()
    except ValueError:  # unpacked from an annotation file
        return path.as_posix()


def reason(code: str, error: str, path: Path) -> str:
    """Return what a reader's words add to those of the code: no name, no advice, nothing twice."""
    if code in ("empty-file", "missing-file", "mask-alpha", "link-loop"):
        return ""
    words = error.removeprefix(f"{path}: ")
    if code != "needs-extra":  # its line to install is all that helps
        words = re.split(r"\. (?=[A-Z])", words, maxsplit=1)[0]
    return words.removesuffix(".")


def _is_loop(path: Path) -> bool:
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False
