"""The tree of errors, and the nearest name."""

from __future__ import annotations

import inspect
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullconv import errors
from fullconv.errors import FullconvError, MissingExtraError, first_line, nearest, percent, plural

KINDS = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, FullconvError)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_the_user_ends_with_two_and_is_drawn_in_the_tree(kind):
    assert kind.exit_code == 2
    assert kind.__doc__
    drawn = re.search(rf"{kind.__name__} .*?(?:\(also (\w+)\))?$", errors.__doc__, re.M)
    assert drawn
    if drawn[1]:
        assert issubclass(
            kind, getattr(__builtins__, drawn[1]) if inspect.ismodule(__builtins__) else __builtins__[drawn[1]]
        )


def test_a_missing_extra_is_the_line_to_type():
    error = MissingExtraError("rasterio", "geo", "a GeoTIFF")
    assert str(error) == 'a GeoTIFF needs rasterio, which is not installed. Run: pip install "fullconv[geo]"'
    assert isinstance(error, ImportError)


def test_the_nearest_name_is_named_or_none():
    assert nearest("fcn8", ["fcn32s", "fcn8s"]) == " Did you mean 'fcn8s'?"
    assert nearest("zzz", ["fcn32s", "fcn8s"]) == ""
    assert nearest("x", []) == ""


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (0.9951, "over 99 %"), (0.096, "9.6 %"), (0.0999, "10 %"), (2e-5, "0.002 %"),
     (3e-8, "under 0.0001 %"), (12.5, "1,250 %")],
)  # fmt: skip
def test_fractions_are_written_as_percent(share, text):
    assert percent(share) == text


@given(st.floats(0, 1e6))
def test_percent_has_no_exponent(share):
    assert re.fullmatch(r"((over|under) )?[\d,]+(\.\d+)? %", percent(share))


def test_the_first_line_of_an_error_or_its_type():
    assert first_line(RuntimeError("\n  not enough memory\nat line 3")) == "not enough memory"
    assert first_line(MemoryError()) == "MemoryError"


def test_numerals_agree():
    assert [plural(count, "image") for count in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert plural(2, "class", "classes") == "2 classes"
