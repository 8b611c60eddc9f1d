"""Small models, and model files as an older version wrote them or with one bit changed."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence

import torch

from fullconv.card import Card, Labels
from fullconv.modelfile import CHECKSUM_KEY
from fullconv.nn import build
from fullconv.segmenter import Segmenter, build_settings


def small_segmenter(
    classes: Sequence[str] = ("a", "b", "c"),
    seed: int = 0,
    variant: str = "fcn8s",
    width: float = 0.25,
    in_channels: int = 3,
    **options,
) -> Segmenter:
    """An untrained model on the CPU; options are those of `Segmenter.from_network`."""
    torch.manual_seed(seed)
    network = build(variant, backbone="tiny", num_classes=len(classes), in_channels=in_channels, width=width)
    return Segmenter.from_network(network, classes, device="cpu", **options)


def two_headed_segmenter() -> Segmenter:
    """An untrained model with the heads `sort` (a, b, c) and `state` (dry, wet)."""
    torch.manual_seed(3)
    network = build("fcn8s", backbone="tiny", num_classes={"sort": 3, "state": 2}, width=0.25)
    heads = {"sort": Labels(classes=("a", "b", "c")), "state": Labels(classes=("dry", "wet"))}
    card = Card(
        variant="fcn8s", backbone="tiny", network=build_settings(network), classes=heads["sort"].classes, heads=heads
    )
    return Segmenter(network, card, "cpu")


def header_of(whole: bytes) -> bytes:
    """The header's text, without its length."""
    return whole[8 : 8 + int.from_bytes(whole[:8], "little")]


def unsealed(whole: bytes) -> bytes:
    """A file as it was before headers had a checksum."""
    header = json.loads(header_of(whole))
    del header["__metadata__"][CHECKSUM_KEY]
    text = json.dumps(header, ensure_ascii=False).encode()
    return struct.pack("<Q", len(text)) + text + whole[8 + len(header_of(whole)) :]


def flipped(whole: bytes, place: int, mask: int) -> bytes:
    """A file with some bits of one byte changed."""
    return whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :]
