"""A 500x500 forward of the full-width `voc-fcn8s`: peak memory of a fresh process, and time beside the paper's.

Each round is a process of its own, so that the peak (`ru_maxrss`: Python, torch, weights and maps, all together) is that
of one forward and not of what came before. Weights are random: zeros would be faster than any trained net.

    python benchmarks/published.py [--rounds 5] [--variant voc-fcn8s] [--size 500x500]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from statistics import median

import torch
from harness import keep

import fullconv

LIMIT = 3e9
"""Bytes that a forward may need at its peak."""
PAPER = {"voc-fcn8s": 0.175}
"""Seconds an image on the authors' GPU. Source: Long et al., CVPR 2015, results on the VOC test sets."""


def one(variant: str, height: int, width: int) -> dict[str, float]:
    """Forward once in this process; return seconds, and the peak in bytes."""
    torch.manual_seed(0)
    network = fullconv.build(variant)
    for name, parameter in network.named_parameters():
        if name.startswith("head."):  # score layers start at 0
            torch.nn.init.normal_(parameter, std=0.01)
    x = torch.randn(1, network.in_channels, height, width)
    with torch.inference_mode():
        start = time.perf_counter()
        logits = network(x)
        seconds = time.perf_counter() - start
    assert logits.shape[-2:] == (height, width)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": seconds, "peak_bytes": peak, "threads": torch.get_num_threads()}


def main() -> None:
    """Measure rounds in fresh processes, print and keep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variant", default="voc-fcn8s")
    parser.add_argument("--size", default="500x500")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    height, width = map(int, given.size.split("x"))
    if given.one:
        print(json.dumps(one(given.variant, height, width)))
        return
    command = [sys.executable, __file__, "--one", "--variant", given.variant, "--size", given.size]
    rounds = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(given.rounds)
    ]
    seconds = sorted(found["seconds"] for found in rounds)
    peak = max(found["peak_bytes"] for found in rounds)
    paper = PAPER.get(given.variant)
    print(
        f"{given.variant}, {height}x{width}, {rounds[0]['threads']} threads: {median(seconds):.2f} s"
        f" ({seconds[0]:.2f} to {seconds[-1]:.2f}), peak {peak / 1e9:.2f} GB"
        f" ({'under' if peak < LIMIT else 'OVER'} {LIMIT / 1e9:g} GB)"
    )
    if paper:
        print(f"the paper: {paper} s on the authors' GPU; a GPU then and processors now, so no comparison of programs")
    keep("published", {
        "variant": given.variant, "size": [height, width], "seconds": seconds, "median_s": median(seconds),
        "peak_bytes": peak, "limit_bytes": LIMIT, "threads": rounds[0]["threads"], "paper_s": paper,
    })  # fmt: skip


if __name__ == "__main__":
    main()
