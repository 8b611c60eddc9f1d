"""Networks that are built to be filled from a file: their weights are zero instead of drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fullconv.card import Card
from fullconv.nn.building import build
from fullconv.nn.networks import Network
from fullconv.nn.pyramid import TESTED
from fullconv.nn.variants import row_of

FEW_BANDS = 16
"""Bands up to which a tested encoder of full width is known to be no larger than VGG-16."""

DRAWN = {
    "normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_",
    "orthogonal_", "exponential_", "bernoulli_",
}  # fmt: skip
"""Operations that fill a tensor with random numbers."""


@contextmanager
def undrawn() -> Iterator[None]:
    """Fill tensors with zeros, in such a block, where they would be drawn."""
    with _Zeros():
        yield


class _Zeros(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in DRAWN:
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, Tensor):
                with torch.no_grad():
                    return tensor.zero_()
        return func(*args, **kwargs)


def _build(card: Card) -> Network:
    return build(
        card.variant, backbone=card.backbone, num_classes=card.num_classes, in_channels=card.in_channels, **card.network
    )


def shapes_of(card: Card) -> Network:
    """Build the network of a card without its weights: they are on the meta device, and take no memory.

    Networks that are known to be no larger than VGG-16 take their memory for a moment: where PyTorch builds on that device, it
    goes by way of its compiler, which takes more than a second to import.
    """
    if _is_known(card):
        with undrawn():
            network = _build(card)
        network.map_bytes(1, 1, 4)  # on that device it takes a second
        return network.to("meta")
    return _without_memory(card)


def _without_memory(card: Card) -> Network:
    with torch.device("meta"):
        return _build(card)


def _is_known(card: Card) -> bool:
    row = row_of(card.variant)
    known = card.backbone in TESTED or row.backbone is not None or row.release is not None
    return known and card.in_channels <= FEW_BANDS and card.network.get("width", 1) <= 1


def filled(card: Card, tensors: dict[str, Tensor]) -> Network:
    """Build the network of a card with its weights; none are drawn at random.

    Networks that are known to be no larger than VGG-16 take their memory at once. Of all others, names and shapes are
    compared first, without memory, whatever a card says; that starts slower (see `shapes_of`).

    Raises:
        RuntimeError: Names or shapes of the weights are not the network's.
    """
    if _is_known(card):
        with undrawn():
            network = _build(card)
        network.load_state_dict(tensors)
        return network
    try:
        network = _without_memory(card)
    except RuntimeError:  # of a backbone that computes numbers while it is built
        network = _build(card)
    else:
        tensors = _with_counts(network, tensors)
        network.load_state_dict({name: value.to("meta") for name, value in tensors.items()})
        network = _build(card) if _holds_more(network) else network.to_empty(device="cpu")
    network.load_state_dict(tensors)
    return network


def _with_counts(network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add what batch norms of old files lack: PyTorch lets them do without the count of their steps."""
    names = (name for name in network.state_dict() if name.endswith("num_batches_tracked"))
    return {name: torch.tensor(0) for name in names} | tensors


def _holds_more(network: nn.Module) -> bool:
    """Say whether a network holds tensors that are no weights: building it computes them, and no file has them."""
    for module in network.modules():
        if module._non_persistent_buffers_set or any(isinstance(value, Tensor) for value in vars(module).values()):
            return True
    return False
