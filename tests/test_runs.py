"""Run folders read back: what is listed, what is compared, and what is stderr of folders that are no runs."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from fullconv.cli import main
from fullconv.errors import InputError
from fullconv.recipe import dump_toml
from fullconv.runs import differing_settings, find_runs
from fullconv.storage import lock_file
from model_files import small_segmenter


def val(score: float, **classes: float) -> dict:
    return {
        "mean_iou": score, "pixel_accuracy": score + 0.1, "mean_iou_interval": [score - 0.05, score + 0.05],
        "classes": [{"index": i, "name": name, "iou": iou} for i, (name, iou) in enumerate(classes.items())],
    }  # fmt: skip


def make(folder, scores, *, status="finished", steps=100, fingerprint="f1", **settings):
    """Write a run of one epoch a score; None for an epoch without validation."""
    folder.mkdir(parents=True)
    recipe = {"variant": "fcn8s", "backbone": "tiny", "lr": 0.01, "head": {"dropout": 0.5}, **settings}
    tables = recipe | {"measured": {"steps": steps}, "origin": {"data": "synthetic", "fingerprint": fingerprint}}
    (folder / "recipe.toml").write_text(dump_toml(tables))
    lines = [
        {
            "epoch": n, "step": 10 * n, "train_loss": 1 / n, "lr": 0.01, "seconds": 30.0 * n,
            "val": None if score is None else val(score, sky=score, road=score / 2),
        }
        for n, score in enumerate(scores, 1)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    state = {"status": status, "step": 10 * len(scores), "steps": steps}
    (folder / "status.json").write_text(json.dumps(state))
    return folder


@pytest.fixture
def three(tmp_path):
    make(tmp_path / "a", [0.2, None, 0.4])
    make(tmp_path / "deep" / "b", [0.3, 0.7, 0.6], lr=0.02, status="running")
    make(tmp_path / "c", [], head={"dropout": 0.1}, status="stopped")
    (tmp_path / "a" / "checkpoints").mkdir()
    shutil.copytree(tmp_path / "c", tmp_path / "a" / "checkpoints" / "no run of its own")
    return tmp_path


def test_runs_are_found_at_any_depth_with_their_best_score_so_far(three):
    runs, unread = find_runs(three)
    assert [run.name for run in runs] == ["a", "c", "deep/b"]
    assert not unread
    assert [run.mean_iou for run in runs] == [0.4, None, 0.7]
    assert [run.epochs for run in runs] == [3, 0, 3]
    assert runs[0].seconds == 90.0


def test_differing_settings(three):
    assert differing_settings(find_runs(three)[0]) == {"lr": [0.01, 0.01, 0.02], "head.dropout": [0.5, 0.1, 0.5]}


def test_differing_measured_settings(tmp_path):
    make(tmp_path / "a", [0.5], steps=100)
    make(tmp_path / "b", [0.6], steps=150)
    assert differing_settings(find_runs(tmp_path)[0]) == {"measured.steps": [100, 150]}


def test_finished_model_has_the_score_of_its_card(three, tmp_path):
    from fullconv.modelfile import read_model, write_model

    small_segmenter(["sky", "road"]).save(three / "a" / "model.safetensors")
    card, tensors = read_model(three / "a" / "model.safetensors")
    scored = card.model_copy(update={"scores": {"val": val(0.35, sky=0.3, road=0.4)}})
    write_model(three / "a" / "model.safetensors", scored, tensors)
    assert find_runs(three / "a")[0][0].mean_iou == 0.35


def test_list_is_sorted_and_printed_as_json(three, capsys):
    orders = {}
    for order in ("score", "name"):
        assert main(["runs", str(three), "--sort", order, "--json"]) == 0
        orders[order] = [run["name"] for run in json.loads(capsys.readouterr().out)["runs"]]
    assert orders == {"score": ["deep/b", "a", "c"], "name": ["a", "c", "deep/b"]}
    assert main(["runs", str(three)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table] == ["run", "deep/b", "a", "c"]
    assert "0.650 to 0.750" in table[1]
    assert "running 30 %" in table[1]


def test_page_compares_curves_settings_and_classes(three, capsys):
    page = three / "page.html"
    assert main(["runs", str(three), "--html", str(page)]) == 0
    html = page.read_text(encoding="utf-8")
    assert html.count('class="line tone-a"') == 3  # score, loss and learning rate of the best run
    assert "dropout" in html
    assert "backbone</th>" not in html  # the same in all runs
    assert re.search(r"sky</th><td><b>70\.0</b></td><td>40\.0</td><td>—</td>", html)
    assert set(re.findall(r"(?:src|href)=.(.)", html)) == {"#"}
    assert "default-src 'none'" in html


def test_runs_on_other_data_are_marked(tmp_path, capsys):
    make(tmp_path / "a", [0.5])
    make(tmp_path / "<b>", [0.6], fingerprint="f2")
    assert main(["runs", str(tmp_path), "--html", str(tmp_path / "page.html")]) == 0
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "different data" in html
    assert "<b>&lt;" not in html
    assert "&lt;b&gt;" in html


def test_damaged_log_is_read_partially_and_damaged_recipe_is_reported(three, capsys):
    log = three / "a" / "metrics.jsonl"
    log.write_text(log.read_text()[:-40])
    assert find_runs(three)[0][0].epochs == 2
    (three / "c" / "recipe.toml").write_text("variant = ")
    assert main(["runs", str(three), "--json"]) == 3
    stderr = capsys.readouterr()
    assert len(json.loads(stderr.out)["runs"]) == 2
    assert "recipe.toml" in stderr.err


def test_folder_without_runs_is_an_error(tmp_path, capsys):
    with pytest.raises(InputError, match="holds no run"):
        find_runs(tmp_path)
    assert main(["runs", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["runs", str(tmp_path), "--sort", "scor"]) == 2
    assert "score" in capsys.readouterr().err


def test_run_without_a_process_was_killed(three):
    lock = three / "deep" / "b" / ".lock"
    lock.write_text("process 1")
    with lock.open("a+") as file:
        assert lock_file(file)
        assert [run.status for run in find_runs(three)[0]] == ["finished", "stopped", "running"]
    assert [run.status for run in find_runs(three)[0]] == ["finished", "stopped", "killed"]
