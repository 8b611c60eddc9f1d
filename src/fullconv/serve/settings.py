"""The settings of a service, and their checks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from fullconv.engines import is_exported
from fullconv.errors import RecipeError
from fullconv.modelfile import read_card

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names of models, as they appear in URLs."""
PROTECTED = ("/v1/", "/metrics")
"""Paths that require the token; the page, its files and the probes reveal nothing."""


@dataclass(frozen=True)
class Settings:
    """Settings of one service."""

    models: Mapping[str, str]
    """Model files by name; the first is the default."""
    host: str = "127.0.0.1"
    port: int = 8000
    """0 chooses a free port."""
    token: str | None = None
    """Bearer token that requests must carry; None accepts every client that reaches the address."""
    any_host: bool = False
    """Whether requests with another Host header are accepted, such as those of a proxy."""
    copies: int = 1
    """Worker processes per model."""
    batch_size: int = 1
    """Maximum number of images of one size in a batch."""
    queue: int = 64
    """Images per model that may be queued or computed; further ones get 503."""
    max_body: int = 64 * 10**6
    """Maximum bytes of a request."""
    max_pixels: int = 100 * 10**6
    """Maximum pixels of an image, and of the network's input."""
    timeout: float = 60.0
    """Seconds from a request's headers to its response."""
    device: str = "auto"
    precision: str = "auto"
    engine: str = "auto"

    @property
    def default_model(self) -> str:
        """Name of the model that is used where a request names none."""
        return next(iter(self.models))

    @property
    def body_budget(self) -> int:
        """Maximum bytes of all requests together."""
        return max(16 * self.max_body, 10**9)


def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this machine only.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_access(host: str, token: str | None, no_auth: bool) -> None:
    """Require a token, or an explicit `no_auth`, for a service that other machines reach."""
    if token is not None and no_auth:
        raise RecipeError("--token and --no-auth contradict each other: omit one.")
    if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise RecipeError("--token: must be printable ASCII without spaces. `openssl rand -hex 16` generates one.")
    if not is_loopback(host) and token is None and not no_auth:
        raise RecipeError(
            f"--host {host}: other machines can reach the service. Set --token T, which requests must then carry, or"
            " --no-auth to accept every client."
        )


def name_models(first: str | None, named: Sequence[str]) -> dict[str, str]:
    """Return model files by name from MODEL and the values of --model."""
    models = {} if first is None else {model_name(first): first}
    for text in named:
        name, sign, file = text.partition("=")
        if not sign or not file or not NAME.fullmatch(name):
            raise RecipeError(
                f"--model {text}: write name=FILE, with a name of letters, digits, dots, dashes and underscores."
            )
        if name in models:
            raise RecipeError(f"--model {text}: the name '{name}' is taken. Choose another one.")
        models[name] = file
    if not models:
        raise RecipeError("nothing to serve: pass a MODEL, or several with --model name=FILE.")
    return models


def check_models(models: Mapping[str, str]) -> None:
    """Read the cards of model files, so that a missing or foreign file is reported before anything starts."""
    for model in models.values():
        path = Path(model)
        if path.is_dir() or (path.exists() and not is_exported(path)) or (":" not in model and not path.exists()):
            read_card(path / "model.safetensors" if path.is_dir() else path)


def model_name(model: str) -> str:
    """Return the name of a model file or run folder in URLs.

    >>> model_name("runs/street/model.safetensors"), model_name("shapes.safetensors"), model_name("torchvision:fcn_resnet50")
    ('street', 'shapes', 'fcn_resnet50')
    """
    path = Path(model).resolve() if Path(model).exists() else Path(model)
    stem = path.name if path.is_dir() else path.stem
    if stem == "model":
        stem = path.parent.name
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", stem.rpartition(":")[2]).strip("-._")[:64]
    return plain or "model"
