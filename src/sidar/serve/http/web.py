"""The page: a handful of files beside this one, served under a policy that lets them run nothing
else.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

from fastapi.responses import JSONResponse, Response

#: The page runs this server's own scripts and styles only, so product data can never become either.
#: Pictures may come from anywhere, because product pictures do; nothing else is fetched from
#: elsewhere.
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "frame-src 'self'; img-src 'self' data: https: http:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


@cache
def _page_files() -> dict[str, str]:
    """The page's files by name; only these can be asked for, whatever a path says."""
    folder = files("sidar.serve.http") / "page"
    return {
        file.name: file.read_text(encoding="utf-8")
        for file in folder.iterdir()
        if Path(file.name).suffix in _TYPES
    }


def page_file(name: str) -> Response:
    """One of the page's files, or 404 in words."""
    if name not in _page_files():
        return JSONResponse({"error": f"there is no page file {name!r}"}, 404)
    headers = {
        "Content-Security-Policy": CONTENT_POLICY,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
    return Response(_page_files()[name], media_type=_TYPES[Path(name).suffix], headers=headers)
