"""What the skips buy, and what they cost: FCN-32s, 16s and 8s on the demo's made pictures, over several seeds.

Each is trained as `fullconv demo` trains, from scratch, the three of one seed after another. Scored on the test pictures,
which no run saw: the mean IU over all pixels, and over those within 5 pixels of a true edge. Printed, kept in
results/boundary.json, and shown in boundary.md and docs/concepts/fcn.md; nothing is asserted. Run folders stay in WORK, so a run
that was stopped goes on.

    python benchmarks/boundary.py [--seeds 0 1 2] [--work boundary] [--epochs 6]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from harness import RESULTS, alternate, keep, summarize
from torch.utils.flop_counter import FlopCounterMode

import fullconv
from fullconv.cli.demo import SETTINGS
from fullconv.cli.synthetic import make_shapes

VARIANTS = ("fcn32s", "fcn16s", "fcn8s")
PAGES = [RESULTS.parent / "boundary.md", RESULTS.parents[1] / "docs" / "concepts" / "fcn.md"]
"""Where the table is shown, between two comments."""
WIDTH = 5
"""Pixels from an edge."""


def scores(data: Path, run: Path, variant: str, seed: int, epochs: int) -> dict[str, Any]:
    """Train one net, or take it where it is finished, and score it."""
    settings = {**SETTINGS, "variant": variant, "seed": seed, "epochs": epochs, "precision": "fp32"}
    segmenter = fullconv.train(data, run, resume=True, **settings)
    whole, edges = (fullconv.evaluate(segmenter, data, split="test", band=band) for band in (None, WIDTH))
    return {"variant": variant, "seed": seed, "mean_iou": whole.mean_iou, "mean_iou_at_edges": edges.mean_iou,
            "pixel_accuracy": whole.pixel_accuracy, "pixels": whole.pixels, "pixels_at_edges": edges.pixels}  # fmt: skip


def costs(rounds: int) -> dict[str, dict[str, float]]:
    """Return parameters, multiply-adds a pixel and seconds of a forward at 480x640, by variant."""
    networks = {v: fullconv.build(v, backbone=SETTINGS["backbone"], num_classes=4) for v in VARIANTS}
    x = torch.randn(1, 3, 480, 640)
    found: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        for name, network in networks.items():
            with FlopCounterMode(display=False) as counter:
                network(x)
            parameters = sum(p.numel() for p in network.parameters())
            found[name] = {"parameters": parameters, "macs_a_pixel": counter.get_total_flops() / 2 / (480 * 640)}
        seconds = alternate({name: lambda n=n: n(x) for name, n in networks.items()}, rounds)
    for name, summary in summarize(seconds).items():
        found[name] |= summary
    return found


def table(rows: list[dict[str, Any]], cost: dict[str, dict[str, float]]) -> list[str]:
    """Return the lines of a Markdown table: mean and spread over seeds, and cost."""
    lines = [
        "| | mean IU | within 5 pixels of an edge | parameters | multiply-adds a pixel | time |",
        "|---|---|---|---|---|---|",
    ]
    slowest = cost[VARIANTS[0]]["median_s"]
    for variant in VARIANTS:
        own = [row for row in rows if row["variant"] == variant]
        cells = [spread([row[key] for row in own]) for key in ("mean_iou", "mean_iou_at_edges")]
        spent = cost[variant]
        lines.append(
            f"| `{variant}` | {cells[0]} | {cells[1]} | {spent['parameters']:,} |"
            f" {spent['macs_a_pixel']:,.0f} | {spent['median_s'] / slowest:.2f} |"
        )
    return lines


def spread(values: list[float]) -> str:
    """Return the mean of values with the smallest and the largest."""
    return f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Train, score, print, keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("boundary"))
    parser.add_argument("--epochs", type=int, default=SETTINGS["epochs"])
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    data = given.work / "data"
    if not (data / "data.toml").is_file():
        make_shapes(data)
    rows = []
    for seed in given.seeds:
        for variant in VARIANTS:
            rows.append(scores(data, given.work / f"{variant}-{seed}", variant, seed, given.epochs))
            print(rows[-1], flush=True)
    cost = costs(given.rounds)
    lines = table(rows, cost)
    print("\n".join(lines))
    keep("boundary", {"epochs": given.epochs, "edge_px": WIDTH, "runs": rows, "costs": cost})
    for page in PAGES:
        head, _, tail = page.read_text(encoding="utf-8").partition("<!-- table -->\n")
        rest = tail.partition("<!-- end -->\n")[2]
        page.write_text(head + "<!-- table -->\n" + "\n".join(lines) + "\n<!-- end -->\n" + rest, encoding="utf-8")


if __name__ == "__main__":
    main()
