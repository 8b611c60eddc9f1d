"""The loss of a training step from scores at stride 8: full-size logits in plain PyTorch against strips of rows.

Both go forward and back on the same random scores and labels. Peak memory is that of a process of its own.

    python benchmarks/loss.py [--classes 11 150] [--rounds 7] [--batch 8] [--crop 288 384]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from harness import alternate, keep, summarize

import fullconv
from fullconv.losses import PixelLoss, ratio


def runs(classes: int, batch: int, crop: tuple[int, int]):
    """Return the two ways by name, on the same scores and labels."""
    generator = torch.Generator().manual_seed(0)
    network = fullconv.build("fcn8s", backbone="tiny", num_classes=classes)
    scores = torch.randn(batch, classes, *(-(-side // 8) for side in crop), generator=generator)
    scores = scores.to(torch.bfloat16).contiguous(memory_format=torch.channels_last).requires_grad_()
    target = torch.randint(0, classes, (batch, *crop), dtype=torch.uint8, generator=generator)
    labels, loss = target.long(), PixelLoss()

    def plain() -> None:
        logits = F.interpolate(scores.float(), crop, mode="bilinear")
        F.cross_entropy(logits, labels, ignore_index=255).backward()

    def strips() -> None:
        ratio(*loss.sums(scores, target, network.interpolation_matrices(scores, crop))).backward()

    return {"plain": plain, "strips": strips}


def peak(name: str, classes: int, batch: int, crop: tuple[int, int]) -> int:
    """Return the peak memory of one way above that of the loaded process, in MB."""
    words = [sys.executable, __file__, "--only", name, "--classes", str(classes), "--batch", str(batch)]
    done = subprocess.run([*words, "--crop", *map(str, crop)], check=True, capture_output=True, text=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


def high_water() -> int:
    """Return the peak resident memory of this process in kB; ru_maxrss would count the parent's too."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=(11, 150))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, nargs=2, default=(288, 384))
    parser.add_argument("--only", choices=("plain", "strips"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    crop = tuple(options.crop)
    if options.only:
        run = runs(options.classes[0], options.batch, crop)[options.only]
        before = high_water()
        run()
        run()
        print((high_water() - before) // 1024)
        return
    results = {}
    for classes in options.classes:
        summary = summarize(alternate(runs(classes, options.batch, crop), options.rounds))
        for name, row in summary.items():
            row["peak_mb"] = peak(name, classes, options.batch, crop)
            print(f"{classes:4} classes  {name:7} {row['median_s']:.3f} s  {row['peak_mb']} MB")
        results[str(classes)] = summary
    keep("loss", {"classes": results, "batch": options.batch, "crop": list(crop)})


if __name__ == "__main__":
    main()
