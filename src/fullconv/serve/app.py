"""The application: routes, their parameters, and what they answer."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fullconv._version import __version__
from fullconv.errors import nearest
from fullconv.labels import format_color
from fullconv.serve.errors import Refusal
from fullconv.serve.media_types import Kind, media_type
from fullconv.serve.metrics import Measures
from fullconv.serve.openapi import ALIVE, MODELS, READY, describe_errors, describe_get, describe_here, describe_predict
from fullconv.serve.params import Head, Include, Name, Scale, Tile, Wanted, check_order
from fullconv.serve.pool import Answer, Pool
from fullconv.serve.settings import Settings
from fullconv.serve.static import add_pages
from fullconv.serve.uploads import Bodies


class Service:
    """What the routes share.

    Args:
        settings: Of the service.
        pools: Copies by model.
        measures: Counted up on the way.
    """

    def __init__(self, settings: Settings, pools: dict[str, Pool], measures: Measures) -> None:
        self.settings, self.pools, self.measures = settings, pools, measures
        self.bodies = Bodies(settings, measures)
        self.stopping = False

    def pool(self, name: str) -> Pool:
        """Return the copies of a model.

        Raises:
            Refusal: There is no such model.
        """
        if name not in self.pools:
            raise Refusal(
                404, "no-such-model", f"there is no model '{name[:64]}' here.{nearest(name[:64], self.pools)}"
            )
        return self.pools[name]

    async def predict(self, request: Request, name: str, order: dict[str, Any]) -> Response:
        """Answer with what a model sees in the request's picture."""
        until = time.monotonic() + self.settings.timeout
        facts = request.state.facts
        facts["model"] = name[:64]
        pool = self.pool(name)
        kind = check_order(request, order, pool)
        if self.stopping:
            raise Refusal(503, "stopping", "the service is about to stop. Try again in a moment.", 5)
        if pool.load >= self.settings.queue:  # told before the body is read; the pool looks again
            raise pool.full()
        with self.bodies.hold() as holding:
            body = await self.bodies.read(request, holding, until)
            order = {**order, "answer": kind, "request_id": request.state.request_id}
            answer = await _unless_gone(request, pool, order, body, until)
            self._count(name, kind, answer)
            facts |= {
                "pixels": answer.pixels,
                "answer": kind,
                "batch": answer.batch,
                "engine": answer.engine,
                "precision": answer.precision,
                "network_ms": round(1000 * answer.seconds, 1),
            }
            return Response(
                answer.payload, media_type=media_type(kind),
                headers={"Cache-Control": "no-store", "Vary": "Accept", "X-Model": name,
                         "X-Engine": f"{answer.engine} {answer.precision}",
                         "Server-Timing": f"network;dur={1000 * answer.seconds:.1f}"},
            )  # fmt: skip

    def _count(self, name: str, kind: Kind, answer: Answer) -> None:
        measures = self.measures
        measures.pictures.labels(name, kind).inc()
        measures.pixels.labels(name).inc(answer.pixels)
        measures.network.labels(name).observe(answer.seconds)
        measures.batches.labels(name).observe(answer.batch)

    def describe(self) -> dict[str, Any]:
        """Return what /v1/models tells."""
        settings = self.settings
        limits = {
            "body_bytes": settings.max_body, "pixels": settings.max_pixels, "seconds": settings.timeout,
            "queue": settings.queue,
        }  # fmt: skip
        models = [describe_model(name, pool) for name, pool in self.pools.items()]
        return {"default": settings.default_model, "models": models, "limits": limits, "fullconv": __version__}


async def _unless_gone(request: Request, pool: Pool, order: dict[str, Any], body: bytes, until: float) -> Answer:
    """Ask the pool, and stop asking when nobody waits for the answer any more.

    Raises:
        ClientDisconnect: The client is gone.
    """
    asked = asyncio.create_task(pool.ask(order, body, max(0.0, until - time.monotonic())))
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({asked, gone}, return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            return asked.result()
        raise ClientDisconnect
    finally:
        gone.cancel()
        asked.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def describe_model(name: str, pool: Pool) -> dict[str, Any]:
    """Return a model in words and numbers."""
    card = pool.card
    assert card is not None  # the service begins when every model has been loaded once
    labels = card.labels()
    classes = [
        {"index": i, "name": name, "color": format_color(color)}
        for i, (name, color) in enumerate(zip(labels.classes, labels.palette, strict=True))
    ]
    return {
        "name": name, "ready": pool.ready > 0, "copies": pool.settings.copies, "variant": card.variant,
        "backbone": card.backbone, "in_channels": card.in_channels, "bands": card.bands, "scale": card.scale,
        "stride": card.stride, "heads": list(card.heads) if card.heads else [], "classes": classes,
        "weights_sha256": card.weights_sha256, "weights_license": card.weights_license, **pool.running,
        "engines": pool.engines,
    }  # fmt: skip


def make_app(service: Service) -> FastAPI:
    """Build the application."""
    app = FastAPI(
        title="fullconv", version=__version__, docs_url=None, redoc_url=None, openapi_url="/openapi.json",
        description="What is where in a picture: a class for every pixel.", redirect_slashes=False,
    )  # fmt: skip

    @app.post("/v1/predict", **describe_predict("predict"))
    async def predict(
        request: Request, tile: Tile = "auto", head: Head = None, scale: Scale = None, answer: Wanted = None,
        include: Include = [],  # noqa: B006  (FastAPI copies it)
    ) -> Response:  # fmt: skip
        """Name the class of every pixel of a picture, by the first model."""
        order = {"tile": tile, "head": head, "scale": scale, "answer": answer, "include": include}
        return await service.predict(request, service.settings.default_model, order)

    @app.post("/v1/predict/{name}", **describe_predict("predict_by"))
    async def predict_by(
        request: Request, name: Name, tile: Tile = "auto", head: Head = None, scale: Scale = None,
        answer: Wanted = None, include: Include = [],  # noqa: B006
    ) -> Response:  # fmt: skip
        """Name the class of every pixel of a picture, by the model of a name."""
        order = {"tile": tile, "head": head, "scale": scale, "answer": answer, "include": include}
        return await service.predict(request, name, order)

    @app.get("/v1/models", operation_id="models", tags=["prediction"],
             **describe_get(MODELS, "Models and limits.", 401))  # fmt: skip
    async def models() -> Response:
        """List the models with their classes, and the limits of the service."""
        return JSONResponse(service.describe(), headers={"Cache-Control": "no-store"})

    _add_probes(app, service)
    add_pages(app)
    _add_error_answers(app)
    _describe(app, service)
    return app


def _describe(app: FastAPI, service: Service) -> None:
    """Let OpenAPI name the models and heads that are served here."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:  # the models are loaded by the time that anybody asks
            heads = {name: list(pool.card.heads or ()) if pool.card else [] for name, pool in service.pools.items()}
            app.openapi_schema = describe_here(plain(), heads, service.settings.token is not None)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _add_probes(app: FastAPI, service: Service) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", tags=["operation"], **describe_get(ALIVE, "It lives."))
    async def healthz() -> Response:
        """Say that the process that listens is alive."""
        return JSONResponse({"status": "ok"})

    described = describe_get(READY, "Every model has a copy that is ready.")
    content = {"application/json": {"schema": READY}}
    described["responses"][503] = {"description": "A model has no copy that is ready.", "content": content}

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", tags=["operation"], **described)
    async def readyz() -> Response:
        """Say whether every model has a copy that is ready."""
        missing = [name for name, pool in service.pools.items() if not pool.ready]
        ready = not missing and not service.stopping
        words = "ok" if ready else "stopping" if service.stopping else "loading"
        headers = {} if ready else {"Retry-After": "2"}
        return JSONResponse({"status": words, "missing": missing}, 200 if ready else 503, headers)

    @app.get("/metrics", tags=["operation"], response_class=Response,
             responses={200: {"content": {"text/plain": {}}}, **describe_errors(401, 403, 421)})  # fmt: skip
    async def metrics() -> Response:
        """Counters in Prometheus' text format."""
        return Response(service.measures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_error_answers(app: FastAPI) -> None:
    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        request.state.facts["code"] = error.code
        return JSONResponse(error.body(request.state.request_id), error.status, error.headers)

    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        words = {
            404: ("not-found", "there is nothing here. /docs tells what there is."),
            405: ("wrong-method", f"this address does not take {request.method[:16]}. /docs tells what it takes."),
        }
        code, message = words.get(error.status_code, ("refused", str(error.detail)))
        answer = await refused(request, Refusal(error.status_code, code, message))
        answer.headers.update(error.headers or {})
        return answer

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "query")
        return await refused(request, Refusal(422, "bad-parameter", f"{place}: {first['msg']}."))

    async def gone(request: Request, error: Exception) -> Response:
        request.state.facts["code"] = "client-gone"
        return Response(status_code=499)

    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(HTTPException, unknown)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(ClientDisconnect, gone)
