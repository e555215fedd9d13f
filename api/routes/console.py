"""The console: a page for people at ``/``, and its files. All of it is static; what it shows comes from the public API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from flask import Blueprint, Response, abort, request

FOLDER = Path(__file__).resolve().parent.parent / "console"
PAGE = "index.html"

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""Only files of these kinds are served."""

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' data:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
"""No inline script or style, and nothing from or to elsewhere."""

blueprint = Blueprint("console", __name__)


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str


@cache
def _files() -> Mapping[str, _File]:
    """All of them, by their path below the folder. Read once: a name that is not in here does not exist, so that no path
    can leave the folder."""
    found = {}
    for path in sorted(FOLDER.rglob("*")):
        if path.suffix in MEDIA_TYPES:
            content = path.read_bytes()
            name = path.relative_to(FOLDER).as_posix()
            found[name] = _File(content, MEDIA_TYPES[path.suffix], sha256(content).hexdigest()[:20])
    return found


@blueprint.get("/")
def page() -> Response:
    return _answer(PAGE)


@blueprint.get("/console/<path:name>")
def asset(name: str) -> Response:
    return _answer(name)


def _answer(name: str) -> Response:
    """A file, or 304. Browsers ask each time, so that the modules of one page are always of one version."""
    file = _files().get(name)
    if file is None:
        abort(404)
    response = Response(file.content, content_type=file.media_type)
    response.headers["Cache-Control"] = "no-cache"
    response.set_etag(file.etag)
    response.make_conditional(request)
    return response
