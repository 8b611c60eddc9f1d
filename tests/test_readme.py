"""The README's commands run as written, and what the documentation names exists."""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import fullconv
from fullconv.card import Card
from fullconv.cli import main
from fullconv.cli.synthetic import make_shapes
from fullconv.data.config import DataSettings, parse_settings
from fullconv.labels import format_color
from fullconv.recipe import HeadSettings, Recipe, dump_toml, parse_recipe, parse_setting

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHORT = "--backbone tiny --weights none --epochs 2"
"""What the README itself says makes its steps short."""

needs_bash = pytest.mark.skipif(os.name == "nt" or shutil.which("bash") is None, reason="needs a POSIX shell")


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text(page), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """Return a page without its blocks."""
    return re.sub(r"^```.*?^```$", "", text(page), flags=re.MULTILINE | re.DOTALL)


def spans(page: Path) -> list[str]:
    """Return what stands in the text as code."""
    return [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose(page))]


def ids(page: Path) -> str:
    return page.name


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="module", autouse=True)
def _settings(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FULLCONV_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("FULLCONV_OFFLINE", "1")
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        threads = torch.get_num_threads()
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def place(tmp_path_factory, demo) -> Path:
    """A folder as the README takes it: what `make demo` leaves (after two epochs), examples/, cracks/ and new/."""
    root = tmp_path_factory.mktemp("readme")
    shutil.copytree(demo, root / "demo")
    shutil.copytree(ROOT / "examples", root / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    make_export = runpy.run_path(str(ROOT / "examples" / "own_data.py"))["make_export"]
    make_export(root / "cracks")
    (root / "cracks" / "data.toml").write_text("\n".join(blocks(README, "toml")), encoding="utf-8")
    make_export(root / "more", count=3)
    shutil.copytree(root / "more" / "images", root / "new")
    return root


def run(line: str, place: Path, patch: pytest.MonkeyPatch) -> Ran:
    """Run a line: commands of ours in this process, which saves seconds for each, all others by bash."""
    patch.chdir(place)
    if line.startswith("fullconv ") and not set("|&;>") & set(line):
        line += f" {SHORT}" if line.startswith("fullconv train cracks") else ""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(shlex.split(line)[1:])
        return Ran(code, out.getvalue(), err.getvalue())
    done = subprocess.run(["bash", "-ec", line], capture_output=True, text=True, timeout=500, check=False)
    return Ran(done.returncode, done.stdout, done.stderr)


def is_slow(block: str) -> bool:
    return "kill -9" in block


@pytest.fixture(scope="module")
def ran(place) -> dict[str, Ran]:
    """What each line of the README's quick commands gave, in their order."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for block in blocks(README, "sh"):
            for line in [] if is_slow(block) else block.strip().splitlines():
                found[line] = run(line, place, patch)
    return found


@needs_bash
def test_the_commands_of_the_readme_run_as_written(ran):
    assert {line: done.err for line, done in ran.items() if done.code != 0} == {}
    assert len(ran) >= 12


def test_the_readme_names_the_options_that_shorten_its_steps():
    assert f"`{SHORT}`" in text(README)


@needs_bash
def test_own_images_become_a_model_scores_and_labels(ran, place):
    assert "Ready for train." in ran["fullconv check cracks"].out
    assert (place / "runs" / "first" / "report.html").is_file()
    assert re.search(r"^mIoU +0\.\d{4}", ran["fullconv evaluate runs/first cracks"].out, re.MULTILINE)
    for stem in ("000", "001", "002"):
        with (
            Image.open(place / "labels" / f"{stem}.png") as labels,
            Image.open(place / "new" / f"{stem}.jpg") as picture,
        ):
            assert (labels.mode, labels.size) == ("P", picture.size)
        assert (place / "labels" / f"{stem}.overlay.png").is_file()
    assert (place / "labels" / "summary.csv").is_file()


@needs_bash
def test_tiles_and_the_whole_are_the_same_file(ran):
    assert [done.out for line, done in ran.items() if line.startswith("cmp")] == ["the same\n"]


@needs_bash
def test_the_recount_gives_the_score(ran):
    printed = ran["fullconv evaluate demo/run demo/data --split test"].out
    counted = next(done.out for line, done in ran.items() if "count_scores.py" in line)
    for name in ("mIoU", "pixel accuracy"):
        figures = [re.search(rf"^{name} +(\S+)", said, re.MULTILINE)[1] for said in (printed, counted)]
        assert figures[0] == figures[1]


@needs_bash
def test_the_model_alone_is_enough(ran, place):
    assert "fcn8s on tiny" in ran["fullconv info shapes.safetensors"].out
    assert (place / "one-image" / "shapes100.png").is_file()


@needs_bash
@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_weights(tmp_path):
    make_shapes(tmp_path / "demo" / "data")
    (block,) = filter(is_slow, blocks(README, "sh"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=550, check=False
    )
    hashes = re.findall(r'"weights_sha256": "([0-9a-f]{64})"', done.stdout)
    assert len(hashes) == 2, done.stderr
    assert "this run is finished" not in done.stderr  # it was killed before its end
    assert hashes[0] == hashes[1]


@pytest.mark.slow
def test_the_demo_makes_what_the_readme_shows(tmp_path):
    command = [sys.executable, "-m", "fullconv", "demo", "-o", str(tmp_path / "demo")]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 120
    assert len(list((tmp_path / "demo/data").rglob("images/*.png"))) == 120
    assert (tmp_path / "demo/run/report.html").stat().st_size < 20e6
    report = fullconv.evaluate(fullconv.load(tmp_path / "demo" / "run"), tmp_path / "demo" / "data", split="test")
    assert report.mean_iou >= 0.9
    picture = runpy.run_path(str(ROOT / "docs" / "images" / "make.py"))["compose"](tmp_path / "demo")
    with Image.open(ROOT / "docs" / "images" / "demo.png") as shown:
        assert picture.size == shown.size


def test_make_has_the_targets_that_are_named():
    targets = set(re.findall(r"^([a-z-]+):", text(ROOT / "Makefile"), re.MULTILINE))
    code = [part for page in PAGES for part in [*blocks(page, "text"), *spans(page)]]
    named = {name for part in code for name in re.findall(r"^make ([a-z-]+)", part, re.MULTILINE)}
    assert {"demo", "test"} <= named <= targets


@needs_bash
def test_the_python_of_the_readme_runs(ran, place, monkeypatch, capsys):
    (code,) = blocks(README, "python")
    monkeypatch.chdir(place)
    names: dict[str, Any] = {}
    exec(compile(code, str(README), "exec"), names)
    assert len([line for line in code.splitlines() if line]) <= 10
    assert "(72, 96) ('background', 'crack')" in capsys.readouterr().out
    assert (place / "000.png").is_file()
    assert (place / "000.overlay.png").is_file()
    with torch.inference_mode():
        assert names["network"](torch.zeros(1, 3, 33, 40)).shape == (1, 21, 33, 40)


def test_the_python_of_the_model_file_runs(demo, monkeypatch):
    monkeypatch.chdir(demo / "run")
    names: dict[str, Any] = {"fullconv": fullconv}
    for code in blocks(ROOT / "docs" / "reference" / "model-file.md", "python"):
        exec(compile(code, "model-file.md", "exec"), names)
    assert Card.from_json(names["card"]).classes == ("ground", "disc", "box", "triangle")


@pytest.mark.parametrize("page", [page for page in PAGES if ">>>" in page.read_text(encoding="utf-8")], ids=ids)
def test_the_sessions_of_a_page_give_what_they_show(page):
    assert doctest.testfile(str(page), module_relative=False).failed == 0


def commands_of(page: Path) -> list[str]:
    """Return every command line of ours that a page holds, in blocks and in the text."""
    code = [*blocks(page, "sh"), *blocks(page, "text")]
    lines = [line for block in code for line in block.replace("\\\n", " ").splitlines()]
    lines += spans(page)
    return [match[0] for line in lines for match in re.finditer(r"(?<![\w./-])fullconv (-|[a-z])[^|;&)]*", line)]


def options_of(page: Path) -> list[str]:
    """Return every option that a page names by itself."""
    return [match[0] for span in spans(page) if (match := re.match(r"--[a-z][a-z-]*", span))]


@pytest.fixture(scope="module")
def helps() -> dict[str, set[str]]:
    """The options of every command, as `--help` shows them; "" is the program itself."""

    def helped(*words: str) -> str:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert main([*words, "--help"]) == 0
        return out.getvalue()

    program = helped()
    commands = re.findall(r"^  ([a-z]+) ", program.partition("Commands:")[2], re.MULTILINE)
    pages = {"": program, **{name: helped(name) for name in commands}}
    return {name: {*re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", page)} for name, page in pages.items()}


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_command_and_option_that_a_page_names_exists(page, helps):
    unknown = []
    for line in commands_of(page):
        name, *rest = line.split()[1:] if not line.startswith("fullconv -") else ["", *line.split()[1:]]
        options = {word.split("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
        if name not in helps or not options <= helps[name]:
            unknown.append(line)
    everything = set().union(*helps.values())
    assert unknown == []
    assert [option for option in options_of(page) if option not in everything] == []


def test_the_search_for_commands_finds_them(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Use `fullconv nothing --at-all` or `--never`.\n```sh\n(fullconv x -y & z)\n```\n", encoding="utf-8"
    )
    assert commands_of(page) == ["fullconv x -y ", "fullconv nothing --at-all"]
    assert options_of(page) == ["--never"]


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_link_into_the_project_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?://)([^)#\s]+)", text(page))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_leads_to_every_page():
    linked = set(re.findall(r"\]\((docs/[^)#\s]+\.md)", text(README)))
    pages = {page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert linked == pages


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CITATION.cff", *sorted((ROOT / "examples").glob("*.py"))], ids=ids)
def test_no_page_names_a_place_of_the_machine_it_was_written_on(page):
    assert re.findall(r"(?<![\w.])/(?:work|home|tmp|root|Users)/\S*", text(page)) == []


def rows(page: Path, columns: int) -> list[list[str]]:
    """Return the cells of all table rows that begin with code."""
    found = [line.strip().strip("|").split(" | ") for line in text(page).splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in row] for row in found if len(row) >= columns]


def as_shown(value: Any) -> str:
    return "-" if value is None else dump_toml({"x": value}).removeprefix("x = ").strip().strip('"')


def test_the_table_of_settings_is_the_recipes():
    defaults = {name: field.default for name, field in Recipe.model_fields.items() if name != "head"}
    defaults |= {f"head.{name}": field.default for name, field in HeadSettings.model_fields.items()}
    shown = {row[0].strip("`"): row[1].strip("`") for row in rows(ROOT / "docs" / "how-to" / "training.md", 3)}
    assert shown == {name: as_shown(default) for name, default in defaults.items()}


def test_the_table_of_settings_names_their_options(helps):
    for name, _, _, *option in rows(ROOT / "docs" / "how-to" / "training.md", 3):
        expected = "--" + name.strip("`").replace("_", "-")
        said = "".join(option).strip("` |")
        assert said == (expected if expected in helps["train"] else ""), name


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_setting_that_is_shown_can_be_set(page):
    for pair in re.findall(r"--set\s+([a-z_.]+=[^\s`]+)", text(page)):
        if pair not in ("key=value", "name=value"):
            parse_recipe(dict([parse_setting(pair)]))


def test_the_papers_recipe_is_one():
    (span,) = [span for span in spans(ROOT / "docs" / "how-to" / "training.md") if "momentum=0.99" in span]
    pairs = dict(parse_setting(pair) for pair in re.findall(r"--set (\S+)", span))
    options = {name.replace("-", "_"): parse_setting(f"x={value}")[1] for name, value in
               re.findall(r"--((?!set)[a-z-]+) (\S+)", span)}  # fmt: skip
    recipe = parse_recipe({**pairs, **options})
    assert (recipe.lr, recipe.reduction, recipe.batch_size, recipe.ema) == (1e-10, "sum", 1, 0)


def test_the_table_of_data_keys_is_complete_and_its_examples_are_read():
    shown = {row[0].strip("`"): row[2].strip("`") for row in rows(ROOT / "docs" / "reference" / "data.md", 3)}
    assert set(shown) == set(DataSettings.model_fields) - {"class_colors"}
    for key, line in shown.items():
        assert list(parse_settings(tomllib.loads(line), key).model_dump(exclude_unset=True)) == [key]


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "reference" / "data.md"], ids=ids)
def test_every_data_toml_that_is_shown_is_one(page):
    for block in blocks(page, "toml"):
        settings = parse_settings(tomllib.loads(block), page.name)
        assert settings.class_names() or all(head.class_names() for head in settings.heads.values())


def test_own_folders_are_read_as_shown(tmp_path):
    painted, beside = (
        block for block in blocks(ROOT / "docs" / "reference" / "data.md", "toml") if "heads" not in block
    )
    colors = [(0, 0, 0), (250, 50, 83)]
    assert format_color(colors[1]) in painted
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 2:5] = 1
    for number in range(5):
        picture = Image.new("RGB", (8, 8), (number, 0, 0))
        for place, image in (
            (f"colors/photos/{number}.jpg", picture),
            (f"colors/painted/{number}.png", Image.fromarray(np.array(colors, np.uint8)[mask])),
            (f"beside/all/{number}.jpg", picture),
            (f"beside/all/{number}_mask.png", Image.fromarray(mask)),
        ):
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / place)
    for root, settings in (("colors", painted), ("beside", beside)):
        (tmp_path / root / "data.toml").write_text(settings, encoding="utf-8")
        dataset = fullconv.open_dataset(tmp_path / root)
        assert dataset.classes == ("background", "crack")
        assert len(dataset.samples("all")) == 5
        assert (dataset.read_mask(dataset.samples("all")[0]) == mask).all()


def test_the_layouts_that_are_shown_are_those_that_are_known():
    from fullconv.data.formats import FORMATS

    plain, others = (
        {row[0].strip("`") for row in rows(ROOT / "docs" / "reference" / page, 2)} - set(DataSettings.model_fields)
        for page in ("data.md", "formats.md")
    )
    assert plain == {row.name for row in FORMATS if row.family in ("pairs", "camvid")}
    assert plain | others >= {row.name for row in FORMATS}


def test_the_table_of_the_card_is_complete():
    shown = {
        name
        for row in rows(ROOT / "docs" / "reference" / "model-file.md", 2)
        for name in re.findall(r"`(\w+)`", row[0])
    }
    assert shown == set(Card.model_fields)


def test_the_reading_order_is_the_core():
    """docs/design.md lists the core's modules, one line a file; the architecture test holds its size."""
    order = re.findall(r"^\d+\. `([\w./]+)\.py`", text(ROOT / "docs" / "design.md"), re.MULTILINE)
    assert len(order) == len(set(order)) >= 15
    assert all((ROOT / "src" / "fullconv" / f"{module}.py").is_file() for module in order)
    architecture = runpy.run_path(str(ROOT / "tests" / "test_architecture.py"))
    assert sorted(module.replace("/", ".") for module in order) == sorted(architecture["CORE"])


def test_the_drawing_of_the_layers_is_that_of_the_imports():
    draw = runpy.run_path(str(ROOT / "docs" / "images" / "layers.py"))["draw"]
    assert (ROOT / "docs" / "images" / "layers.svg").read_text(encoding="utf-8") == draw()


def test_the_citation_names_the_version():
    assert f"version: {fullconv.__version__}\n" in text(ROOT / "CITATION.cff")


def test_the_data_settings_of_the_readme_are_those_of_the_example():
    example = runpy.run_path(str(ROOT / "examples" / "own_data.py"))["SETTINGS"]
    shown = "\n".join(blocks(README, "toml"))
    assert parse_settings(tomllib.loads(example), "example") == parse_settings(tomllib.loads(shown), "README")
