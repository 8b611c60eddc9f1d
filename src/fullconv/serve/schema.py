"""What OpenAPI tells about the routes that FastAPI cannot read from their signatures."""

from __future__ import annotations

from typing import Any

from fullconv.serve.kinds import PARTS

REASONS = {
    400: "The request holds no picture, or a damaged form.",
    401: "A token is wanted.",
    403: "A page of another origin asks.",
    404: "There is no such model.",
    406: "No kind of answer that Accept names.",
    408: "The picture came too slowly, or takes too long.",
    413: "The body, the picture or the answer is too large.",
    415: "The body is no picture.",
    421: "Asked under another host's name.",
    422: "A parameter is wrong, or the picture is damaged or of another kind than the model's.",
    503: "The queue is full, a process ended, or the service stops; Retry-After tells when to try again.",
}
ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error", "request_id"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
        },
        "request_id": {"type": "string"},
    },
}
BINARY = {"type": "string", "format": "binary"}
CLASS: dict[str, Any] = {
    "type": "object",
    "required": ["index", "name", "color"],
    "properties": {
        "index": {"type": "integer"}, "name": {"type": "string"}, "color": {"type": "string"},
        "pixels": {"type": "integer"}, "share": {"type": "number", "minimum": 0, "maximum": 1},
    },
}  # fmt: skip
PREDICTION: dict[str, Any] = {
    "type": "object",
    "required": ["size", "classes", "head", "scale"],
    "properties": {
        "size": {
            "type": "object",
            "required": ["width", "height"],
            "properties": {"width": {"type": "integer"}, "height": {"type": "integer"}},
        },
        "head": {"type": ["string", "null"]},
        "scale": {"type": "number"},
        "classes": {"type": "array", "items": CLASS},
        **{part: {"type": "array"} if part in ("polygons", "rle") else {"type": "string"} for part in PARTS},
    },
}
MODELS: dict[str, Any] = {
    "type": "object",
    "required": ["default", "models", "limits", "fullconv"],
    "properties": {
        "default": {"type": "string"},
        "models": {"type": "array", "items": {"type": "object", "required": ["name", "ready", "classes"]}},
        "limits": {"type": "object"},
        "fullconv": {"type": "string"},
    },
}


def describe_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the error answers of a route."""
    return {
        status: {"description": REASONS[status], "content": {"application/json": {"schema": ERROR}}}
        for status in statuses
    }


def describe_predict(name: str) -> dict[str, Any]:
    """Return how the routes that predict are described."""
    content = {
        "image/png": {"schema": BINARY},
        "application/json": {"schema": PREDICTION},
        "application/x-npz": {"schema": BINARY},
    }
    text = "An indexed PNG (or with kind=overlay the picture painted over), a table, or probabilities (K, H, W)."
    form = {"type": "object", "required": ["file"], "properties": {"file": BINARY}}
    body = {
        "required": True,
        "content": {"image/*": {"schema": BINARY}, "application/octet-stream": {"schema": BINARY},
                    "multipart/form-data": {"schema": form}},
    }  # fmt: skip
    return {
        "operation_id": name, "tags": ["prediction"], "openapi_extra": {"requestBody": body}, "response_model": None,
        "responses": {200: {"description": text, "content": content}, **describe_errors(*REASONS)},
    }  # fmt: skip


def describe_models() -> dict[str, Any]:
    """Return how the list of models is described."""
    content = {"application/json": {"schema": MODELS}}
    return {
        "operation_id": "models", "tags": ["prediction"],
        "responses": {200: {"description": "Models and limits.", "content": content}, **describe_errors(401, 403, 421)},
    }  # fmt: skip
