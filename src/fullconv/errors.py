"""Errors that a user can fix.

::

    FullconvError            exit code 2, one line, no traceback
    +-- InputError           an image, mask or array that cannot be used        (also ValueError)
    +-- DataError            a data set that cannot be used                     (also ValueError)
    +-- RecipeError          a setting that is unknown, wrong or in conflict    (also ValueError)
    +-- NetworkError         a network that cannot be built or traced           (also ValueError)
    +-- ModelFileError       a model file that is damaged, foreign or missing   (also ValueError)
    +-- WeightsError         pretrained weights that cannot be loaded           (also OSError)
    +-- RunError             a run folder that cannot be used or went wrong     (also RuntimeError)
    +-- OutputError          a file or folder that cannot be written            (also OSError)
    +-- MissingExtraError    an optional dependency that is not installed       (also ImportError)

A message reads *where: what is wrong. Fix.*
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FullconvError(Exception):
    """Base of every error that a user can fix; the command line prints it and exits with 2."""

    exit_code = 2


class InputError(FullconvError, ValueError):
    """An image, mask or array cannot be used."""


class DataError(FullconvError, ValueError):
    """A data set cannot be used."""

    failed: list[dict[str, str]] | None = None
    """Input and reason of each image, where all failed."""


class RecipeError(FullconvError, ValueError):
    """A setting is unknown, wrong or in conflict with another."""


class NetworkError(FullconvError, ValueError):
    """A network cannot be built, traced or tiled."""


class ModelFileError(FullconvError, ValueError):
    """A model file is damaged, foreign or missing."""


class WeightsError(FullconvError, OSError):
    """Pretrained weights cannot be loaded."""


class RunError(FullconvError, RuntimeError):
    """A run folder cannot be used, or a run went wrong."""


class OutputError(FullconvError, OSError):
    """A file or folder cannot be written."""


class MissingExtraError(FullconvError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f'{purpose} needs {package}, which is not installed. Run: pip install "fullconv[{extra}]"')


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known name closest to a word, or an empty string.

    >>> nearest("resnet81", ["resnet18", "vgg16"])
    " Did you mean 'resnet18'?"
    >>> nearest("zzz", ["resnet18"])
    ''
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def first_line(error: BaseException) -> str:
    r"""Return the first line of an error's text, or the name of its type where it has none.

    >>> first_line(ValueError("\n  too large\nby far")), first_line(MemoryError())
    ('too large', 'MemoryError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip()


def percent(share: float) -> str:
    """Return a fraction as percent, with two digits where it is small.

    >>> percent(1), percent(0.42), percent(0.0123), percent(0.999), percent(1e-9)
    ('100 %', '42 %', '1.2 %', 'over 99 %', 'under 0.0001 %')
    """
    if 0 < share < 1e-6:
        return "under 0.0001 %"
    if 0.995 <= share < 1:
        return "over 99 %"
    return f"{100 * share:,.0f} %" if share >= 0.0995 else f"{100 * share:.2g} %"


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """Return a count with its noun.

    >>> plural(1, "image"), plural(12000, "image"), plural(0, "class", "classes")
    ('1 image', '12000 images', '0 classes')
    """
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"
