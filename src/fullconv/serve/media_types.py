"""The kinds of answers, and which one a request's Accept asks for."""

from __future__ import annotations

from typing import Literal, get_args

Kind = Literal["labels", "overlay", "json", "npz"]
KINDS: dict[Kind, str] = {
    "labels": "image/png",
    "overlay": "image/png; kind=overlay",
    "json": "application/json",
    "npz": "application/x-npz",
}
"""Media types; what an Accept that names several equally gets is the first."""

Part = Literal["polygons", "rle", "label_map", "confidence", "picture"]
PARTS: tuple[Part, ...] = get_args(Part)
"""What JSON can hold beside the table of classes."""


def negotiate(accept: str) -> Kind | None:
    """Return the kind that an Accept header prefers, or None where it accepts none of ours.

    >>> negotiate("*/*"), negotiate("image/png;kind=overlay"), negotiate("text/html, application/json;q=0.5")
    ('labels', 'overlay', 'json')
    >>> negotiate("text/html") is None
    True
    """
    ranges = [found for text in (accept.strip() or "*/*").split(",") if (found := _parse(text)) is not None]
    best: tuple[float, Kind] | None = None
    for kind, media in KINDS.items():
        quality = _quality(media, ranges)
        if quality > 0 and (best is None or quality > best[0]):
            best = quality, kind
    return best[1] if best else None


def media_type(kind: Kind) -> str:
    """Return a kind's type without parameters, as an answer names it."""
    return KINDS[kind].partition(";")[0]


def _parse(text: str) -> tuple[str, dict[str, str], float] | None:
    name, *rest = (part.strip().lower() for part in text.split(";"))
    if "/" not in name:
        return None
    pairs = [part.partition("=") for part in rest if "=" in part]
    params = {key.strip(): value.strip().strip('"') for key, _, value in pairs}
    try:
        quality = min(1.0, max(0.0, float(params.pop("q", "1"))))
    except ValueError:
        return None
    return name, params, quality if quality == quality else 0.0


def _quality(media: str, ranges: list[tuple[str, dict[str, str], float]]) -> float:
    """Return the quality that the most specific matching range gives (RFC 9110, 12.5.1)."""
    parsed = _parse(media)
    assert parsed is not None
    name, own, _ = parsed
    found = (-1, 0.0)
    for wanted, params, quality in ranges:
        fits = wanted in (name, "*/*") or (wanted.endswith("/*") and name.startswith(wanted[:-1]))
        if fits and params.items() <= own.items():
            rank = 0 if wanted == "*/*" else 1 if wanted.endswith("/*") else 2 + len(params)
            found = max(found, (rank, quality))
    return found[1]
