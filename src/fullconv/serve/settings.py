"""What a service is told when it starts, and what follows from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from fullconv.errors import RecipeError
from fullconv.modelfile import read_card

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a model may be called in an address."""
PROTECTED = ("/v1/", "/metrics")
"""What a token guards; the page, its files and the probes tell nothing."""


@dataclass(frozen=True)
class Settings:
    """All choices of one service."""

    models: Mapping[str, str]
    """Model files by name; the first answers where no name is given."""
    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes any that is free."""
    token: str | None = None
    """What a request must carry as ``Authorization: Bearer``; None lets everybody in who reaches the address."""
    any_host: bool = False
    """Whether requests under another host's name are answered, too, as those that a proxy passes on."""
    copies: int = 1
    """Processes a model."""
    batch_size: int = 1
    """Most pictures of one size that go through the network together."""
    queue: int = 64
    """Pictures a model that may wait or be computed; more are refused with 503."""
    max_body: int = 64 * 10**6
    """Bytes of a request."""
    max_pixels: int = 100 * 10**6
    """Pixels of a picture, and of what the network would see of it."""
    timeout: float = 60.0
    """Seconds from a request's head to its answer."""
    device: str = "auto"
    precision: str = "auto"
    engine: str = "auto"

    @property
    def default_model(self) -> str:
        """The model that answers where no name is given."""
        return next(iter(self.models))

    @property
    def body_budget(self) -> int:
        """Bytes of all requests that may be held at a time."""
        return max(16 * self.max_body, 10**9)


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only.

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
    """Refuse to serve beyond this machine unless it is said who may ask.

    Raises:
        RecipeError: Another host without a token or the word that none is wanted, or a token that guards nothing.
    """
    if token is not None and no_auth:
        raise RecipeError("--token and --no-auth contradict each other: leave one away.")
    if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise RecipeError(
            "--token: must be letters, digits and signs without spaces; `openssl rand -hex 16` makes one."
        )
    if not is_loopback(host) and token is None and not no_auth:
        raise RecipeError(
            f"--host {host}: others could reach it. Give --token T, which requests must then carry, or --no-auth if"
            " everybody may ask."
        )


def name_models(first: str | None, named: Sequence[str]) -> dict[str, str]:
    """Return model files by name from MODEL and the values of --model.

    Args:
        first: MODEL, named by its run folder or file.
        named: Each "name=FILE".

    Raises:
        RecipeError: There is none, a name cannot stand in an address, or one is given twice.
    """
    models = {} if first is None else {model_name(first): first}
    for text in named:
        name, sign, file = text.partition("=")
        if not sign or not file or not NAME.fullmatch(name):
            raise RecipeError(
                f"--model {text}: write name=FILE, with a name of letters, digits, dots, dashes and underscores."
            )
        if name in models:
            raise RecipeError(f"--model {text}: there is a model '{name}' already. Choose another name.")
        models[name] = file
    if not models:
        raise RecipeError("nothing to serve: name a MODEL, or several by --model name=FILE.")
    return models


def check_models(models: Mapping[str, str]) -> None:
    """Look at the cards of model files, so that what is missing or foreign is told before anything starts.

    Raises:
        ModelFileError: One cannot be loaded.
    """
    for model in models.values():
        path = Path(model)
        exported = path.suffix in (".onnx", ".xml", ".pt2")
        if path.is_dir() or (path.exists() and not exported) or (":" not in model and not path.exists()):
            read_card(path / "model.safetensors" if path.is_dir() else path)


def model_name(model: str) -> str:
    """Return what a model file or run folder is called in addresses.

    >>> model_name("runs/street/model.safetensors"), model_name("shapes.safetensors"), model_name("torchvision:fcn_resnet50")
    ('street', 'shapes', 'fcn_resnet50')
    """
    path = Path(model).resolve() if Path(model).exists() else Path(model)
    stem = path.name if path.is_dir() else path.stem
    if stem == "model":
        stem = path.parent.name
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", stem.rpartition(":")[2]).strip("-._")[:64]
    return plain or "model"
