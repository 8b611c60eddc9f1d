"""The page and its files: read once at the start, and sent under fixed names."""

from __future__ import annotations

import hashlib
from importlib import resources

from fastapi import FastAPI, Request, Response

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
}
PAGES = {"/": "index.html", "/docs": "docs.html"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing from outside, nothing inline."""


def read_files() -> dict[str, bytes]:
    """Return the files of the page by name."""
    folder = resources.files("fullconv.serve") / "page"
    return {file.name: file.read_bytes() for file in folder.iterdir() if _suffix(file.name) in TYPES}


def add_pages(app: FastAPI) -> None:
    """Add the page, its files, and the documentation."""
    for name, content in read_files().items():
        if _suffix(name) != ".html":
            _add(app, f"/page/{name}", name, content)
        for path, page in PAGES.items():
            if page == name:
                _add(app, path, name, content)


def _add(app: FastAPI, path: str, name: str, content: bytes) -> None:
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache", "Content-Security-Policy": POLICY}

    async def send(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=TYPES[_suffix(name)], headers=headers)

    app.add_api_route(path, send, methods=["GET", "HEAD"], include_in_schema=False)


def _suffix(name: str) -> str:
    return name[name.rfind(".") :] if "." in name else ""
