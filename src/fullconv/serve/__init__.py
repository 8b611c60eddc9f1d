"""The service: one process answers HTTP, and one a model copy computes.

The process that listens loads no torch. It reads a request, hands its bytes to a copy of the model, and passes the answer
on; what decodes and computes runs in the copy (`worker`), so that a crash there takes nobody else with it.
"""

from __future__ import annotations

from fullconv.serve.settings import Settings, name_models

__all__ = ["Settings", "name_models", "run_service"]


def run_service(settings: Settings) -> int:
    """Serve until a signal ends it; returns the signal's number.

    Raises:
        MissingExtraError: The extra is not installed.
        FullconvError: A model cannot be loaded, or the address cannot be used.
    """
    from fullconv.errors import MissingExtraError

    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(str(error.name).split(".")[0], "serve", "fullconv serve") from error
    from fullconv.serve.server import run

    return run(settings)
