"""Where a run was made: versions, hardware, revision; and what of it differs elsewhere."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import fullconv


def machine_info() -> dict[str, str]:
    """Return facts about this machine by name."""
    facts = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name(0)
    return facts


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def package_versions() -> dict[str, str]:
    """Return the versions that decide what a run computes."""
    found = {"fullconv": fullconv.__version__, "torch": torch.__version__}
    for name in ("torchvision", "timm", "numpy", "pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def collect_env(data: Path, fingerprint: str) -> dict[str, Any]:
    """Return what recipe.toml keeps beside the settings."""
    origin: dict[str, Any] = {"data": data.as_posix(), "fingerprint": fingerprint}
    if revision := _revision():
        origin["git"] = revision
    return {**origin, "versions": package_versions(), "machine": machine_info()}


def _revision() -> str | None:
    """Return the git revision of the folder that one stands in, where it is one."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def diff_env(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each fact that was another one when a recipe was made."""
    said = []
    for key, value in before.items():
        here = now.get(key)
        if isinstance(value, Mapping):
            inner = here if isinstance(here, Mapping) else {}
            said += [f"{k} was {v}, is {inner.get(k, 'absent')}" for k, v in value.items() if inner.get(k) != v]
        elif key == "fingerprint" and here != value:
            said.append(f"the data are others (fingerprint {str(value)[:12]}, here {str(here)[:12]})")
        elif key != "data" and here != value:
            said.append(f"{key} was {value}, is {here if here is not None else 'absent'}")
    return said
