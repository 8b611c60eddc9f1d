"""Parameters of a prediction, and the response type that a request accepts."""

# No `from __future__ import annotations`: FastAPI cannot resolve the annotations of a class given as text.
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Depends, Path, Query, Request

from fullconv.errors import nearest
from fullconv.serve.errors import ApiError

ResponseType = Literal["labels", "overlay", "json", "npz"]
MEDIA_TYPES: dict[ResponseType, str] = {
    "labels": "image/png",
    "overlay": "image/png; kind=overlay",
    "json": "application/json",
    "npz": "application/x-npz",
}
"""In order of preference, where Accept has none."""

JsonPart = Literal["polygons", "rle", "label_map", "confidence", "picture"]

ModelName = Annotated[str, Path(description="Name of a model, one of /v1/models.")]


@dataclass
class PredictParams:
    """Query parameters of a prediction."""

    tile: Annotated[
        str,
        Query(
            pattern=r"^(auto|none|[1-9][0-9]{0,5})$",
            description="`auto`, `none`, or the side of a tile's core in pixels, as in `fullconv predict`; results are the same.",
        ),
    ] = "auto"
    head: Annotated[
        str | None,
        Query(min_length=1, max_length=100, description="Head of a model with several heads; the first by default."),
    ] = None
    scale: Annotated[
        float | None,
        Query(
            ge=0.05,
            le=4,
            allow_inf_nan=False,
            description="Working resolution instead of the model's own; results are at the image's size.",
        ),
    ] = None
    answer: Annotated[ResponseType | None, Query(description="Response type instead of that of Accept.")] = None
    include: Annotated[
        list[JsonPart],
        Query(
            max_length=5,
            description="Repeatable, for JSON: polygons, rle (COCO's uncompressed run lengths), label_map and confidence"
            " (PNG in base64; confidence in whole percents), picture (the image as a browser can show it).",
        ),
    ] = ()  # type: ignore[assignment]

    def resolve(self, request: Request, heads: Sequence[str]) -> dict[str, Any]:
        """Return the parameters for a worker process, with the response type under "answer"; one head alone has no name."""
        known = list(vars(self))
        for name in request.query_params:
            if name not in known:
                raise ApiError(
                    422, "unknown-parameter",
                    f"unknown parameter '{name[:40]}'; the parameters are {', '.join(known)}.{nearest(name[:40], known)}",
                )  # fmt: skip
        response_type = self.answer or negotiate(request.headers.get("accept", ""))
        if response_type is None:
            raise ApiError(406, "not-acceptable", f"Accept includes none of {', '.join(MEDIA_TYPES.values())}.")
        if self.include and response_type != "json":
            raise ApiError(
                422, "include-without-json", "include is for JSON: send Accept: application/json, or answer=json."
            )
        if self.head is not None and self.head not in heads:
            fix = f"its heads are {', '.join(heads)}" if heads else "it has a single head without a name: omit head"
            raise ApiError(422, "no-such-head", f"this model has no head '{self.head}'; {fix}.")
        tile = int(self.tile) if self.tile.isdigit() else self.tile
        return {**vars(self), "tile": tile, "include": list(self.include), "answer": response_type}


Params = Annotated[PredictParams, Depends()]


def negotiate(accept: str) -> ResponseType | None:
    """Return the response type that an Accept header prefers, or None where it accepts none.

    >>> negotiate("*/*"), negotiate("image/png;kind=overlay"), negotiate("text/html, application/json;q=0.5")
    ('labels', 'overlay', 'json')
    >>> negotiate("text/html") is None
    True
    """
    ranges = [parsed for text in (accept.strip() or "*/*").split(",") if (parsed := _parse_range(text)) is not None]
    qualities = {name: _quality(media_type, ranges) for name, media_type in MEDIA_TYPES.items()}
    best = max(qualities, key=lambda name: qualities[name])  # the first of equals
    return best if qualities[best] > 0 else None


def _parse_range(text: str) -> tuple[str, dict[str, str], float] | None:
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


def _quality(media_type: str, ranges: list[tuple[str, dict[str, str], float]]) -> float:
    """Return the quality of the most specific matching range (RFC 9110, 12.5.1)."""
    parsed = _parse_range(media_type)
    assert parsed is not None
    name, own, _ = parsed
    best = (-1, 0.0)
    for accepted, params, quality in ranges:
        matches = accepted in (name, "*/*") or (accepted.endswith("/*") and name.startswith(accepted[:-1]))
        if matches and params.items() <= own.items():
            specificity = 0 if accepted == "*/*" else 1 if accepted.endswith("/*") else 2 + len(params)
            best = max(best, (specificity, quality))
    return best[1]
