"""What OpenAPI tells about the routes that FastAPI cannot read from their signatures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fullconv.serve.media_types import Part
from fullconv.serve.settings import PROTECTED

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
BINARY = {"type": "string", "format": "binary"}
INDEX = {"type": "integer", "minimum": 0}
TEXT = {"type": "string"}
BASE64 = {"type": "string", "contentEncoding": "base64"}


def record(required: Mapping[str, Any], more: Mapping[Any, Any] | None = None) -> dict[str, Any]:
    """Return the schema of an object with fields that are always there, and others that may be."""
    return {"type": "object", "required": list(required), "properties": {**required, **(more or {})}}


def rows(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of an array."""
    return {"type": "array", "items": item}


CLASS = {"index": INDEX, "name": TEXT, "color": {"type": "string", "pattern": "^#[0-9a-f]{6}$"}}
COUNTED = {**CLASS, "pixels": INDEX, "share": {"type": "number", "minimum": 0, "maximum": 1}}
PATCH = {"index": INDEX, "name": TEXT, "rings": rows(rows(rows({"type": "integer"})))}
RUNS = {"index": INDEX, "name": TEXT, "size": rows(INDEX), "counts": rows(INDEX)}
INCLUDED: Mapping[Part, dict[str, Any]] = {
    "polygons": rows(record(PATCH)), "rle": rows(record(RUNS)),
    "label_map": BASE64, "confidence": BASE64, "picture": BASE64,
}  # fmt: skip
PREDICTION = record(
    {
        "size": record({"width": INDEX, "height": INDEX}), "classes": rows(record(COUNTED)),
        "head": {"type": ["string", "null"]}, "scale": {"type": "number"}, "engine": TEXT, "precision": TEXT,
    },
    INCLUDED,
)  # fmt: skip
ENGINE = {"max_pixels": {"type": ["integer", "null"]}, "engine": TEXT, "precision": TEXT}
MODEL = {
    "name": TEXT, "ready": {"type": "boolean"}, "copies": INDEX, "variant": TEXT, "backbone": {"type": ["string", "null"]},
    "in_channels": INDEX, "bands": {"type": ["array", "null"], "items": INDEX}, "scale": {"type": "number"},
    "stride": {"type": ["integer", "null"]}, "heads": rows(TEXT), "classes": rows(record(CLASS)),
    "weights_sha256": {"type": ["string", "null"]}, "weights_license": {"type": ["string", "null"]},
    "engine": TEXT, "precision": TEXT, "device": TEXT, "engines": rows(record(ENGINE)),
}  # fmt: skip
LIMITS = {"body_bytes": INDEX, "pixels": INDEX, "seconds": {"type": "number"}, "queue": INDEX}
MODELS = record(
    {"default": TEXT, "models": rows(record(MODEL)), "limits": record(LIMITS), "fullconv": TEXT},
)
ALIVE = record({"status": {"const": "ok"}})
READY = record({"status": {"enum": ["ok", "loading", "stopping"]}, "missing": rows(TEXT)})


ERROR = record({"error": record({"code": TEXT, "message": TEXT}), "request_id": TEXT})


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


def describe_get(schema: Mapping[str, Any], description: str, *statuses: int) -> dict[str, Any]:
    """Return how a route that only tells something is described."""
    content = {"application/json": {"schema": schema}}
    answers = {200: {"description": description, "content": content}, **describe_errors(403, 421, *statuses)}
    return {"responses": answers, "response_model": None}


def describe_here(openapi: dict[str, Any], heads: Mapping[str, Sequence[str]], token: bool) -> dict[str, Any]:
    """Say in the description what holds for this very service.

    Args:
        openapi: As FastAPI has made it; changed in place, and returned.
        heads: Names of heads by model, the default model first.
        token: Whether one is wanted.
    """
    paths = openapi["paths"]
    for path, named in (("/v1/predict", [next(iter(heads))]), ("/v1/predict/{name}", list(heads))):
        known = sorted({head for name in named for head in heads[name]})
        found = []
        for parameter in paths[path]["post"]["parameters"]:
            schema = parameter["schema"]
            if "anyOf" in schema:  # a query holds text, and never null
                schema |= next(part for part in schema.pop("anyOf") if part.get("type") != "null")
            if parameter["name"] == "name":
                schema["enum"] = list(heads)
            if parameter["name"] == "head":
                schema["enum"] = known
            if parameter["name"] != "head" or known:
                found.append(parameter)
        paths[path]["post"]["parameters"] = found
    if token:
        openapi.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, verbs in paths.items():
            if path.startswith(PROTECTED):
                for operation in verbs.values():
                    operation["security"] = [{"token": []}]
    return openapi
