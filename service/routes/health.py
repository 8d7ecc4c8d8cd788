"""``/healthz``, ``/readyz``, ``/metrics`` and ``/``: for machines that watch, without a key."""

from __future__ import annotations

from html import escape
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from data.errors import RagtuneError
from service.deps import WorkspaceDep
from service.problems import problem

router = APIRouter(tags=["health"])

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
# FastAPI's own /docs loads its scripts from another host; this page loads nothing.
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>ragtune</title><style>body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem;
color-scheme:light dark}td{padding:.2rem .8rem .2rem 0;vertical-align:top}td:nth-child(-n+2){font-family:monospace}
</style><h1>ragtune</h1><p>The API of this server; <a href="/openapi.json">openapi.json</a> describes every field.
<table>ROWS</table></html>
"""


@router.get("/", include_in_schema=False)
def root(request: Request) -> HTMLResponse:
    """List the routes for a browser, from the application's own OpenAPI document."""
    rows = [
        f"<tr><td>{method.upper()}<td>{escape(path)}<td>{escape(operation.get('description', '').split(chr(10))[0])}"
        for path, operations in request.app.openapi()["paths"].items()
        for method, operation in operations.items()
    ]
    return HTMLResponse(_PAGE.replace("ROWS", "".join(rows)), headers={"Content-Security-Policy": _POLICY})


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """Tell that the process answers."""
    return {"status": "ok"}


@router.get("/readyz", response_model=None)
def readyz(workspace: WorkspaceDep) -> Response:
    """Tell whether questions can be answered: the store opens, the model is known, the engine runs."""
    checks: dict[str, Any] = {}
    for name, check in (
        ("store", workspace.store.collections.names),
        ("model", lambda: workspace.model),
        ("engine", workspace.check_engine),
    ):
        try:
            check()
            checks[name] = "ok"
        except RagtuneError as error:
            checks[name] = problem(error)
    ready = all(state == "ok" for state in checks.values())
    return JSONResponse({"status": "ready" if ready else "not ready", "checks": checks}, 200 if ready else 503)


@router.get("/metrics", response_class=Response)
def metrics(request: Request, workspace: WorkspaceDep) -> Response:
    """Return the Prometheus metrics."""
    text = request.app.state.metrics.render(workspace)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
