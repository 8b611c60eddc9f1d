"""Classes of annotations that name what they draw; what no shape covers is `unlabeled`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from fullconv.data.class_files import VOID_NAME, similar_classes
from fullconv.data.config import DataSettings
from fullconv.data.problems import BadDataError, Problem, problem
from fullconv.errors import DataError, nearest
from fullconv.labels import VOID

BACKGROUND = ("background", "_background_", "__background__", "bg")
_IGNORED = (VOID_NAME, "__ignore__", "_ignore_", "ignore")


class Naming:
    """From the names in annotation files to class indices.

    Args:
        settings: What the user says: classes, unlabeled.
        names: All names in the annotations, in their order.
        root: The data folder.
    """

    def __init__(self, settings: DataSettings, names: Iterable[str], root: Path) -> None:
        for key in ("values", "colors"):
            if getattr(settings, key) is not None:
                raise DataError(
                    f"{root / 'data.toml'}: {key} is for masks that are pictures. Take it out: names count."
                )
        self._root = root
        there = list(dict.fromkeys(name for name in names if name not in _IGNORED))
        rest = settings.unlabeled
        if settings.classes is not None:
            self.classes = list(settings.classes)
            if rest is None and self.classes[0] in there and self.classes[0].lower() not in BACKGROUND:
                raise DataError(
                    f"{root / 'data.toml'}: what no shape covers would be '{self.classes[0]}', which shapes draw, too."
                    ' Put "background" first in classes, or set unlabeled = "void".'
                )
        else:
            first = rest if rest not in (None, VOID_NAME) else next((n for n in there if n.lower() in BACKGROUND), None)
            if first is None and rest is None:
                first = "background"
            self.classes = [*([first] if first else []), *(name for name in there if name != first)]
        self._index = {name: i for i, name in enumerate(self.classes)}
        self._index.update({name: VOID for name in _IGNORED if name not in self._index})
        self.rest = self.classes[0] if rest is None else rest
        self.unlabeled = VOID if self.rest == VOID_NAME else self._index.get(self.rest, 0)
        self._boxes = settings.boxes
        self._unknown: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()

    def index(self, name: str, stem: str) -> int | None:
        """Return the class index (or VOID) of a name in the annotation of a picture; None is remembered."""
        if (found := self._index.get(name)) is None:
            self._unknown.setdefault(name, []).append(stem)
        self._counts[name] += 1
        return found

    @property
    def key(self) -> str:
        """What a drawn mask depends on."""
        return f"{self._boxes}|{self.unlabeled}|{'|'.join(self.classes)}"

    def problems(self) -> list[Problem]:
        """Say what the rest is, and which names are no class."""
        words = f"what no shape covers is '{self.rest}'"
        found = [problem("unlabeled", "note", [], words, 'Set unlabeled in data.toml for another class, or "void".')]
        remedy = "Give all shapes of a class the same name."
        found += similar_classes(self.classes, remedy)
        for name, stems in self._unknown.items():
            words = f"shapes are called '{name}', which is not among the classes"
            remedy = f"Add it to classes in data.toml, or rename the shapes.{nearest(name, self.classes)}"
            found.append(problem("unknown-class", "error", stems, words, remedy, stems))
        return found

    def settings(self, told: Sequence[Problem] = ()) -> dict[str, object]:
        """Return the keys of data.toml that follow.

        Args:
            told: What is wrong with the files: those that cannot be read are the reason where nothing is drawn.

        Raises:
            BadDataError: There are fewer than two classes.
        """
        unread = [one for one in told if one.code == "unreadable"]
        if len(self.classes) < 2 and unread and not self._counts:
            raise BadDataError(str(self._root), unread)
        if len(self.classes) < 2:
            words = "annotations draw nothing, so there is no class to learn"
            if self._counts:
                words = (
                    f"annotations draw only '{self.classes[0]}', and a network needs two classes or more to tell apart"
                )
            remedy = 'Draw shapes, or name all classes in data.toml: classes = ["background", "..."].'
            raise BadDataError(str(self._root), [problem("few-classes", "error", [], words, remedy)])
        return {"classes": self.classes}
