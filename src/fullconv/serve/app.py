"""The application: routes, the web page, and error responses."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from importlib import resources
from pathlib import PurePath
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fullconv._version import __version__
from fullconv.errors import nearest
from fullconv.labels import format_color
from fullconv.serve.errors import BUG_MESSAGE, ApiError
from fullconv.serve.monitoring import Metrics
from fullconv.serve.openapi import (
    ClassInfo,
    Health,
    Limits,
    ModelInfo,
    Models,
    Readiness,
    error_responses,
    predict_route,
    specialize,
)
from fullconv.serve.params import MEDIA_TYPES, ModelName, Params
from fullconv.serve.pool import Pool, Result
from fullconv.serve.settings import Settings
from fullconv.serve.uploads import ByteBudget, read_image_body

PAGE_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
}
"""Media types of the page's files."""
PAGES = {"index.html": "/", "docs.html": "/docs"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy: nothing from outside, nothing inline."""


class Service:
    """What the routes share."""

    def __init__(self, settings: Settings, pools: dict[str, Pool], metrics: Metrics) -> None:
        self.settings, self.pools, self.metrics = settings, pools, metrics
        self.budget = ByteBudget(settings.body_budget, metrics.body_bytes)
        self.stopping = False

    async def predict(self, request: Request, name: str, params: Params) -> Response:
        """Return the response to a request for a prediction."""
        deadline = time.monotonic() + self.settings.timeout
        fields = request.state.log_fields
        fields["model"] = name[:64]
        if name not in self.pools:
            raise ApiError(404, "no-such-model", f"there is no model '{name[:64]}'.{nearest(name[:64], self.pools)}")
        pool = self.pools[name]
        resolved = params.resolve(request, pool.heads)
        response_type = resolved["answer"]
        if self.stopping:
            raise ApiError(503, "stopping", "the service is stopping. Try again in a moment.", 5)
        pool.check_queue()  # before the body is read; the pool checks again
        with self.budget.reserve() as reserve:
            body = await read_image_body(request, self.settings, reserve, deadline)
            resolved["request_id"] = request.state.request_id
            result = await _unless_disconnected(request, pool.predict(resolved, body, deadline))
            self.metrics.images.labels(name, response_type).inc()
            self.metrics.pixels.labels(name).inc(result.pixels)
            self.metrics.network_seconds.labels(name).observe(result.seconds)
            self.metrics.batch_images.labels(name).observe(result.batch)
            fields |= {
                "pixels": result.pixels, "answer": response_type, "batch": result.batch, "engine": result.engine,
                "precision": result.precision, "network_ms": round(1000 * result.seconds, 1),
                **({"warnings": result.warnings} if result.warnings else {}),
            }  # fmt: skip
            return Response(
                result.payload, media_type=MEDIA_TYPES[response_type].partition(";")[0],
                headers={"Cache-Control": "no-store", "Vary": "Accept", "X-Model": name,
                         "X-Engine": f"{result.engine} {result.precision}",
                         "Server-Timing": f"network;dur={1000 * result.seconds:.1f}",
                         **({"X-Warnings": ", ".join(result.warnings)} if result.warnings else {})},
            )  # fmt: skip

    def describe(self) -> Models:
        """Return the content of /v1/models."""
        settings = self.settings
        return Models(
            default=settings.default_model,
            models=[_describe_model(name, pool) for name, pool in self.pools.items()],
            limits=Limits(
                body_bytes=settings.max_body, pixels=settings.max_pixels, seconds=settings.timeout, queue=settings.queue
            ),
            fullconv=__version__,
        )


async def _unless_disconnected(request: Request, prediction: Coroutine[Any, Any, Result]) -> Result:
    """Await a prediction, and cancel it when the client disconnects."""

    async def disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task = asyncio.create_task(prediction)
    disconnected = asyncio.create_task(disconnect())
    try:
        await asyncio.wait({task, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        disconnected.cancel()
        task.cancel()


def _describe_model(name: str, pool: Pool) -> ModelInfo:
    card = pool.card
    assert card is not None  # the service starts when every model has been loaded once
    labels = card.labels()
    return ModelInfo(
        name=name, ready=pool.ready > 0, copies=pool.settings.copies, variant=card.variant, backbone=card.backbone,
        in_channels=card.in_channels, bands=card.bands, scale=card.scale, short_side=card.short_side, stride=card.stride,
        heads=pool.heads,
        classes=[
            ClassInfo(index=index, name=name, color=format_color(color))
            for index, (name, color) in enumerate(zip(labels.classes, labels.palette, strict=True))
        ],
        weights_sha256=card.weights_sha256, weights_license=card.weights_license, engines=pool.engines, **pool.running,
    )  # fmt: skip


def make_app(service: Service) -> FastAPI:
    """Build the application."""
    app = FastAPI(
        title="fullconv", version=__version__, docs_url=None, redoc_url=None, openapi_url="/openapi.json",
        description="Semantic segmentation: a class for every pixel of an image.", redirect_slashes=False,
    )  # fmt: skip

    @app.post("/v1/predict", **predict_route("predict"))
    async def predict(request: Request, params: Params) -> Response:
        """Segment an image with the first model."""
        return await service.predict(request, service.settings.default_model, params)

    @app.post("/v1/predict/{name}", **predict_route("predict_by"))
    async def predict_by(request: Request, name: ModelName, params: Params) -> Response:
        """Segment an image with the named model."""
        return await service.predict(request, name, params)

    @app.get("/v1/models", operation_id="models", tags=["prediction"], responses=error_responses(401, 403, 421))
    async def models(response: Response) -> Models:
        """List the models with their classes, and the limits of the service."""
        response.headers["Cache-Control"] = "no-store"
        return service.describe()

    _add_probes(app, service)
    for name, content in read_files().items():
        send_file = _file_route(content, PAGE_TYPES[PurePath(name).suffix])
        app.add_api_route(PAGES.get(name, f"/page/{name}"), send_file, methods=["GET", "HEAD"], include_in_schema=False)
    _add_error_handlers(app)
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:  # by the time of the first request the models are loaded
            heads = {name: pool.heads for name, pool in service.pools.items()}
            app.openapi_schema = specialize(generate(), heads, service.settings.token is not None)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def read_files() -> dict[str, bytes]:
    """Return the page's files by name."""
    folder = resources.files("fullconv.serve") / "page"
    return {file.name: file.read_bytes() for file in folder.iterdir() if PurePath(file.name).suffix in PAGE_TYPES}


def _file_route(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache", "Content-Security-Policy": POLICY}

    async def send_file(request: Request) -> Response:
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    return send_file


def _add_probes(app: FastAPI, service: Service) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", tags=["operation"], responses=error_responses(403, 421))
    async def healthz() -> Health:
        """Report that the service is alive."""
        return Health(status="ok")

    not_ready = {"description": "A model has no ready worker process.", "model": Readiness}

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", tags=["operation"], responses={503: not_ready, **error_responses(403, 421)})
    async def readyz(response: Response) -> Readiness:
        """Report whether every model has a ready worker process."""
        missing = [name for name, pool in service.pools.items() if not pool.ready]
        if service.stopping or missing:
            response.status_code = 503
            response.headers["Retry-After"] = "2"
        status = "stopping" if service.stopping else "loading" if missing else "ok"
        return Readiness(status=status, missing=missing)

    @app.get("/metrics", tags=["operation"], response_class=Response,
             responses={200: {"content": {"text/plain": {}}}, **error_responses(401, 403, 421)})  # fmt: skip
    async def metrics() -> Response:
        """Return metrics in Prometheus' text format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_error_handlers(app: FastAPI) -> None:
    def respond(request: Request, error: ApiError) -> Response:
        request.state.log_fields["code"] = error.code
        return JSONResponse(error.body(request.state.request_id), error.status, error.headers)

    @app.exception_handler(ApiError)
    async def on_api_error(request: Request, error: ApiError) -> Response:
        return respond(request, error)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        known = {
            404: ("not-found", "not found. /docs lists the routes."),
            405: ("wrong-method", f"this route does not take {request.method[:16]}. /docs lists the methods."),
        }
        code, message = known.get(error.status_code, ("refused", str(error.detail)))
        response = respond(request, ApiError(error.status_code, code, message))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def on_invalid_parameter(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "query")
        return respond(request, ApiError(422, "bad-parameter", f"{place}: {first['msg']}."))

    @app.exception_handler(Exception)  # which the middleware logs
    async def on_bug(request: Request, error: Exception) -> Response:
        return respond(request, ApiError(500, "bug", BUG_MESSAGE))

    @app.exception_handler(ClientDisconnect)
    async def on_disconnect(request: Request, error: ClientDisconnect) -> Response:
        request.state.log_fields["code"] = "client-gone"
        return Response(status_code=499)
