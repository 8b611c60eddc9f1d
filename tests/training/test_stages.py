"""Recipes of the package, and runs of several stages."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ranks
from runs import SMALL, identity, lines

from fullconv.cli import main
from fullconv.errors import RecipeError, RunError
from fullconv.modelfile import read_card, read_tensors
from fullconv.nn import VARIANTS
from fullconv.recipe import parse_recipe, read_toml
from fullconv.training import train
from fullconv.training.config import check_lr, read_config, read_recipe, recipe_names, resolve_defaults
from synthetic.shapes import make_shapes

HEAVY = {
    "voc-fcn32s": (1e-10, 100_000, None), "voc-fcn16s": (1e-12, 100_000, "voc-fcn32s"),
    "voc-fcn8s": (1e-14, 100_000, "voc-fcn16s"), "voc-fcn8s-atonce": (1e-10, 300_000, None),
    "siftflow-fcn32s": (1e-10, 100_000, None), "siftflow-fcn16s": (1e-12, 100_000, "siftflow-fcn32s"),
    "siftflow-fcn8s": (1e-12, 100_000, "siftflow-fcn16s"), "nyud-fcn32s-color": (1e-10, 100_000, None),
    "nyud-fcn32s-hha": (1e-10, 100_000, None), "nyud-fcn32s-color-d": (1e-10, 100_000, None),
    "nyud-fcn32s-color-hha": (1e-12, 100_000, None), "pascalcontext-fcn32s": (1e-10, 400_000, None),
    "pascalcontext-fcn16s": (1e-12, 400_000, "pascalcontext-fcn32s"),
    "pascalcontext-fcn8s": (1e-14, 400_000, "pascalcontext-fcn16s"),
}  # fmt: skip
"""Rate, steps and start of the release's solvers."""


def single() -> list[str]:
    return [name for name in recipe_names() if not read_recipe(name).stages]


@pytest.mark.parametrize("name", HEAVY)
def test_release_recipes(name):
    found = read_recipe(name)
    recipe = parse_recipe(found.table)
    assert (recipe.lr, recipe.steps, found.needs, recipe.variant) == (*HEAVY[name], name)
    assert (recipe.momentum, recipe.weight_decay, recipe.reduction, recipe.schedule) == (0.99, 5e-4, "sum", "constant")
    assert (recipe.batch_size, recipe.crop, recipe.augment, recipe.accumulate) == (1, "whole", "none", 1)
    assert (recipe.bias_lr, recipe.bias_decay, recipe.warmup, recipe.ema, recipe.clip) == (2, False, 0, 0, None)


def test_paper_recipes():
    rates = {"voc-fcn32s-cvpr": 1e-4, "voc-fcn16s-cvpr": 1e-6, "voc-fcn8s-cvpr": 1e-8, "voc-fcn-googlenet": 5e-5}
    for name, lr in rates.items():
        recipe = parse_recipe(read_recipe(name).table)
        assert (recipe.lr, recipe.momentum, recipe.accumulate, recipe.epochs) == (lr, 0.9, 20, 175)
        assert (recipe.reduction, recipe.bias_lr, recipe.schedule) == ("mean", 2, "constant")
    alexnet = parse_recipe(read_recipe("voc-fcn-alexnet").table)
    assert (alexnet.lr, alexnet.momentum, alexnet.accumulate, alexnet.steps) == (1e-4, 0.9, 20, 100_000)


def test_every_released_network_has_a_recipe_and_stages_chain():
    assert {name for name, row in VARIANTS.items() if row.caffe is not None} <= set(recipe_names())
    for name in set(recipe_names()) - set(single()):
        stages = [read_recipe(stage) for stage in read_recipe(name).stages]
        assert [stage.needs for stage in stages] == [None, *(stage.path.stem for stage in stages[:-1])]
        assert [parse_recipe(stage.table).variant[-3:] for stage in stages] == ["32s", "16s", "n8s"]


@pytest.mark.parametrize("name", single())
def test_recipes_have_valid_learning_rates(name):
    statistics = SimpleNamespace(sizes=[(375, 500)], pixels=np.array([375 * 500]), void=0)
    check_lr(resolve_defaults(read_config(read_recipe(name).path).recipe, None, statistics), statistics)  # type: ignore[arg-type]


def test_models_lists_recipes(capsys):
    assert main(["models", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)["recipes"]}
    assert list(listed) == recipe_names()
    assert listed["voc-fcn8s-staged"]["variant"] == "voc-fcn8s"
    assert all(row["about"] for row in listed.values())


def test_unknown_recipe_suggests_the_nearest(shapes, tmp_path, capsys):
    assert main(["train", str(shapes), "-o", str(tmp_path / "run"), "--recipe", "voc-fcn8s-stagd"]) == 2
    assert "fullconv has no recipe of that name. Did you mean 'voc-fcn8s-staged'?" in capsys.readouterr().err


def test_recipe_that_needs_a_model_asks_for_it(shapes, tmp_path):
    message = r"the recipe voc-fcn16s starts from a model of voc-fcn32s: add --weights RUN"
    with pytest.raises(RecipeError, match=message):
        train(shapes, tmp_path / "run", recipe="voc-fcn16s")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("key", "value"), [("lr", 1e-3), ("variant", "fcn8s")])
def test_settings_of_single_stages_are_rejected(shapes, tmp_path, key, value):
    with pytest.raises(RecipeError, match=rf"{key} = {value} cannot hold for every stage of voc-fcn8s-staged"):
        train(shapes, tmp_path / "run", recipe="voc-fcn8s-staged", **{key: value})
    assert not (tmp_path / "run").exists()


def test_failed_start_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        train(tmp_path / "nothing", tmp_path / "run", recipe="voc-fcn8s-staged", weights="none")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('stages = ["voc-fcn32s"]', r"stages = \['voc-fcn32s'\] is invalid: list two or more"),
        ('stages = ["a", "b"]\nlr = 1.0', r"'lr' does nothing beside stages"),
        ('stages = ["voc-fcn8s-staged", "voc-fcn8s"]', r"its stage voc-fcn8s-staged has stages of its own"),
    ],
)
def test_invalid_stages_are_rejected(shapes, tmp_path, text, message):
    (tmp_path / "own.toml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=message):
        train(shapes, tmp_path / "run", recipe=tmp_path / "own.toml")


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """A staged recipe of small nets; only the first stage moves its weights far."""
    folder = tmp_path_factory.mktemp("recipes")
    for name, lr in (("fcn32s", 1e-2), ("fcn16s", 1e-6), ("fcn8s", 1e-6)):
        (folder / f"{name}.toml").write_text(f'variant = "{name}"\nlr = {lr}\nema = 0.0\nsteps = 2\n', encoding="utf-8")
    stages = [(folder / f"{name}.toml").as_posix() for name in ("fcn32s", "fcn16s", "fcn8s")]
    (folder / "staged.toml").write_text(f"stages = {stages}\n".replace("'", '"'), encoding="utf-8")
    return folder / "staged.toml"


@pytest.fixture(scope="module")
def finished(own, tmp_path_factory) -> tuple[Path, Path]:
    """Data and a finished staged run; not to be changed."""
    root = tmp_path_factory.mktemp("staged")
    data = make_shapes(root / "data", images=4, size=(40, 48))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FULLCONV_CACHE", str(root / "cache"))
        train(data, root / "run", recipe=own, **_settings())
    return data, root / "run"


def _settings() -> dict[str, object]:
    return {key: value for key, value in SMALL.items() if key != "variant"}


def test_each_stage_has_a_folder_and_the_last_is_the_run(finished):
    _, run = finished
    assert {path.name for path in (run / "stages").iterdir()} == {"1-fcn32s", "2-fcn16s", "stages.toml"}
    places = [run / "stages" / "1-fcn32s", run / "stages" / "2-fcn16s", run]
    assert [read_card(place / "model.safetensors").variant for place in places] == ["fcn32s", "fcn16s", "fcn8s"]
    for place in places:
        assert {path.name for path in place.iterdir()} >= {"recipe.toml", "metrics.jsonl", "report.html", "checkpoints"}
        assert json.loads((place / "status.json").read_text())["status"] == "finished"
    assert read_toml(run / "recipe.toml")["weights"].endswith("stages/2-fcn16s/model.safetensors")


@pytest.mark.slow
def test_two_processes_train_the_stages_as_one_and_resume(own, tmp_path):
    data, alone, run = make_shapes(tmp_path / "data", images=4, size=(40, 48)), tmp_path / "alone", tmp_path / "run"
    steady = {"norm": "none", "batch_size": 4}
    with pytest.MonkeyPatch.context() as patch, ranks.starter() as start:
        patch.setenv("OMP_NUM_THREADS", "1")
        one, two = start(2, tmp_path / "outputs", ranks.trained, str(data), str(run), steady, False, str(own)).results()
        assert one["weights"] == two["weights"]
        assert one["status"] == "done"
        again = start(2, tmp_path / "again", ranks.trained, str(data), str(run), steady, True, str(own)).results()
        assert [result["weights"] for result in again] == [one["weights"]] * 2
    train(data, alone, recipe=own, **{**_settings(), **steady})
    for place in (Path("stages/1-fcn32s"), Path("stages/2-fcn16s"), Path()):
        assert json.loads((run / place / "status.json").read_text())["status"] == "finished"
        found, wanted = (lines(folder / place)[-1]["train_loss"] for folder in (run, alone))
        assert found == pytest.approx(wanted, rel=1e-5)


def test_stages_load_weights_by_name_and_new_skips_are_initialized(finished):
    _, run = finished
    first, second, last = (
        read_tensors(place / "model.safetensors")
        for place in (run / "stages" / "1-fcn32s", run / "stages" / "2-fcn16s", run)
    )
    trunk = [name for name in first if name.startswith("backbone.") and name.endswith("weight")]
    assert len(trunk) > 5
    for name in [*trunk, "head.score.32.weight"]:
        np.testing.assert_allclose(second[name].numpy(), first[name].numpy(), atol=1e-4)
        np.testing.assert_allclose(last[name].numpy(), first[name].numpy(), atol=1e-4)
    assert {"head.score.16.weight"} <= set(second) - set(first)
    assert {"head.score.8.weight"} <= set(last) - set(second)
    np.testing.assert_allclose(last["head.score.16.weight"].numpy(), second["head.score.16.weight"].numpy(), atol=1e-4)


def _without_the_last(run: Path, to: Path) -> Path:
    """Copy a run as it was before its last stage began."""
    copied = Path(shutil.copytree(run, to))
    for path in copied.iterdir():
        if path.name != "stages":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return copied


def test_run_killed_between_stages_resumes_with_the_next(finished, own, tmp_path, monkeypatch, capsys):
    data, run = finished
    monkeypatch.chdir(run.parent)
    again = _without_the_last(run, tmp_path / "run")
    train(data, again, resume=True, recipe=own, **_settings())
    assert identity(again) == identity(run)
    assert capsys.readouterr().err.count("this run is finished") == 2


@pytest.mark.slow
def test_a_staged_run_survives_kills_in_its_stages_and_between_them(own, shapes, tmp_path, monkeypatch):
    """Six kills of a live process, two at each stage: some steps after it began, and when its model is there."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    context, rng = multiprocessing.get_context("forkserver"), np.random.default_rng(0)
    settings = {**_settings(), "epochs": 2, "seed": 3, "checkpoint_every": 0.2}

    def begin(run: Path, resume: bool):
        more = {**settings, "recipe": str(own), "resume": resume}
        process = context.Process(target=train, args=(str(shapes), str(run)), kwargs=more)
        process.start()
        return process

    def strike(run: Path, sign: Path, pause: float) -> int:
        process = begin(run, run.exists())
        end = time.monotonic() + 120
        while process.is_alive() and not sign.exists() and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(pause)
        process.kill()
        process.join()
        return process.exitcode == -9

    straight, broken = tmp_path / "straight", tmp_path / "broken"
    process = begin(straight, False)
    process.join(300)
    assert process.exitcode == 0
    places = [broken / "stages" / "1-fcn32s", broken / "stages" / "2-fcn16s", broken]
    met = 0
    for place in places:
        met += strike(broken, place / "checkpoints" / "last", rng.uniform(0, 0.3))
        met += strike(broken, place / "model.safetensors", 0)
    process = begin(broken, True)
    process.join(300)
    assert process.exitcode == 0
    assert met >= 5
    for place in places:
        assert identity(place) == identity(straight / place.relative_to(broken))


def test_run_killed_in_a_stage_resumes_without_arguments(finished, tmp_path):
    data, run = finished
    again = _without_the_last(run, tmp_path / "run")
    second = again / "stages" / "2-fcn16s"
    (second / "status.json").write_text('{"status": "running", "step": 2, "steps": 2}')
    (second / "model.safetensors").unlink()
    train(data, again, resume=True)
    assert identity(second) == identity(run / "stages" / "2-fcn16s")
    assert identity(again) == identity(run)


def test_finished_staged_run_is_untouched(finished, own):
    data, run = finished
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    train(data, run, resume=True, recipe=own, **_settings())
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before


def test_other_recipe_or_setting_is_rejected_on_resume(finished, own):
    data, run = finished
    with pytest.raises(RunError, match=r"this run has the recipe staged, not voc-fcn8s-staged"):
        train(data, run, resume=True, recipe="voc-fcn8s-staged")
    with pytest.raises(RunError, match=r"this run has batch_size = 2, not 3. Omit it"):
        train(data, run, resume=True, recipe=own, batch_size=3)
    with pytest.raises(RunError, match=r"is not empty. Continue that run with --resume"):
        train(data, run, recipe=own, **_settings())
    with pytest.raises(RunError, match=r"is not empty"):
        train(data, run, **SMALL)


@pytest.mark.slow
def test_release_stages_run(shapes, tmp_path):
    """At a sixteenth of the width and three steps; with rates that small only the way is tested."""
    train(shapes, tmp_path / "run", recipe="voc-fcn8s-staged", weights="none", width=1 / 16, steps=3, workers=0)
    card = read_card(tmp_path / "run" / "model.safetensors")
    assert (card.variant, card.recipe["reduction"], card.recipe["lr"]) == ("voc-fcn8s", "sum", 1e-14)
    assert {path.name for path in (tmp_path / "run" / "stages").iterdir()} >= {"1-voc-fcn32s", "2-voc-fcn16s"}
