"""The optional runtimes: found, imported without their telemetry, and given the cores that one really has."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from fullconv.errors import MissingExtraError

ENGINES = ("torch", "openvino", "onnxruntime")
NEEDS = {
    "torch": (),
    "openvino": ("openvino", "onnx", "onnxscript"),
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
}
"""What an engine takes besides torch; onnx and onnxscript turn the network into its graph."""


def is_installed(engine: str) -> bool:
    """Say whether all that an engine takes is installed."""
    return all(_is_there(package) for package in NEEDS[engine])


def check_installed(packages: Iterable[str], purpose: str) -> None:
    """Find out before long work whether optional libraries are installed.

    Raises:
        MissingExtraError: One is not; names it.
    """
    for package in packages:
        if not _is_there(package):
            raise MissingExtraError(package, "export", purpose)


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # something keeps it from being imported
        return False


def runtime(package: str, purpose: str) -> Any:
    """Import an optional library of the extra "export", its telemetry off.

    Args:
        package: Its module.
        purpose: What needs it, for the message.

    Raises:
        MissingExtraError: It is not installed.
    """
    # OpenVINO and NNCF report usage unless the module that does it cannot be imported.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError(package.split(".")[0], "export", purpose) from error


def versions() -> dict[str, str]:
    """Return the versions of the libraries that an answer's bits and its speed depend on."""
    found = {}
    for package in ("torch", "openvino", "onnxruntime", "onnx", "onnxscript", "timm"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def threads() -> int:
    """Return the threads to compute with: as many as torch uses, and no more than the cores that this process has."""
    return max(1, min(torch.get_num_threads(), cores()))


def cores() -> int:
    """Return the cores that this process may use: by affinity, and by the quota of its control group."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(count, _quota()))


def _quota(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return the cores that a container's quota amounts to, rounded up; many where there is none."""
    try:
        allowed, period = limit.read_text(encoding="ascii").split()
        return math.ceil(int(allowed) / int(period))
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no number
        return 10**6
