"""The command that serves a model."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from fullconv.cli.console import TerminatedError, choose, say
from fullconv.cli.options import Device, Engine, Precision


def serve(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A model.safetensors, a run folder, or an exported file.")
    ] = None,
    named: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="name=FILE", help="One more model, at /v1/predict/name. Repeatable."),
    ] = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar="FULLCONV_TOKEN", help="What requests must carry as 'Authorization: Bearer TOKEN'."),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Let everybody ask who reaches it, under any host name.")
    ] = False,
    copies: Annotated[int, typer.Option(min=1, help="Processes a model.")] = 1,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Pictures of one size that go through the network together.")
    ] = 1,
    queue: Annotated[int, typer.Option(min=1, help="Pictures a model that may wait; more get 503.")] = 64,
    max_body: Annotated[str, typer.Option("--max-body", metavar="SIZE", help="Largest request.")] = "64MB",
    max_pixels: Annotated[int, typer.Option("--max-pixels", min=1, help="Largest picture.")] = 100_000_000,
    timeout: Annotated[float, typer.Option(min=0.01, metavar="SECONDS", help="Longest time for a request.")] = 60.0,
    device: Device = "auto",
    precision: Precision = "auto",
    engine: Engine = "auto",
) -> None:
    """Answer over HTTP what MODEL sees in pictures.

    POST /v1/predict takes a picture; / is a page to drop pictures on; /docs tells the rest. Ctrl-C and SIGTERM end it
    when what was accepted is answered.
    """
    from fullconv.cli.use import parse_bytes
    from fullconv.serve import Settings, check_access, name_models, run_service

    choose("--engine", engine, ("auto", "torch", "openvino", "onnxruntime"))
    choose("--precision", precision, ("auto", "fp32", "bf16", "int8"))
    models = name_models(model, named or [])
    check_access(host, token, no_auth)
    settings = Settings(
        models, host, port, token, no_auth, copies, batch_size, queue, parse_bytes(max_body, "--max-body"), max_pixels, timeout,
        device, precision, engine,
    )  # fmt: skip
    if token is not None and len(token) < 8:
        say("The token is short and soon guessed; `openssl rand -hex 16` makes a better one.")
    if no_auth:
        say(f"No token is wanted: everybody who reaches {host} may use this service.")
    number = run_service(settings)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise TerminatedError
