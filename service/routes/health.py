"""``/healthz``, ``/readyz`` and ``/metrics``: for machines that watch, without a key."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from data.errors import RagtuneError
from service.deps import WorkspaceDep
from service.problems import problem

router = APIRouter(tags=["health"])


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
