"""The job on a local Ray: the bytes of `predict`, and no image lost or recorded twice when processes are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fullconv.cli import main

pytest.importorskip("ray")
parquet = pytest.importorskip("pyarrow.parquet")


def fullconv(*arguments, **options):
    command = [sys.executable, "-m", "fullconv", *map(str, arguments)]
    environment = os.environ | {"FULLCONV_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, env=environment, **options)


def rows_of(out):
    return parquet.read_table(Path(out) / "manifest").to_pylist()


def test_a_batch_writes_the_bytes_of_predict_and_one_row_per_image(model, images, tmp_path, capsys):
    done = fullconv("batch", model, images, "-o", tmp_path / "batch", "--actors", 1)
    assert done.returncode == 3, done.stderr
    assert "broken.png" in done.stderr
    assert main(["predict", str(model), str(images), "-o", str(tmp_path / "plain")]) == 3
    plain = {p.relative_to(tmp_path / "plain"): p.read_bytes() for p in (tmp_path / "plain").rglob("*.png")}
    batch = {p.relative_to(tmp_path / "batch"): p.read_bytes() for p in (tmp_path / "batch").rglob("*.png")}
    assert len(plain) == 29
    assert batch == plain
    rows = rows_of(tmp_path / "batch")
    assert len({row["input"] for row in rows}) == len(rows) == 30
    for row in rows:
        if row["status"] == "failed":
            assert row["input"].endswith("broken.png")
            assert row["reason"].startswith(f"{row['input']}: is truncated")
        else:
            label_map = np.asarray(Image.open(row["output"]))
            assert row["warnings"] == []
            assert row["pixels"] == np.bincount(label_map.ravel(), minlength=3).tolist()
    assert main(["batch", str(model), str(images), "-o", str(tmp_path / "batch")]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["batch", str(model), str(images), "-o", str(tmp_path / "batch"), "--resume"]) == 3  # one still fails
    printed = capsys.readouterr().err
    assert "broken.png: is truncated" in printed
    assert "29 done before, 1 failed before" in printed


def test_an_unusable_source_leaves_no_folder_of_results(model, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for source in ("empty", "nowhere"):
        assert main(["batch", str(model), str(tmp_path / source), "-o", str(tmp_path / "out")]) == 2
        assert source in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_no_image_is_lost_or_recorded_twice_when_actors_and_driver_are_killed(model, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for n in range(400):
        noise = np.random.default_rng(n).integers(0, 256, (120, 160, 3), dtype=np.uint8)
        Image.fromarray(noise).save(source / f"{n:04}.png")
    command = [sys.executable, "-m", "fullconv", "batch", str(model), str(source), "-o", str(out), "--actors", "2"]
    killed = {"actors": 0, "drivers": 0}
    for attempt in range(3):
        driver = subprocess.Popen(command + ["--resume"] * (attempt > 0), stderr=subprocess.PIPE, text=True)
        kills = 0
        while driver.poll() is None and kills < 3 and attempt < 2:
            time.sleep(1.0)
            if not list(out.glob("*.png")):
                continue
            if kills < 2 and (victims := _actors()):
                os.kill(victims[0], signal.SIGKILL)
                killed["actors"] += 1
            elif kills == 2:
                driver.kill()
                killed["drivers"] += 1
            kills += 1
        driver.communicate(timeout=400)
    assert driver.returncode == 0
    rows = rows_of(out)
    assert len(rows) == len({row["input"] for row in rows}) == 400
    assert all(row["status"] == "done" for row in rows)
    fullconv("predict", model, source, "-o", tmp_path / "plain")
    assert {p.name: p.read_bytes() for p in out.glob("*.png")} == {
        p.name: p.read_bytes() for p in (tmp_path / "plain").glob("*.png")
    }


def _actors():
    """Ids of Ray's processes that hold the model."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"ray::" in title and b"Predictor" in title:
            found.append(int(folder.name))
    return found
