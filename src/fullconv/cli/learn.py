"""Commands that train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fullconv.cli.console import SIGTERM_CODE, results_only, say
from fullconv.cli.options import DataArgument, DataFormat

Text = str | None
Whole = int | None
Real = float | None


def train(
    context: typer.Context,
    data: DataArgument,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="RUN", help="Folder of the run.")],
    variant: Annotated[Text, typer.Option(help="Network; `fullconv models` lists them.  [default: fcn8s]")] = None,
    backbone: Annotated[
        Text, typer.Option(help="Its features: a name of timm's, or tiny.  [default: resnet18]")
    ] = None,
    weights: Annotated[
        Text, typer.Option(metavar="imagenet|none|FILE", help="Starting weights.  [default: imagenet]")
    ] = None,
    epochs: Annotated[Whole, typer.Option(help="How long: so many passes over the data, of at least 50 steps.")] = None,
    minutes: Annotated[Real, typer.Option(help="How long: wall time from start to report.")] = None,
    batch_size: Annotated[Whole, typer.Option(help="Crops a step.")] = None,
    crop: Annotated[
        Text, typer.Option(metavar="HxW", help="Size of a crop, in pixels of the working resolution.")
    ] = None,
    scale: Annotated[Real, typer.Option(help="Working resolution; 1 is as stored.")] = None,
    lr: Annotated[Real, typer.Option(help="Learning rate.")] = None,
    seed: Annotated[Whole, typer.Option(help="Of every random draw.  [default: 0]")] = None,
    augment: Annotated[
        Text, typer.Option(metavar="street|aerial|microscopy|none", help="How pictures are varied.  [default: street]")
    ] = None,
    recipe: Annotated[
        Text,
        typer.Option(
            metavar="NAME|FILE.toml",
            help="Settings of a published recipe, such as voc-fcn8s-staged (`fullconv models` lists them), or of a file.",
        ),
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting; can be repeated.")
    ] = None,
    checkpoint_every: Annotated[
        Real, typer.Option(metavar="SECONDS", help="Between checkpoints.  [default: 300]")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out bad pictures, and exit with 3 at the end.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where RUN stopped.")] = False,
    lengthen: Annotated[
        bool, typer.Option("--lengthen", help="With --resume: --epochs may be more than RUN has; train it on.")
    ] = False,
    format: DataFormat = None,  # noqa: A002
    device: Annotated[
        Text, typer.Option(metavar="auto|cpu|cuda[:i]", help="Where to compute.  [default: auto]")
    ] = None,
    precision: Annotated[Text, typer.Option(metavar="auto|fp32|bf16", help="auto tries which is faster.")] = None,
    workers: Annotated[Whole, typer.Option(help="Processes that read; 0 reads in a thread.")] = None,
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
    settings = collect(given, setting or [])
    from fullconv.training import run

    with results_only():
        outcome = run(
            Path(data),
            out,
            settings,
            resume=resume,
            lengthen=lengthen,
            recipe=recipe,
            format=format,
            started=context.obj,
        )
    for stem in outcome.skipped:
        say(f"left out: {stem}")
    raise typer.Exit(exit_code(outcome.status, outcome.skipped))


def debug(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run whose loss became no number.")],
) -> None:
    """Replay the step of RUN that went wrong.

    Names the first layer or parameter that is not finite or explodes, the pictures of the batch, and what to change.
    """
    from fullconv.training import debug as replayed

    with results_only():
        lines = replayed(run)
    print("\n".join(lines))


def collect(given: dict[str, Any], pairs: list[str]) -> dict[str, Any]:
    """Return the settings that the user gave, by options and by ``--set key=value``.

    Raises:
        RecipeError: A pair has no "=", or says something else than the option of its name.
    """
    from fullconv.errors import RecipeError
    from fullconv.recipe import parse_setting

    settings = {key: value for key, value in given.items() if value is not None}
    for pair in pairs:
        key, value = parse_setting(pair)
        if key in settings and settings[key] != value:
            raise RecipeError(f"--set {pair}: {key} was given before as {settings[key]}. Leave one of them away.")
        settings[key] = value
    return settings


def exit_code(status: str, skipped: list[str]) -> int:
    """Return the exit code for how a run ended."""
    return {"sigint": 130, "sigterm": SIGTERM_CODE}.get(status, 3 if skipped else 0)


def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Where to put it all.")] = Path(
        "fullconv-demo"
    ),
) -> None:
    """Train, evaluate and predict on made pictures.

    120 pictures of shapes, a small network, its scores, predictions and a report: two minutes in all.
    """
    from fullconv.cli.demo import run_demo

    with results_only():
        ended = run_demo(out, say, started=context.obj)
    if ended.report is not None:
        print(ended.report)
    raise typer.Exit(exit_code(ended.status, []))
