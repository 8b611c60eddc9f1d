"""What a request for a prediction may ask, and whether it fits together."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path, Query, Request

from fullconv.errors import nearest
from fullconv.serve.errors import Refusal
from fullconv.serve.media_types import KINDS, Kind, Part, negotiate
from fullconv.serve.pool import Pool

Tile = Annotated[
    str,
    Query(
        pattern=r"^(auto|none|[1-9][0-9]{0,5})$",
        description="`auto`, `none`, or the side of a tile's core in pixels, as for `fullconv predict`; the answer is the same.",
    ),
]
Head = Annotated[
    str | None,
    Query(min_length=1, max_length=100, description="Which head of a model that has several; the first by default."),
]
Scale = Annotated[
    float | None,
    Query(
        ge=0.05, le=4, allow_inf_nan=False,
        description="Working resolution in place of the model's own; results are at the picture's size.",
    ),
]  # fmt: skip
Wanted = Annotated[
    Literal["labels", "overlay", "json", "npz"] | None,
    Query(description="Kind of answer in place of what Accept says."),
]
Include = Annotated[
    list[Part],
    Query(
        max_length=5,
        description="Repeatable, for JSON: polygons, rle (COCO's uncompressed run lengths), label_map and confidence"
        " (PNG in base64; confidence in whole percents), picture (as a browser can show it).",
    ),
]
Name = Annotated[str, Path(description="Name of a model, one of /v1/models.")]
PARAMETERS = ("tile", "head", "scale", "answer", "include")


def check_order(request: Request, order: dict[str, Any], pool: Pool) -> Kind:
    """Return the kind of answer that a request asks for.

    Raises:
        Refusal: A parameter is unknown or contradicts another, or no kind of ours is accepted.
    """
    for key in request.query_params:
        if key not in PARAMETERS:
            words = (
                f"there is no parameter '{key[:40]}'; there are {', '.join(PARAMETERS)}.{nearest(key[:40], PARAMETERS)}"
            )
            raise Refusal(422, "unknown-parameter", words)
    wanted = order.pop("answer")
    kind = wanted or negotiate(request.headers.get("accept", ""))
    if kind is None:
        raise Refusal(406, "not-acceptable", f"Accept names none of {', '.join(KINDS.values())}.")
    if order["include"] and kind != "json":
        raise Refusal(
            422, "include-without-json", "include is for JSON: send Accept: application/json, or answer=json."
        )
    heads = list(pool.card.heads or ()) if pool.card is not None else []
    if order["head"] is not None and order["head"] not in heads:
        known = f"it has {', '.join(heads)}" if heads else "it has one without a name: leave head away"
        raise Refusal(422, "no-such-head", f"this model has no head '{order['head']}', {known}.")
    order["tile"] = int(order["tile"]) if order["tile"].isdigit() else order["tile"]
    return kind
