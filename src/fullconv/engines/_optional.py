"""The optional runtimes: found, imported without their telemetry, and limited to the cores that are available."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fullconv.errors import MissingExtraError
from fullconv.system import is_importable

ENGINES = ("torch", "openvino", "onnxruntime")
REQUIRES = {
    "torch": (),
    "openvino": ("openvino", "onnx", "onnxscript"),
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
}
"""Packages of an engine besides torch; onnx and onnxscript turn the network into its graph."""


def is_installed(engine: str) -> bool:
    """Return whether all packages of an engine are installed."""
    return all(is_importable(package) for package in REQUIRES[engine])


def check_installed(packages: Iterable[str], purpose: str) -> None:
    """Check before long work that optional libraries are installed."""
    for package in packages:
        if not is_importable(package):
            raise MissingExtraError(package, "export", purpose)


def import_optional(package: str, purpose: str) -> Any:
    """Import an optional library of the extra "export" without its telemetry."""
    # OpenVINO and NNCF report usage unless the module that does it cannot be imported.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError(package.split(".")[0], "export", purpose) from error


def versions() -> dict[str, str]:
    """Return the versions of the installed libraries that the bits and the speed of a result depend on."""
    found = {}
    for package in ("torch", "openvino", "onnxruntime", "onnx", "onnxscript", "timm"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def threads() -> int:
    """Return the number of threads to compute with: torch's where it is loaded, but no more than `cores`."""
    torch = sys.modules.get("torch")
    return cores() if torch is None else max(1, min(int(torch.get_num_threads()), cores()))


def cores() -> int:
    """Return the number of cores that this process may use: by affinity, and by the quota of its cgroup."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(count, _quota()))


def _quota(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return the cores of a container's quota, rounded up; a large number where there is none."""
    try:
        allowed, period = limit.read_text(encoding="ascii").split()
        return math.ceil(int(allowed) / int(period))
    except (OSError, ValueError, ZeroDivisionError):  # "max" is not a number
        return 10**6
