"""`fullconv train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fullconv.cli.console import SIGTERM_CODE, status, stdout_to_stderr
from fullconv.cli.options import DataArgument, DataFormat
from fullconv.errors import RecipeError


def train(
    context: typer.Context,
    data: DataArgument,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="RUN", help="Folder of the run.")],
    variant: Annotated[
        str | None, typer.Option(help="Network; `fullconv models` lists them.  [default: fcn8s]")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Backbone: a timm model, or tiny.  [default: resnet18]")] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="imagenet|none|FILE", help="Pretrained weights.  [default: imagenet]")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Number of epochs (at least 50 steps each).")] = None,
    minutes: Annotated[float | None, typer.Option(help="Wall time from start to report, instead of --epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Crops per step.")] = None,
    crop: Annotated[
        str | None, typer.Option(metavar="HxW", help="Size of a crop, in pixels of the working resolution.")
    ] = None,
    scale: Annotated[float | None, typer.Option(help="Working resolution; 1 is as stored.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.  [default: 0]")] = None,
    augment: Annotated[
        str | None, typer.Option(metavar="street|aerial|microscopy|none", help="Data augmentation.  [default: street]")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE.toml",
            help="Settings of a published recipe, such as voc-fcn8s-staged (`fullconv models` lists them), or of a file.",
        ),
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting; repeatable.")
    ] = None,
    checkpoint_every: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Time between checkpoints.  [default: 300]")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip bad images, and exit with 3 at the end.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume RUN where it stopped.")] = False,
    lengthen: Annotated[
        bool, typer.Option("--lengthen", help="With --resume: allow more --epochs than RUN has.")
    ] = False,
    format: DataFormat = None,  # noqa: A002
    device: Annotated[
        str | None, typer.Option(metavar="auto|cpu|cuda[:i]", help="Where to compute.  [default: auto]")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="auto|fp32|bf16", help="auto benchmarks which is faster.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Data loading processes; 0 loads in a thread.")] = None,
) -> None:
    """Train a network on DATA.

    RUN gets model.safetensors, recipe.toml, metrics.jsonl, report.html and checkpoints/.
    """
    given = {
        "variant": variant, "backbone": backbone, "weights": weights, "epochs": epochs, "minutes": minutes,
        "batch_size": batch_size, "crop": crop, "scale": scale, "lr": lr, "seed": seed, "augment": augment,
        "checkpoint_every": checkpoint_every, "skip_bad": skip_bad or None, "device": device, "precision": precision,
        "workers": workers,
    }  # fmt: skip
    settings = collect_settings(given, setting or [])
    from fullconv.training import RunRequest, run

    with stdout_to_stderr():
        result = run(RunRequest(Path(data), out, settings, resume, lengthen, recipe, format, started=context.obj))
    for stem in result.skipped:
        status(f"skipped: {stem}")
    raise typer.Exit(exit_code(result.status, result.skipped))


def collect_settings(given: dict[str, Any], pairs: list[str]) -> dict[str, Any]:
    """Return the settings that the user gave, by options and by ``--set key=value``."""
    from fullconv.recipe import parse_setting

    settings = {key: value for key, value in given.items() if value is not None}
    for pair in pairs:
        key, value = parse_setting(pair)
        if key in settings and settings[key] != value:
            raise RecipeError(f"--set {pair}: {key} was given before as {settings[key]}. Omit one of them.")
        settings[key] = value
    return settings


def exit_code(status: str, skipped: list[str]) -> int:
    """Return the exit code of a run that ended with a status, having skipped images."""
    return {"sigint": 130, "sigterm": SIGTERM_CODE}.get(status, 3 if skipped else 0)
