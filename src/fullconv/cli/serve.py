"""`fullconv serve`."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from fullconv.cli.console import TerminatedError, status
from fullconv.cli.options import BatchSize, Device, Engine, Precision, check_choice, parse_bytes


def serve(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A model.safetensors, a run folder, or an exported file.")
    ] = None,
    named: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="name=FILE", help="Another model, at /v1/predict/name; repeatable."),
    ] = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 uses any free port.")] = 8000,
    token: Annotated[
        str | None, typer.Option(envvar="FULLCONV_TOKEN", help="Required of requests as 'Authorization: Bearer TOKEN'.")
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Serve anyone who can connect, under any host name.")
    ] = False,
    copies: Annotated[int, typer.Option(min=1, help="Worker processes per model.")] = 1,
    batch_size: BatchSize = 1,
    queue: Annotated[int, typer.Option(min=1, help="Images that may wait per model; more get 503.")] = 64,
    max_body: Annotated[str, typer.Option("--max-body", metavar="SIZE", help="Largest request.")] = "64MB",
    max_pixels: Annotated[int, typer.Option("--max-pixels", min=1, help="Largest image.")] = 100_000_000,
    timeout: Annotated[float, typer.Option(min=0.01, metavar="SECONDS", help="Time limit of a request.")] = 60.0,
    device: Device = "auto",
    precision: Precision = "auto",
    engine: Engine = "auto",
) -> None:
    """Serve MODEL over HTTP.

    POST /v1/predict takes an image; / is a page to drop images on; see /docs for the rest. Ctrl-C and SIGTERM end it after
    the accepted requests.
    """
    from fullconv.serve import Settings, check_access, name_models, run_service

    check_choice("--engine", engine, ("auto", "torch", "openvino", "onnxruntime"))
    check_choice("--precision", precision, ("auto", "fp32", "bf16", "int8"))
    models = name_models(model, named or [])
    check_access(host, token, no_auth)
    settings = Settings(
        models, host, port, token, no_auth, copies, batch_size, queue, parse_bytes(max_body, "--max-body"), max_pixels, timeout,
        device, precision, engine,
    )  # fmt: skip
    if token is not None and len(token) < 8:
        status("The token is short and easy to guess; `openssl rand -hex 16` generates a better one.")
    if no_auth:
        status(f"No token is required: anyone who can connect to {host} can use this service.")
    number = run_service(settings)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise TerminatedError
