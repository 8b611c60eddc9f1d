"""The shape of the package: which room may use which, what loads torch, and that every module says what it is for."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fullconv

SOURCE = Path(fullconv.__file__).parent
ROOMS = [
    "_version", "_lazy", "errors", "notices", "profiling", "storage", "system", "labels", "recipe", "card",
    "dataset_constants", "modelfile", "geometry", "nn",
    "losses", "metrics", "images", "preprocess", "data", "engines", "tiling", "tta", "prediction", "hub", "segmenter",
    "rasters", "evaluation", "runs", "tracking", "report", "checkpoint", "training", "predict",
    "annotations", "ranking", "exports", "scale", "serve", "cli",
]  # fmt: skip
LEVEL = {room: level for level, room in enumerate(ROOMS)}
LIGHT = {
    "_version", "_lazy", "errors", "profiling", "storage", "system", "labels", "recipe", "card", "modelfile", "cli",
    "__init__", "__main__",
}  # fmt: skip
"""Rooms that load no torch by being imported."""
HEAVY = {"torch", "torchvision", "timm"}
MODULES = sorted(SOURCE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path, everywhere: bool = True) -> Iterator[str]:
    """Names of the modules that a module imports; else only those that importing it imports."""
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if not everywhere and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if not everywhere and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written from fullconv.room"
            yield node.module or ""
            if node.module == "fullconv":
                yield from (f"fullconv.{alias.name}" for alias in node.names)
        nodes += ast.iter_child_nodes(node)


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(SOURCE).as_posix() for path in paths]


def test_every_room_has_its_place():
    found = {room(path) for path in MODULES} - {"__init__", "__main__"}
    assert found <= set(ROOMS), f"{found - set(ROOMS)} need a place in the order"


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_imports_point_only_to_rooms_above(path):
    own = room(path)
    if own in ("__init__", "__main__"):
        return
    for module in imported(path):
        parts = module.split(".")
        if parts[0] != "fullconv" or len(parts) < 2 or parts[1] not in LEVEL:
            continue  # not ours, or a name of fullconv itself, such as its version
        assert parts[1] == own or LEVEL[parts[1]] < LEVEL[own], f"{own} must not import {parts[1]}"


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_every_module_says_what_it_is_for(path):
    words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert words
    assert words.splitlines()[0].endswith((".", ":", "?")), words.splitlines()[0]


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_a_module_stays_readable_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


@pytest.mark.parametrize(
    "path", [p for p in MODULES if room(p) in LIGHT], ids=names([p for p in MODULES if room(p) in LIGHT])
)
def test_light_rooms_name_no_torch_at_their_top(path):
    for module in imported(path, everywhere=False):
        assert module.split(".")[0] not in HEAVY
        parts = module.split(".")
        if parts[0] == "fullconv" and len(parts) > 1 and parts[1] in LEVEL:
            assert parts[1] in LIGHT, f"{module} loads torch"


def loaded(code: str) -> set[str]:
    """Heavy modules that are loaded after some code."""
    ask = f"{code}\nimport sys\nprint(*[name for name in {sorted(HEAVY)!r} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True, timeout=120)
    return set(answer.stdout.split())


def test_importing_the_package_and_its_light_rooms_loads_no_torch():
    light = ", ".join(f"fullconv.{name}" for name in sorted(LIGHT) if not name.startswith("__"))
    assert loaded(f"import fullconv, {light}\nfullconv.Recipe, fullconv.Card, dir(fullconv)") == set()


def test_the_question_above_would_notice_torch_and_networks_load_no_zoo_before_one_is_built():
    assert loaded("import fullconv.nn") == {"torch"}


def test_there_is_no_room_for_odds_and_ends():
    words = {"utils", "util", "common", "base", "core", "helpers", "misc"}
    assert not words & {path.stem for path in MODULES}
    assert not words & {path.name for path in SOURCE.rglob("*") if path.is_dir()}


def test_no_test_module_imports_another():
    """What several test modules need has a module of its own: a name changed in one must not take the tests of another away."""
    tests = Path(__file__).parent
    found = {
        f"{path.relative_to(tests)}: {module}"
        for path in tests.rglob("*.py")
        for module in imported(path)
        if module.split(".")[-1].startswith("test_")
    }
    assert not found
