"""`fullconv demo`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from fullconv.cli.console import status, stdout_to_stderr
from fullconv.cli.train import exit_code
from fullconv.errors import RunError

SETTINGS = {"variant": "fcn8s", "backbone": "tiny", "weights": "none", "epochs": 6}


def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Output folder.")] = Path("fullconv-demo"),
) -> None:
    """Train, evaluate and predict on synthetic images.

    120 images of shapes, a small network, its scores, predictions and a report: two minutes in all.
    """
    from fullconv.cli.synthetic import IMAGES, SIZE, make_shapes
    from fullconv.evaluation import evaluate
    from fullconv.predict import PredictJob, predict_files
    from fullconv.training import RunRequest, run

    started = time.monotonic() if context.obj is None else context.obj
    data, folder, predictions = out / "data", out / "run", out / "predictions"
    if not (data / "data.toml").is_file():
        if out.is_dir() and any(out.iterdir()):
            raise RunError(f"{out}: is not empty and holds no demo. Choose another folder with -o.")
        status(f"Writing {sum(IMAGES.values())} images of shapes to {data} ...")
        make_shapes(data, SIZE)
    with stdout_to_stderr():
        result = run(RunRequest(data, folder, SETTINGS, resume=True, started=started))
        if result.status != "done":
            status(f"Resume the demo with: fullconv demo -o {out}")
            raise typer.Exit(exit_code(result.status, []))
        report = evaluate(result.segmenter, data, "val")
        status("Predicting the test images ...")
        predict_files(result.segmenter, PredictJob([str(data / "test" / "images")], predictions, overlay=True))
    status(
        f"Done in {time.monotonic() - started:.0f} s. See\n"
        f"  {folder / 'report.html'} (curves, scores, the worst images) and\n"
        f"  {predictions} (*.overlay.png: predictions on held-out images).\n"
        f"The model is {folder / 'model.safetensors'}. Try it:\n"
        f"  fullconv predict {folder} IMAGE -o OUT --overlay\n"
        f"and train on your own images:\n"
        f"  fullconv train DATA -o RUN"
    )
    print(report)
