"""Class names of annotations; pixels that no shape covers are `unlabeled`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from fullconv.data.class_files import VOID_NAME, similar_class_names
from fullconv.data.config import DataSettings
from fullconv.data.problems import BadDataError, Problem, problem
from fullconv.errors import DataError, nearest
from fullconv.labels import BACKGROUND_NAMES, VOID

_IGNORED = (VOID_NAME, "__ignore__", "_ignore_", "ignore")


class ClassNames:
    """Maps the names in annotation files to class indices.

    Args:
        settings: The user's settings: classes, unlabeled.
        names: All names in the annotations, in order.
        root: The data folder.
    """

    def __init__(self, settings: DataSettings, names: Iterable[str], root: Path) -> None:
        for key in ("values", "colors"):
            if getattr(settings, key) is not None:
                raise DataError(
                    f"{root / 'data.toml'}: {key} is for masks that are image files. Remove it: names count."
                )
        self._root = root
        there = list(dict.fromkeys(name for name in names if name not in _IGNORED))
        rest = settings.unlabeled
        if settings.classes is not None:
            self.classes = list(settings.classes)
            if rest is None and self.classes[0] in there and self.classes[0].lower() not in BACKGROUND_NAMES:
                raise DataError(
                    f"{root / 'data.toml'}: pixels without a shape would be '{self.classes[0]}', which shapes draw, too."
                    ' Put "background" first in classes, or set unlabeled = "void".'
                )
        else:
            first = (
                rest
                if rest not in (None, VOID_NAME)
                else next((n for n in there if n.lower() in BACKGROUND_NAMES), None)
            )
            if first is None and rest is None:
                first = "background"
            self.classes = [*([first] if first else []), *(name for name in there if name != first)]
        self._index = {name: i for i, name in enumerate(self.classes)}
        self._index.update({name: VOID for name in _IGNORED if name not in self._index})
        self.rest = self.classes[0] if rest is None else rest
        self.unlabeled = VOID if self.rest == VOID_NAME else self._index.get(self.rest, 0)
        self._boxes = settings.boxes
        self._unknown: dict[str, list[str]] = {}
        self._any_shape = False

    def index(self, name: str, stem: str) -> int | None:
        """Return the class index (or VOID) of a name in the annotation of an image; None, which is reported, if it has none."""
        if (found := self._index.get(name)) is None:
            self._unknown.setdefault(name, []).append(stem)
        self._any_shape = True
        return found

    @property
    def key(self) -> str:
        """The settings that a drawn mask depends on."""
        return f"{self._boxes}|{self.unlabeled}|{'|'.join(self.classes)}"

    def problems(self) -> list[Problem]:
        """Return the class of unlabeled pixels as a note, and the names that are not classes."""
        cause = f"pixels without a shape are '{self.rest}'"
        found = [problem("unlabeled", "note", [], cause, 'Set unlabeled in data.toml for another class, or "void".')]
        fix = "Give all shapes of a class the same name."
        found += similar_class_names(self.classes, fix)
        for name, stems in self._unknown.items():
            cause = f"shapes are called '{name}', which is not among the classes"
            fix = f"Add it to classes in data.toml, or rename the shapes.{nearest(name, self.classes)}"
            found.append(problem("unknown-class", "error", stems, cause, fix, stems))
        return found

    def settings(self, problems: Sequence[Problem] = ()) -> dict[str, object]:
        """Return the keys of data.toml that follow.

        Args:
            problems: Problems with the files: those that cannot be read are the reason if nothing is drawn.

        Raises:
            BadDataError: There are fewer than two classes.
        """
        if len(self.classes) < 2:
            unreadable = [found for found in problems if found.code == "unreadable"]
            if unreadable and not self._any_shape:
                raise BadDataError(str(self._root), unreadable)
            cause = "annotations draw nothing, so there is no class to learn"
            if self._any_shape:
                cause = f"annotations draw only '{self.classes[0]}', but a network needs at least two classes"
            fix = 'Draw shapes, or list all classes in data.toml: classes = ["background", "..."].'
            raise BadDataError(str(self._root), [problem("few-classes", "error", [], cause, fix)])
        return {"classes": self.classes}
