"""Recipes that come with the package, and those of several stages."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fullconv
from fullconv.errors import RecipeError, nearest
from fullconv.recipe import parse_recipe, read_toml

FOLDER = Path(fullconv.__file__).parent / "recipes"


@dataclass(frozen=True)
class RecipeFile:
    """A recipe as its file says it."""

    path: Path
    about: str
    """One sentence."""
    needs: str | None
    """The recipe whose model it begins from; --weights gives the file."""
    stages: tuple[str, ...]
    """Names or files of recipes to be run in turn, each from the model of the one before; else empty."""
    table: Mapping[str, Any]
    """Everything else in the file."""


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find_recipe(recipe: str | Path) -> Path:
    """Return the file of a recipe: a path, or the name of one that comes with the package.

    Raises:
        RecipeError: There is neither.
    """
    if not isinstance(recipe, (str, os.PathLike)):
        raise RecipeError(f"a recipe is a file, or the name of one that comes with fullconv, not {recipe!r}.")
    path = Path(recipe)
    if path.is_file() or str(recipe) not in recipe_names():
        if not path.exists() and path.suffix != ".toml":
            hint = nearest(str(recipe), recipe_names())
            raise RecipeError(
                f"--recipe {recipe}: there is no such file, and no recipe of that name comes with fullconv.{hint}"
                f" `fullconv models` lists them."
            )
        return path
    return FOLDER / f"{recipe}.toml"


def read_recipe(recipe: str | Path) -> RecipeFile:
    """Read a recipe by its name or path.

    Raises:
        RecipeError: It cannot be read, or its stages are none.
    """
    path = find_recipe(recipe)
    table = read_toml(path)
    about, needs, stages = str(table.pop("about", "")), table.pop("needs", None), table.pop("stages", [])
    if not isinstance(stages, list) or not all(isinstance(stage, str) for stage in stages) or len(stages) == 1:
        raise RecipeError(
            f"{path}: stages = {stages!r} cannot be: it is a list of two or more names or files of recipes."
        )
    if stages and table:
        raise RecipeError(
            f"{path}: '{next(iter(table))}' does nothing beside stages. Put it into the stages' own recipes."
        )
    return RecipeFile(path, about, None if needs is None else str(needs), tuple(stages), table)


def check_start(recipe: RecipeFile, settings: Mapping[str, Any]) -> None:
    """Raise where a recipe begins from a trained model and none is given.

    Raises:
        RecipeError: The message names the recipe that makes one.
    """
    if recipe.needs is not None and "weights" not in settings:
        raise RecipeError(
            f"the recipe {recipe.path.stem} begins from a model of {recipe.needs}: add --weights RUN/model.safetensors"
            " of such a run, or take a recipe whose name ends in -staged, which trains them in turn."
        )


def describe_recipes() -> list[dict[str, Any]]:
    """Return the recipes that come with the package, as `fullconv models --json` prints them."""
    rows = []
    for name in recipe_names():
        found = read_recipe(name)
        last = read_recipe(found.stages[-1]) if found.stages else found
        rows.append({"name": name, "variant": parse_recipe(last.table).variant, "about": found.about})
    return rows
