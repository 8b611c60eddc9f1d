"""Models of the JSON responses, from which FastAPI generates OpenAPI, and what it cannot see in the routes' signatures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from fullconv.serve.settings import PROTECTED

ERRORS = {
    400: "The request has no image, or a damaged form.",
    401: "The bearer token is missing or invalid.",
    403: "The request comes from a page of another origin.",
    404: "There is no such model.",
    406: "Accept includes no response type of this service.",
    408: "The image arrived too slowly, or took too long.",
    413: "The body, the image or the response is too large.",
    415: "The body is not an image.",
    421: "The Host header names another host.",
    422: "A parameter is wrong, or the image is damaged or unlike the model's training images.",
    503: "The queue is full, a worker process ended, or the service is stopping; see Retry-After.",
}

Index = Annotated[int, Field(ge=0)]
Base64 = Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]


class Error(BaseModel):
    """An error: a code for programs, a message for people."""

    code: str
    message: str


class ErrorResponse(BaseModel):
    """The body of every error response."""

    error: Error
    request_id: str


class _Class(BaseModel):
    index: Index
    name: str


class ClassInfo(_Class):
    """A class."""

    color: Annotated[str, Field(pattern="^#[0-9a-f]{6}$")]


class ClassCount(ClassInfo):
    """A class with its pixels in an image."""

    pixels: Index
    share: Annotated[float, Field(ge=0, le=1)]


class Polygon(_Class):
    """A connected region as rings along pixel edges: the outer one, then holes."""

    rings: list[list[list[int]]]


class RunLengths(_Class):
    """A class as COCO's uncompressed run lengths."""

    size: list[Index]
    counts: list[Index]


class ImageSize(BaseModel):
    """Size in pixels."""

    width: Index
    height: Index


class PredictionWarning(BaseModel):
    """What a user should know about a prediction."""

    code: str
    message: str


class Prediction(BaseModel):
    """A prediction; the optional fields are the parts that `include` asked for."""

    size: ImageSize
    classes: list[ClassCount]
    head: str | None
    scale: float
    engine: str
    precision: str
    warnings: list[PredictionWarning] = []
    polygons: list[Polygon] = []
    rle: list[RunLengths] = []
    label_map: Base64 = ""
    confidence: Base64 = ""
    picture: Base64 = ""


class EngineChoice(BaseModel):
    """Engine and precision for images up to a number of pixels."""

    max_pixels: int | None
    engine: str
    precision: str


class ModelInfo(BaseModel):
    """A served model."""

    name: str
    ready: bool
    copies: Index
    variant: str
    backbone: str | None
    in_channels: Index
    bands: list[int] | None
    scale: float
    short_side: Index | None
    stride: int | None
    heads: list[str]
    classes: list[ClassInfo]
    weights_sha256: str | None
    weights_license: str | None
    engine: str
    precision: str
    device: str
    engines: list[EngineChoice]


class Limits(BaseModel):
    """Limits of the service."""

    body_bytes: Index
    pixels: Index
    seconds: float
    queue: Index


class Models(BaseModel):
    """Models and limits."""

    default: str
    models: list[ModelInfo]
    limits: Limits
    fullconv: str


class Health(BaseModel):
    """The service is alive."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Whether every model has a ready worker process."""

    status: Literal["ok", "loading", "stopping"]
    missing: list[str]


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of a route."""
    return {status: {"description": ERRORS[status], "model": ErrorResponse} for status in statuses}


def predict_route(operation_id: str) -> dict[str, Any]:
    """Return the description of a route that predicts."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    form = {"type": "object", "required": ["file"], "properties": {"file": binary["schema"]}}
    body = {"image/*": binary, "application/octet-stream": binary, "multipart/form-data": {"schema": form}}
    success = {
        "description": "An indexed PNG (or with kind=overlay an overlay), a table, or probabilities (K, H, W).",
        "model": Prediction,
        "content": {"image/png": binary, "application/x-npz": binary},
    }
    return {
        "operation_id": operation_id,
        "tags": ["prediction"],
        "openapi_extra": {"requestBody": {"required": True, "content": body}},
        "response_model": None,
        "responses": {200: success, **error_responses(*ERRORS)},
    }


def specialize(openapi: dict[str, Any], heads: Mapping[str, Sequence[str]], token: bool) -> dict[str, Any]:
    """Add models, their heads (the default model first) and the token to the description, in place."""
    paths = openapi["paths"]
    for path, models in (("/v1/predict", [next(iter(heads))]), ("/v1/predict/{name}", list(heads))):
        known = sorted({head for model in models for head in heads[model]})
        operation = paths[path]["post"]
        for parameter in operation["parameters"]:
            schema = parameter["schema"]
            if "anyOf" in schema:  # a query has text, and never null
                schema |= next(part for part in schema.pop("anyOf") if part.get("type") != "null")
            if parameter["name"] == "name":
                schema["enum"] = list(heads)
            if parameter["name"] == "head":
                schema["enum"] = known
        operation["parameters"] = [one for one in operation["parameters"] if one["name"] != "head" or known]
    if token:
        openapi.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, operations in paths.items():
            if path.startswith(PROTECTED):
                for operation in operations.values():
                    operation["security"] = [{"token": []}]
    return openapi
