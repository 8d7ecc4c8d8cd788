"""``/`` and ``/web``: the web page. It needs no key to be read; the routes that it calls do."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from service.assets import PAGE, page_assets

router = APIRouter(include_in_schema=False)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Nothing inline, nothing from elsewhere. Without a trusted type no script can turn a string into HTML either."""
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_FOR_EVER = "public, max-age=31536000, immutable"
"""The path of such a file changes with its content."""


@router.api_route(PAGE, methods=["GET", "HEAD"])
@router.api_route("/web/{path:path}", methods=["GET", "HEAD"])
def page_file(request: Request) -> Response:
    """Return a file of the page; 304 where the client has it already."""
    path = request.url.path
    asset = page_assets().get(path)
    if asset is None:
        raise HTTPException(404, "No such file of the page; it may be of another release: load the page again")
    headers = {**_HEADERS, "ETag": asset.etag, "Cache-Control": "no-cache" if path == PAGE else _FOR_EVER}
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(asset.content, media_type=asset.media_type, headers=headers)
