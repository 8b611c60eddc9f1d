"""The course: its picture is what the code draws, its figures are the code's, its notebooks run."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

from fullconv.cli.models import MEASURED
from fullconv.nn import VARIANTS

ROOT = Path(__file__).parents[1]
COURSE = (ROOT / "docs" / "concepts" / "fcn.md").read_text(encoding="utf-8")
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


def test_the_figure_of_the_architecture_is_what_the_code_draws():
    drawn = runpy.run_path(str(ROOT / "docs" / "images" / "architecture.py"))["draw"]()
    assert drawn == (ROOT / "docs" / "images" / "fcn8s.svg").read_text(encoding="utf-8")
    for fact in ("crop at 5", "crop at 9", "crop at 31", "sees 404", "sees 44", "12 -&gt; 26 rows", "26 -&gt; 54 rows"):
        assert fact in drawn, fact


def test_the_figure_follows_the_network():
    """Of a net with other crops and classes, the same lines draw another picture."""
    draw = runpy.run_path(str(ROOT / "docs" / "images" / "architecture.py"))["draw"]
    assert "60 x 33x40" in draw("pascalcontext-fcn8s", (33, 40))


def family() -> dict[str, list[str]]:
    """The cells of the family's table by net."""
    found = {}
    for line in COURSE.partition("## 7. The family")[2].partition("## 8.")[0].splitlines():
        if line.startswith("| `"):
            names, *cells = (cell.strip() for cell in line.strip("|").split(" | "))
            found |= dict.fromkeys(re.findall(r"`([^`]+)`", names), cells)
    return found


def test_the_family_is_complete_and_its_figures_are_measured():
    published = {name for name, row in VARIANTS.items() if row.caffe is not None or row.upsample_mode == "size"}
    rows = family()
    assert set(rows) == published
    facts = {variant: fact for (variant, _), fact in MEASURED.items() if variant in published}
    for name, (parameters, field, *_) in rows.items():
        assert f"{facts[name].parameters:,}" in parameters or parameters.endswith("and up"), name
        assert str(facts[name].receptive_field) in field.split(", "), name


def test_the_table_of_the_skips_is_that_of_the_benchmark():
    made = (ROOT / "benchmarks" / "boundary.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"<!-- table -->\n(.*)<!-- end -->", made, re.DOTALL)
    assert len(table.splitlines()) == 5
    assert table in COURSE
    kept = json.loads((ROOT / "benchmarks" / "results" / "boundary.json").read_text(encoding="utf-8"))
    assert {(run["variant"], run["seed"]) for run in kept["runs"]} == {
        (variant, seed) for variant in ("fcn32s", "fcn16s", "fcn8s") for seed in (0, 1, 2)
    }


def test_there_are_three_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["own_data", "skips", "tutorials"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    book = json.loads(path.read_text(encoding="utf-8"))
    assert book["nbformat"] == 4
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 5
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []
    said = "".join("".join(cell["source"]) for cell in book["cells"])
    assert not re.search(r"(?<![\w.])/(?:work|home|tmp|root|Users)/", said)
    links = re.findall(r"\]\((?!https?://)([^)#\s]+)\)", said)
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_its_first_cell_to_its_last(path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("FULLCONV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FULLCONV_OFFLINE", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    client = nbclient.NotebookClient(
        book, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    pictures = [
        output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]  # fmt: skip
    assert pictures


def test_every_test_that_a_page_names_exists():
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    named = {
        name for page in (ROOT / "docs").rglob("*.md") for name in re.findall(r"`(test_\w+)`", page.read_text("utf-8"))
    }
    assert len(named) > 40
    assert named <= there
