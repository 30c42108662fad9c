"""The page on which the API can be browsed and tried: files of our own, nothing inline, and nothing
from elsewhere."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_PAGE = Path(__file__).with_name("page")
_FILES = {"docs": "docs.html", "docs.js": "docs.js", "docs.css": "docs.css"}
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


def routes(prefix: str) -> list[Route]:
    """`/docs` below the prefix, and what it loads; the files are read now."""
    return [_route(f"{prefix}/{name}", _PAGE / file) for name, file in _FILES.items()]


def _route(path: str, file: Path) -> Route:
    content, kind = file.read_bytes(), _KINDS[file.suffix]

    async def serve(request: Request) -> Response:
        return Response(content, headers=_HEADERS, media_type=kind)

    return Route(path, serve)
