"""Recipes: error messages, TOML round trips, and settings from the command line."""

from __future__ import annotations

import contextlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullconv.errors import FullconvError, RecipeError
from fullconv.recipe import Recipe, dump_toml, parse_recipe, parse_setting, read_toml, toml_value, tomllib


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, "there is no setting 'epoch'. Did you mean 'epochs'?"),
        ({"head": {"fcx": 1}}, "there is no setting 'head.fcx'. Did you mean 'head.fc'?"),
        ({"head.fcx": 1}, "there is no setting 'head.fcx'. Did you mean 'head.fc'?"),
        ({"zzzz": 3}, "there is no setting 'zzzz'."),
        ({"epochs": 0}, "epochs = 0 is invalid: input should be greater than or equal to 1."),
        ({"epochs": 1.5}, "epochs = 1.5 is invalid: input should be a valid integer"),
        ({"minutes": float("inf")}, "minutes = inf is invalid: input should be a finite number."),
        ({"lr": float("nan")}, "lr = nan is invalid: input should be a finite number."),
        ({"epochs": 3, "minutes": 2}, "set epochs or minutes, not both."),
        ({"crop": "32"}, "crop = '32' is invalid: '32' is neither HEIGHTxWIDTH, for example 288x384, nor whole."),
        ({"crop": (0, 3)}, "crop must be at least 1x1, not 0x3."),
        ({"crop": "100000000x100000000"}, "crop is at most 65536 per side, not 100000000x100000000."),
        ({"crop": [1, 2, 3]}, "crop = [1, 2, 3] is invalid: tuple should have at most 2 items"),
        ({"folds": 5, "fold": 5}, "fold 5 does not exist: with folds = 5 they are 0 to 4."),
        ({"class_weights": "x"}, "class_weights = 'x' is invalid: input should be 'auto', 'none', 'inverse_log' or"),
        ({"class_weights": [1, "a"]}, "class_weights.1 = 'a' is invalid: input should be a valid number"),
        ({"augment": "streets"}, "augment = 'streets' is invalid: input should be 'street', 'aerial', 'microscopy' or"),
        ({"head": {"dropout": 1}}, "head.dropout = 1 is invalid: input should be less than 1."),
        ({"head": 3}, "head = 3 is invalid: "),
        ({"weights": None}, "weights = None is invalid: input should be a valid string."),
        ({"width": 0}, "width = 0 is invalid: input should be greater than 0."),
        ({"seed": -1}, "seed = -1 is invalid: input should be greater than or equal to 0."),
    ],
)
def test_invalid_settings_report_key_value_and_reason(settings, message):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(settings, "here")
    text = str(caught.value)
    assert text.startswith("here: ")
    assert message in text
    assert "\n" not in text
    assert isinstance(caught.value, FullconvError)
    assert isinstance(caught.value, ValueError)


def test_nested_and_dotted_settings_are_equivalent_and_the_last_wins():
    assert parse_recipe({"head": {"fc": False}}) == parse_recipe({"head.fc": False})
    both = parse_recipe({"head": {"fc": True, "dropout": 0.1}, "head.fc": False})
    assert (both.head.fc, both.head.dropout) == (False, 0.1)


def test_crop_formats():
    assert {parse_recipe({"crop": crop}).crop for crop in ("32x48", "32X48", [32, 48], (32, 48))} == {(32, 48)}


def test_recipe_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Recipe().lr = 3  # type: ignore[misc]


# --- TOML ------------------------------------------------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
plain = st.one_of(
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=False),
    text,
    st.lists(st.integers(0, 9), max_size=4),
)
tables = st.recursive(
    st.dictionaries(text, plain, max_size=4), lambda inner: st.dictionaries(text, st.one_of(plain, inner), max_size=4)
)


@given(tables)
def test_tables_round_trip(table):
    assert tomllib.loads(dump_toml(table)) == table


recipes = st.fixed_dictionaries(
    {},
    optional={
        "variant": text, "weights": text, "norm": st.sampled_from(["batch", "none"]), "epochs": st.integers(1, 10**6),
        "crop": st.tuples(st.integers(1, 999), st.integers(1, 999)), "scale": st.floats(0.01, 8), "lr": st.floats(1e-9, 10),
        "class_weights": st.one_of(st.just("none"), st.lists(st.floats(0, 9), min_size=1, max_size=5)),
        "head": st.fixed_dictionaries({}, optional={"fc": st.booleans(), "dropout": st.floats(0, 0.99)}),
        "skip_bad": st.booleans(), "seed": st.integers(0, 2**53), "warmup": st.floats(0, 0.99),
    },
)  # fmt: skip


@given(recipes)
def test_recipes_round_trip_to_the_bit(settings):
    recipe = parse_recipe(settings)
    assert parse_recipe(tomllib.loads(dump_toml(recipe.model_dump(mode="json")))) == recipe


def test_lone_surrogates_become_replacement_characters():
    assert tomllib.loads(dump_toml({"data": "a\udcffb"})) == {"data": "a\ufffdb"}


def test_invalid_toml_reports_file_and_line(tmp_path):
    file = tmp_path / "r.toml"
    file.write_text("a = 1\nb = = 2\n")
    with pytest.raises(RecipeError, match=r"r\.toml: not valid TOML: .*line 2"):
        read_toml(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match=r"r\.toml: not valid TOML"):
        read_toml(file)
    with pytest.raises(RecipeError, match=r"none\.toml: cannot be read \(No such file"):
        read_toml(tmp_path / "none.toml")


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("optimizer=sgd", ("optimizer", "sgd")), ("lr=1e-3", ("lr", 1e-3)), ("epochs=5", ("epochs", 5)),
        ("head.fc=false", ("head.fc", False)), ("class_weights=[1, 2.5]", ("class_weights", [1, 2.5])),
        ('weights="a b.pth"', ("weights", "a b.pth")), ("weights=C:\\x\\y", ("weights", "C:\\x\\y")),
        (" crop = 32x48 ", ("crop", "32x48")), ("loss=cross_entropy + dice", ("loss", "cross_entropy + dice")),
        ("loss=a=b", ("loss", "a=b")), ("variant=", ("variant", "")),
    ],
)  # fmt: skip
def test_parse_setting(given_text, expected):
    assert parse_setting(given_text) == expected


@pytest.mark.parametrize("wrong", ["lr", "", "=3", "  = 3"])
def test_setting_without_key_or_value_is_rejected(wrong):
    with pytest.raises(RecipeError, match="write it as key=value, for example --set optimizer=sgd"):
        parse_setting(wrong)


@given(st.text(string.printable, max_size=30))
def test_parse_setting_never_crashes(arguments):
    with contextlib.suppress(RecipeError):
        parse_recipe(dict([parse_setting(arguments)]))


def test_toml_values_on_one_line():
    assert toml_value({"a b": [1, True], "c": {"d": "x"}}) == '{ "a b" = [1, true], c = { d = "x" } }'
    assert [toml_value("\\d", literal=literal) for literal in (False, True)] == ['"\\\\d"', "'\\d'"]
