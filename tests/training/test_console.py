"""Progress as a user reads it."""

from __future__ import annotations

from fullconv.profiling import duration
from fullconv.tracking import EpochRecord
from fullconv.training.console import Console, format_bytes


def test_durations_and_bytes_for_people():
    assert [duration(s) for s in (0.4, 59.4, 60, 3599, 3600, 90_000)] == [
        "0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "25 h 0 min"
    ]  # fmt: skip
    assert format_bytes(12e6) == "12 MB"


def test_speed_excludes_validation(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    console = Console()
    console.start(0, 50, 4)
    for step in range(1, 11):
        clock[0] += 0.1
        console.step(step, 50, 1.0)
    clock[0] += 30
    console.validation_progress(5, 5)
    val = {"mean_iou": 0.5}
    line = {"epoch": 1, "step": 10, "train_loss": 1.0, "lr": 0.1, "seconds": 31.0, "val": val}
    console.on_epoch(EpochRecord(line, 0.5, True, ("a warning",)))
    assert "val mIoU 0.5000 (best), 40 images/s, 31 s\na warning\n" in capsys.readouterr().err
