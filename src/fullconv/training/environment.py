"""The environment of a run: versions, hardware, git revision; and how it differs elsewhere."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fullconv._version import __version__


def machine_info() -> dict[str, str]:
    """Return system, processor, Python version and GPU."""
    processor = platform.processor() or "unknown"
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        processor = next(models, processor)
    info = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor,
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        info["gpu"] = torch.cuda.get_device_name(0)
    return info


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that change what a run computes."""
    versions = {"fullconv": __version__, "torch": torch.__version__}
    for name in ("torchvision", "timm", "numpy", "pillow"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def collect_env(data: Path, fingerprint: str) -> dict[str, Any]:
    """Return the table ``[origin]`` of recipe.toml: data, git revision of the working directory, versions, machine."""
    env: dict[str, Any] = {"data": data.as_posix(), "fingerprint": fingerprint}
    with suppress(OSError, subprocess.SubprocessError):
        git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
        if git.returncode == 0 and git.stdout.strip():
            env["git"] = git.stdout.strip()
    return {**env, "versions": package_versions(), "machine": machine_info()}


def diff_env(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each fact that was different in another run."""
    changes = []
    for key, value in before.items():
        current = now.get(key)
        if isinstance(value, Mapping):
            inner = current if isinstance(current, Mapping) else {}
            changes += [f"{k} was {v}, is {inner.get(k, 'absent')}" for k, v in value.items() if inner.get(k) != v]
        elif key == "fingerprint" and current != value:
            changes.append(f"the data differ (fingerprint {str(value)[:12]}, here {str(current)[:12]})")
        elif key != "data" and current != value:
            changes.append(f"{key} was {value}, is {'absent' if current is None else current}")
    return changes
