"""One picture from decoded pixels to its label map: this program beside what one would write otherwise.

fcn_resnet50 at stride 8, 512x512: torchvision in eager fp32, its graph in bare OpenVINO (bf16) and ONNX Runtime (fp32)
with full-resolution scores and numpy's argmax, and SMP's Unet and FPN on resnet34 by their usual recipe. voc-fcn8s,
500x500: the same network in eager fp32. Contenders take turns.

Weights are random but for the last layer, which is fitted to synthetic images by least squares: labels then have margins as
a trained net's do, so that the share of equal labels means something. The share is counted on other synthetic images. The
arithmetic floor is the network's convolutions at the speed of the fastest one measured here.

    python benchmarks/inference.py [--only resnet50|voc|floor|cold] [--rounds 9] [--compile]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from harness import alternate, keep, summarize
from numpy.typing import NDArray
from torch import Tensor, nn

import fullconv
from fullconv.card import IMAGENET_MEAN, IMAGENET_STD
from fullconv.cli.synthetic import draw
from fullconv.engines._optional import cores, import_optional
from fullconv.hub import foreign_card, import_file
from fullconv.segmenter import Segmenter

Labels = NDArray[np.uint8]
Contenders = dict[str, Callable[[NDArray[np.uint8]], Labels]]

MEAN, STD = (np.array(values, np.float32) for values in (IMAGENET_MEAN, IMAGENET_STD))


def normalized(picture: NDArray[np.uint8]) -> Tensor:
    """Return (1, 3, H, W) float32 as torchvision's recipe has it."""
    x = torch.from_numpy(picture).permute(2, 0, 1).float().div(255)
    mean, std = torch.from_numpy(MEAN)[:, None, None], torch.from_numpy(STD)[:, None, None]
    return x.sub(mean).div(std)[None].contiguous()


def made(count: int, side: int, seed: int) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Draw the demo's pictures with their masks."""
    return [draw(np.random.default_rng([seed, index]), (side, side)) for index in range(count)]


@torch.inference_mode()
def fit_last(features: Callable[[Tensor], Tensor], last: nn.Conv2d, side: int) -> None:
    """Fit a 1x1 convolution to synthetic images by least squares; classes that they do not hold get low scores."""
    rows, truth = [], []
    for picture, mask in made(6, side, 1):
        found = features(normalized(picture))
        height, width = found.shape[-2:]
        small = F.interpolate(torch.from_numpy(mask)[None, None].float(), (height, width), mode="nearest")
        rows.append(found[0].flatten(1).T)
        truth.append(small.flatten().long())
    labels = torch.cat(truth)
    x, labels = torch.cat(rows)[labels != 255].double(), labels[labels != 255]
    x = torch.cat([x, torch.ones(len(x), 1)], 1)
    known = int(labels.max()) + 1
    gram = x.T @ x
    solved = torch.linalg.solve(
        gram + 1e-3 * gram.diagonal().mean() * torch.eye(len(gram)), x.T @ F.one_hot(labels, known).double()
    ).T
    last.weight.zero_()
    last.bias.fill_(-10.0)  # type: ignore[union-attr]
    last.weight[:known, :, 0, 0] = 8 * solved[:, :-1].float()
    last.bias[:known] = 8 * solved[:, -1].float()  # type: ignore[index]


@torch.inference_mode()
def multiplications(network: Any, side: int) -> int:
    """Return the multiplications of a network's convolutions for a picture."""
    total = 0

    def add(layer: nn.Conv2d, _: Any, found: Tensor) -> None:
        nonlocal total
        total += layer.weight.numel() * found.shape[-2] * found.shape[-1]

    hooks = [layer.register_forward_hook(add) for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    network.scores(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    return total


def torchvision_resnet50() -> nn.Module:
    """Return torchvision's net with a fitted last layer."""
    from torchvision.models.segmentation import fcn_resnet50

    torch.manual_seed(0)
    network = fcn_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=None).eval()
    body = nn.Sequential(*list(network.classifier)[:-1])
    fit_last(lambda x: body(network.backbone(x)["out"]), network.classifier[-1], 256)
    return network


def ours(network: nn.Module, card: Any, engine: str, precision: str) -> Callable[[NDArray[np.uint8]], Labels]:
    """Return `Segmenter.predict` with an engine."""
    segmenter = Segmenter(network, card, "cpu", precision, engine)  # type: ignore[arg-type]
    return lambda picture: segmenter.predict(picture).label_map


def eager(network: nn.Module, output: str | None = None) -> Callable[[NDArray[np.uint8]], Labels]:
    """Return a network in PyTorch as one writes it: normalise, forward, argmax."""

    @torch.inference_mode()
    def run(picture: NDArray[np.uint8]) -> Labels:
        found: Any = network(normalized(picture))
        found = found[output] if output else found
        return found.argmax(1)[0].to(torch.uint8).numpy()

    return run


def bare(network: nn.Module, side: int, output: str) -> Contenders:
    """Return OpenVINO in bf16 and ONNX Runtime in fp32 on the exported net, scores of full size, numpy's argmax."""

    class Out(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x)[output]

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "net.onnx")
        with torch.inference_mode():
            torch.onnx.export(Out().eval(), (torch.zeros(1, 3, side, side),), path, dynamo=True, verbose=False)
        openvino, onnxruntime = import_optional("openvino", "this"), import_optional("onnxruntime", "this")
        settings = {"INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "LATENCY"}
        compiled = openvino.Core().compile_model(path, "CPU", settings)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def prepared(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        x = (picture.astype(np.float32) / 255 - MEAN) / STD
        return np.ascontiguousarray(x.transpose(2, 0, 1)[None])

    return {
        "OpenVINO bf16, bare": lambda picture: compiled([prepared(picture)])[0].argmax(1)[0].astype(np.uint8),
        "ONNX Runtime fp32, bare": lambda picture: (
            session.run(None, {name: prepared(picture)})[0].argmax(1)[0].astype(np.uint8)
        ),
    }


def smp(side: int) -> Contenders:
    """Return SMP's nets by their usual recipe, where it is installed."""
    try:
        import segmentation_models_pytorch as library
    except ImportError:
        return {}
    torch.manual_seed(0)
    make = {"Unet": library.Unet, "FPN": library.FPN}
    return {
        f"SMP {name}-resnet34 eager fp32": eager(kind("resnet34", encoder_weights=None, classes=21).eval())
        for name, kind in make.items()
    }


def resnet50(compiled: bool) -> tuple[Contenders, dict[str, Any], int]:
    """Return the contenders of fcn_resnet50, facts, and the side of the picture."""
    theirs = torchvision_resnet50()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        torch.save(theirs.state_dict(), path)
        network, card = import_file(path, "fcn-os8")
    contenders: Contenders = {
        "torchvision eager fp32": eager(theirs, "out"),
        "fullconv bf16": ours(network, card, "auto", "bf16"),
        "fullconv fp32": ours(network, card, "auto", "fp32"),
        "fullconv torch bf16": ours(network, card, "torch", "bf16"),
        **bare(theirs, 512, "out"),
        **smp(512),
    }
    if compiled:
        contenders |= {
            "torch.compile fp32": eager(torch.compile(theirs), "out"),
            "torch.compile bf16": compiled_bf16(theirs),
        }
    return contenders, {"multiplications": multiplications(network, 512), "exact": "torchvision eager fp32"}, 512


def compiled_bf16(network: nn.Module) -> Callable[[NDArray[np.uint8]], Labels]:
    """Return torchvision's net in bf16, channels_last, compiled, as one writes it."""
    import copy

    lower = copy.deepcopy(network).to(torch.bfloat16).to(memory_format=torch.channels_last)
    run = torch.compile(lower)

    @torch.inference_mode()
    def label(picture: NDArray[np.uint8]) -> Labels:
        x = normalized(picture).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        return run(x)["out"].float().argmax(1)[0].to(torch.uint8).numpy()

    return label


def voc(compiled: bool) -> tuple[Contenders, dict[str, Any], int]:
    """Return the contenders of voc-fcn8s."""
    torch.manual_seed(0)
    network = fullconv.build("voc-fcn8s")
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            if name.startswith("head.") and layer.out_channels == 21:  # three sums of scores; keep them alike
                nn.init.normal_(layer.weight, std=0.01)
    card = foreign_card(network, "voc-fcn8s", "random weights")
    mean = torch.tensor(card.mean)[:, None, None]

    @torch.inference_mode()
    def plain(picture: NDArray[np.uint8]) -> Labels:
        x = (torch.from_numpy(picture).permute(2, 0, 1).float() - mean).flip(0)  # BGR
        return network(x[None]).argmax(1)[0].to(torch.uint8).numpy()

    contenders: Contenders = {
        "plain eager fp32": plain,
        "fullconv bf16": ours(network, card, "auto", "bf16"),
        "fullconv fp32": ours(network, card, "auto", "fp32"),
    }
    facts = {"multiplications": multiplications(network, 500), "exact": "plain eager fp32"}
    return contenders, facts, 500


def measure(contenders: Contenders, facts: dict[str, Any], side: int, rounds: int) -> dict[str, Any]:
    """Time contenders in turn on random pixels, and count labels equal to the exact one's on synthetic images."""
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    runs = {name: (lambda run=run: run(picture)) for name, run in contenders.items()}  # type: ignore[misc]
    first = {name: alternate({name: run}, 1, warm_up=0)[name][0] for name, run in runs.items()}  # compiles
    seconds = summarize(alternate(runs, rounds))
    equal: dict[str, list[float]] = {}
    for scene, _ in made(3, side, 2):
        truth = contenders[facts["exact"]](scene)
        for name, run in contenders.items():
            if not name.startswith("SMP") and name != facts["exact"]:
                equal.setdefault(name, []).append(float((run(scene) == truth).mean()))
    base = seconds[facts["exact"]]["median_s"]
    for name, row in seconds.items():
        row["first_s"] = first[name]
        row["times_exact"] = base / row["median_s"]
        if name in equal:
            row["labels_equal"] = float(np.mean(equal[name]))
    return {"size": [side, side], **facts, "seconds": seconds}


def floor() -> dict[str, float]:
    """Measure the fastest convolution of the usual kinds in PyTorch: TFLOP/s by precision."""
    found = {}
    for word, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        best = 0.0
        for inner, outer, kernel, cells in (
            (512, 512, 3, 64),
            (256, 256, 3, 64),
            (1024, 256, 1, 64),
            (256, 1024, 1, 64),
        ):
            layer = nn.Conv2d(inner, outer, kernel, padding=kernel // 2, bias=False)
            layer = layer.to(dtype).to(memory_format=torch.channels_last)
            x = torch.randn(1, inner, cells, cells).to(dtype).contiguous(memory_format=torch.channels_last)
            with torch.inference_mode():
                layer(x)
                times = []
                for _ in range(9):
                    start = time.perf_counter()
                    layer(x)
                    times.append(time.perf_counter() - start)
            best = max(best, 2 * inner * outer * kernel**2 * cells**2 / median(times) / 1e12)
        found[word] = best
    return found


def cold(rounds: int) -> dict[str, Any]:
    """Time `fullconv predict` of one 360x480 picture in a process of its own, by engine; the graph is kept from before."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        torch.manual_seed(0)
        network = fullconv.build("fcn8s", backbone="resnet18", num_classes=11, weights=None)
        Segmenter.from_network(network, [f"class{k}" for k in range(11)], device="cpu").save(root / "model.safetensors")
        Image.fromarray(made(1, 360, 3)[0][0]).save(root / "picture.png")
        environment = {**os.environ, "FULLCONV_CACHE": str(root / "cache")}

        def run(engine: str, precision: str = "fp32") -> None:
            words = ["predict", str(root / "model.safetensors"), str(root / "picture.png"), "-o", str(root / "out")]
            subprocess.run(
                [sys.executable, "-m", "fullconv", *words, "--engine", engine, "--precision", precision],
                check=True, env=environment, capture_output=True,
            )  # fmt: skip

        runs = {
            "predict, torch": lambda: run("torch"), "predict, openvino": lambda: run("openvino"),
            "predict, onnxruntime": lambda: run("onnxruntime"), "predict, auto": lambda: run("auto", "auto"),
            "import torch": lambda: subprocess.run([sys.executable, "-c", "import torch"], check=True),
        }  # fmt: skip
        return {"seconds": summarize(alternate(runs, rounds))}


def show(title: str, found: dict[str, Any]) -> None:
    """Print a table."""
    print(title)
    for name, row in found["seconds"].items():
        ratio = f"  {row['times_exact']:5.2f}x" if "times_exact" in row else ""
        equal = f"  labels equal {100 * row['labels_equal']:.3f} %" if "labels_equal" in row else ""
        spread = f"({1000 * row['quartile_1_s']:.0f} to {1000 * row['quartile_3_s']:.0f})"
        begin = f"  first {row['first_s']:5.1f} s" if "first_s" in row else ""
        print(f"  {name:32} {1000 * row['median_s']:7.0f} ms {spread:16}{ratio}{begin}{equal}", flush=True)


def main() -> None:
    """Measure, print and keep each part in a file of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("resnet50", "voc", "floor", "cold"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compile", action="store_true", help="torch.compile, too; it needs a C++ compiler")
    given = parser.parse_args()
    torch.set_num_threads(cores())
    if given.only in (None, "cold"):
        found = cold(given.rounds)
        show("cold start", found)
        keep("inference_cold", {"rounds": given.rounds, **found})
    if given.only == "cold":
        return
    speeds = floor()
    print(", ".join(f"{word}: {speed:.3f} TFLOP/s" for word, speed in speeds.items()), flush=True)
    if given.only == "floor":
        keep("inference_floor", {"tflops": speeds, "threads": cores()})
        return
    for name, make in (("resnet50", resnet50), ("voc", voc)):
        if given.only in (None, name):
            found = measure(*make(given.compile), given.rounds)
            found["floor_s"] = {word: 2 * found["multiplications"] / speed / 1e12 for word, speed in speeds.items()}
            show(name, found)
            print("  arithmetic floor", found["floor_s"])
            keep(f"inference_{name}", {"tflops": speeds, "threads": cores(), "rounds": given.rounds, **found})


if __name__ == "__main__":
    main()
