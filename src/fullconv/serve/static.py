"""The web page: its files, read once at the start."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import PurePath

from fastapi import FastAPI, Request, Response

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
}
PAGES = {"index.html": "/", "docs.html": "/docs"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy: nothing from outside, nothing inline."""


def read_files() -> dict[str, bytes]:
    """Return the page's files by name."""
    folder = resources.files("fullconv.serve") / "page"
    return {file.name: file.read_bytes() for file in folder.iterdir() if PurePath(file.name).suffix in MEDIA_TYPES}


def add_pages(app: FastAPI) -> None:
    """Add routes for the page, its files, and the documentation."""
    for name, content in read_files().items():
        _add_file(app, PAGES.get(name, f"/page/{name}"), MEDIA_TYPES[PurePath(name).suffix], content)


def _add_file(app: FastAPI, path: str, media_type: str, content: bytes) -> None:
    etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache", "Content-Security-Policy": POLICY}

    async def send_file(request: Request) -> Response:
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    app.add_api_route(path, send_file, methods=["GET", "HEAD"], include_in_schema=False)
