"""The HTTP service: one process handles HTTP, and worker processes compute.

The process that listens loads no torch. It reads a request, sends its bytes to a worker process with the model, and returns
the result. Images are decoded and computed in the workers only (`worker`), so a crash there affects no other request.
"""

from __future__ import annotations

from fullconv.serve.settings import Settings, check_access, name_models

__all__ = ["Settings", "check_access", "name_models", "run_service"]


def run_service(settings: Settings) -> int:
    """Serve until a signal ends the service; returns the signal's number."""
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
