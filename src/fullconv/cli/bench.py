"""`fullconv bench`."""

from __future__ import annotations

from typing import Annotated

import typer

from fullconv.cli.console import make_table, print_json, print_rich, status, stdout_to_stderr
from fullconv.cli.options import BatchSize, Device, Engine, Json, parse_size
from fullconv.errors import plural


def bench(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|VARIANT", help="A model or exported file, or a variant with random weights.")
    ],
    size: Annotated[
        list[str] | None, typer.Option(metavar="HxW", help="Image size; repeatable.  [default: 360x480, 512x512]")
    ] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Timed calls of each.")] = 7,
    backbone: Annotated[str | None, typer.Option(help="Backbone of a VARIANT.  [default: resnet18]")] = None,
    classes: Annotated[int, typer.Option(min=2, max=255, help="Number of classes of a VARIANT.")] = 21,
    no_memory: Annotated[
        bool, typer.Option("--no-memory", help="Do not measure peak memory, which takes a process each.")
    ] = False,
    json: Json = False,
    device: Device = "auto",
    precision: Annotated[
        str, typer.Option("--precision", metavar="auto|fp32|bf16|int8", help="auto: all that apply.")
    ] = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Concurrent calls.")] = 1,
    batch_size: BatchSize = 1,
    engine: Engine = "auto",
) -> None:
    """Measure the speed and memory of engines and precisions.

    From a decoded image to its label map, on random images, in turn; medians and quartiles.
    """
    from fullconv.cli.benchmarking import SIZES, Benchmark
    from fullconv.cli.benchmarking import bench as measure

    sizes = [parse_size(text) for text in size] if size else SIZES
    with stdout_to_stderr():
        job = Benchmark(model, backbone, classes, device, rounds, batch_size, workers, not no_memory)
        result = measure(job, sizes, engine, precision, status)
    if json:
        print_json(result)
        return
    machine = result["machine"]
    where = (
        machine.get("gpu")
        if result["device"].startswith("cuda")
        else f"{machine['processor']}, {plural(result['threads'], 'thread')}"
    )
    columns = ("size", "engine", "precision", ">ms", ">quartiles", ">images/s", ">peak MB", ">labels as fp32")
    table = make_table(*columns, line=False)
    for row in result["rows"]:
        equal, peak = row["labels_equal"], row["peak_mb"]
        table.add_row(
            f"{row['size'][0]}x{row['size'][1]}", row["engine"], row["precision"], f"{1000 * row['median_s']:.1f}",
            f"{1000 * row['quartile_1_s']:.1f} to {1000 * row['quartile_3_s']:.1f}", f"{row['pictures_per_s']:.2f}",
            "-" if peak is None else f"{peak:.0f}", "-" if equal is None else f"{100 * equal:.2f} %",
        )  # fmt: skip
    print_rich(f"{model}{f' on {backbone}' if backbone else ''}: {where}", table)
