"""The shape of the package: layers, doors, the core, what loads torch, and what may touch the process.

Every import counts: at the top, inside functions, under ``TYPE_CHECKING``.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import fullconv

SOURCE = Path(fullconv.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))

LAYERS = [
    "_version", "_lazy", "errors", "notices", "profiling", "system", "storage", "labels", "recipe", "card",
    "dataset_constants",
    "modelfile", "metrics", "intervals", "geometry", "interpolation", "nn", "losses", "images", "preprocess", "data", "engines",
    "tiling", "tta",
    "prediction",
    "hub", "segmenter", "rasters", "evaluation", "runs", "tracking", "report", "checkpoint", "predict", "training",
    "annotations",
    "ranking", "exports", "scale", "serve", "cli",
]  # fmt: skip
"""Bottom to top: a module imports from its own package and from what stands before it."""

CORE = [
    "errors", "labels", "card", "recipe", "preprocess", "metrics", "losses", "segmenter", "geometry.axis", "tiling.plan",
    "nn.registry", "nn.heads", "nn.upsample", "nn.network", "nn.build",
    "training.step", "training.optimizer", "training.state", "training.loop",
]  # fmt: skip
"""What one reads in an hour (docs/design.md lists them in reading order); anybody may import these directly."""

LAZY_DOORS = {"", "geometry", "tiling", "engines", "data", "predict", "rasters", "scale", "serve", "report"}
"""Packages that may load their public names on first use, because some need torch and others do not."""

IMPORT_BY_NAME = {"_lazy.py", "engines/_optional.py", "nn/timm_models.py"}
"""The only modules that import by a computed name: lazy doors, and extras that may be missing."""

LAZY_IMPORTS = {
    "torch", "torchvision", "timm", "safetensors", "rich", "jinja2", "pycocotools", "yaml",
    "matplotlib", "IPython", "rasterio", "tifffile", "pyogrio", "pillow_heif", "onnx", "onnxscript", "onnxruntime", "psutil",
    "openvino", "nncf",
    "fastapi", "uvicorn", "prometheus_client", "python_multipart", "starlette", "ray", "fsspec", "pyarrow",
    "tensorboard", "wandb",
    "mlflow",
}  # fmt: skip
"""Third-party packages that a function may import itself: slow ones and extras."""

PROCESS_WIDE = {"mallopt", "_exit", "freeze", "setpriority", "nice"}
"""Calls that change the whole process: made by the command line (cli/startup.py) and in processes of our own."""
PROCESS_WIDE_IN = {"cli/startup.py", "system.py", "__main__.py", "serve/worker.py", "data/loader.py"}

TORCH = {"torch", "torchvision", "timm"}
TORCH_FREE = [
    "errors", "notices", "labels", "card", "recipe", "modelfile", "geometry.axis", "tiling.plan", "images",
    "preprocess", "prediction",
    "tta", "rasters", "predict", "serve.app", "cli",
]  # fmt: skip
"""Importable where torch is not installed; tests/test_torch_free.py uses them there."""


class Import(NamedTuple):
    """One import of ours: from which module, of which module and name, inside a function or not."""

    source: str
    target: str
    name: str
    nested: bool


def dotted(path: Path) -> str:
    """Return a module's name below ``fullconv``: ``nn.heads``, ``nn`` for its door, and "" for the top."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {dotted(path): path for path in MODULES}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def walk(node: ast.AST) -> Iterator[tuple[ast.AST, bool]]:
    """Yield all nodes below one, and whether they are inside a function."""
    stack = [(node, False)]
    while stack:
        parent, nested = stack.pop()
        nested = nested or isinstance(parent, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(parent):
            yield child, nested
            stack.append((child, nested))


@cache
def all_imports(path: Path) -> tuple[list[Import], list[tuple[str, bool]]]:
    """Return a module's imports of ours, and the third-party packages it imports."""
    ours: list[Import] = []
    others: list[tuple[str, bool]] = []
    own = dotted(path)
    for node, nested in walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "fullconv":
                    ours.append(Import(own, alias.name.removeprefix("fullconv").lstrip("."), "", nested))
                else:
                    others.append((alias.name, nested))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            if module.split(".")[0] != "fullconv":
                others.append((module, nested))
                continue
            base = module.removeprefix("fullconv").lstrip(".")
            for alias in node.names:
                whole = f"{base}.{alias.name}".lstrip(".")
                is_module = whole in NAMES and (base not in NAMES or not defines(base, alias.name))
                ours.append(Import(own, whole if is_module else base, "" if is_module else alias.name, nested))
    return ours, others


@cache
def public(door: str) -> frozenset[str]:
    """Return the names in a package's ``__all__``."""
    for node in tree(NAMES[door]).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


def defines(module: str, name: str) -> bool:
    """Whether a door names something itself, so that it is not the submodule of the same name."""
    return name in public(module)


def level(module: str) -> int:
    return LAYERS.index(module.split(".")[0])


def imports() -> Iterator[Import]:
    for path in MODULES:
        yield from all_imports(path)[0]


def test_every_module_has_its_layer():
    assert {name.split(".")[0] for name in NAMES} - {"", "__main__"} == set(LAYERS)


def test_imports_run_one_way():
    upward = [
        f"{one.source} -> {one.target}"
        for one in imports()
        if one.source not in ("", "__main__") and one.target and level(one.target) > level(one.source)
    ]
    assert not upward
    assert not [one for one in imports() if one.target == "" and one.source not in ("", "__main__")], (
        "nothing imports the top"
    )


def test_there_is_no_import_cycle():
    edges: dict[str, set[str]] = {name: set() for name in NAMES}
    for one in imports():
        if one.source != one.target and one.source != "" and not is_own_door(one):
            edges[one.source].add(one.target)
    state: dict[str, int] = {}
    cycles: list[str] = []

    def visit(name: str, path: list[str]) -> None:
        state[name] = 1
        for target in sorted(edges[name]):
            if state.get(target) == 1:
                cycles.append(" -> ".join([*path[path.index(target) :], target]))
            elif target not in state:
                visit(target, [*path, target])
        state[name] = 2

    for name in sorted(NAMES):
        if name not in state:
            visit(name, [name])
    assert not cycles


def is_own_door(one: Import) -> bool:
    """Whether a door imports its own module, or Python runs a door because one of its modules is imported."""
    return one.target.startswith(f"{one.source}.") and NAMES[one.source].name == "__init__.py"


def test_a_package_is_entered_by_its_door():
    """From outside: names of its ``__all__``, or modules of the core."""
    wrong = set()
    for one in imports():
        package = one.target.split(".")[0]
        if one.source.split(".")[0] == package or one.source in ("", "__main__") or package not in NAMES:
            continue
        if NAMES[package].name != "__init__.py" or one.target in CORE:
            continue
        if "." in one.target or one.name not in public(package):
            wrong.add(f"{one.source} -> {one.target}: {one.name}")
    assert not wrong


def test_nothing_is_imported_by_a_computed_name():
    found = {
        path.relative_to(SOURCE).as_posix()
        for path in MODULES
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.Name) and node.id in ("import_module", "__import__"))
        or (isinstance(node, ast.Attribute) and node.attr == "import_module")
    }
    assert found <= IMPORT_BY_NAME


def test_functions_import_only_what_is_slow_or_may_be_missing():
    standard = sys.stdlib_module_names
    found = {
        f"{path.relative_to(SOURCE).as_posix()}: {module}"
        for path in MODULES
        for module, nested in all_imports(path)[1]
        if nested and module.split(".")[0] not in standard and module.split(".")[0] not in LAZY_IMPORTS
    }
    assert not found


def test_the_names_of_a_lazy_door_are_those_that_type_checkers_see():
    for path in MODULES:
        calls = [n for n in ast.walk(tree(path)) if isinstance(n, ast.Name) and n.id == "attach"]
        if not calls or path.name != "__init__.py":
            continue
        door = dotted(path)
        assert door in LAZY_DOORS
        typed = {
            alias.asname or alias.name
            for node in tree(path).body
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for statement in node.body
            if isinstance(statement, ast.ImportFrom)
            for alias in statement.names
        }
        eager = {one.name for one in all_imports(path)[0] if one.name} - typed
        assert typed | eager | {"__version__"} >= public(door), door
        assert typed <= public(door), door


def test_the_core_is_read_in_an_hour():
    lines = {name: len(NAMES[name].read_text(encoding="utf-8").splitlines()) for name in CORE}
    assert len(lines) <= 22
    assert sum(lines.values()) <= 4500, lines


def test_a_file_is_one_concept():
    long = {name: lines for name, path in NAMES.items() if (lines := len(path.read_text("utf-8").splitlines())) > 600}
    assert not long


def test_every_module_has_a_docstring_with_a_full_first_sentence():
    for path in MODULES:
        text = ast.get_docstring(tree(path))
        assert text, path
        assert text.splitlines()[0].endswith((".", ":")), f"{path}: {text.splitlines()[0]}"


def test_there_is_no_module_for_odds_and_ends():
    forbidden = {"utils", "util", "common", "base", "core", "helpers", "misc"}
    assert not forbidden & {part for name in NAMES for part in name.split(".")}


def test_only_the_command_line_changes_the_process():
    found = {
        path.relative_to(SOURCE).as_posix()
        for path in MODULES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr in PROCESS_WIDE and isinstance(node.value, ast.Name)
        and node.value.id in ("os", "gc", "libc", "ctypes")
    }  # fmt: skip
    assert found <= PROCESS_WIDE_IN


def loaded(code: str) -> set[str]:
    """Return which of torch, torchvision and timm are loaded after some code ran in a process of its own."""
    ask = f"{code}\nimport sys\nprint(*[name for name in {sorted(TORCH)!r} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True, timeout=120)
    return set(answer.stdout.split())


def test_the_torch_free_half_loads_no_torch():
    names = ", ".join(f"fullconv.{name}" for name in TORCH_FREE)
    assert loaded(f"import fullconv, {names}\nfullconv.Recipe, fullconv.Card, dir(fullconv)") == set()


def test_the_question_above_would_notice_torch_and_a_network_module_loads_no_timm():
    assert loaded("import fullconv.nn") == {"torch"}


def test_no_test_module_imports_another():
    """What several test modules need has a module of its own: a renamed helper must not take another module's tests away."""
    tests = Path(__file__).parent
    found = {
        f"{path.relative_to(tests)}: {node.module}"
        for path in tests.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[-1].startswith("test_")
    }
    assert not found
