"""The HTTP application: routes, the one error handler, and who may talk to it.

Composition only; what the routes do is in ``routes``, how errors read is in ``problems``.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from anyio.to_thread import run_sync
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from data.errors import EngineBusy, RagtuneError, Unauthorized
from service.deps import require_key
from service.metrics import Metrics, MetricsMiddleware
from service.problems import MEDIA_TYPE, invalid_request, problem
from service.routes import (
    adapters,
    answers,
    compare,
    documents,
    evaluations,
    feedback,
    health,
    index,
    jobs,
    openai,
    pairs,
    search,
)
from service.runner import JobRunner
from service.settings import LOOPBACK
from service.workspace import Workspace

log = logging.getLogger(__name__)

_ROUTERS = (answers, compare, search, documents, index, pairs, adapters, evaluations, jobs, feedback, openai)
_BUSY_RETRY_S = 2


def create_app(workspace: Workspace, *, run_jobs: bool = True) -> FastAPI:
    """Return the application over ``workspace``; the caller closes the workspace.

    Args:
        workspace: what the routes work on; it holds the lock on its state directory where jobs are run.
        run_jobs: whether queued jobs are run (in child processes) while the app is up.
    """
    metrics = Metrics()
    runner = JobRunner(workspace)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if run_jobs:
            await run_sync(runner.start)
        yield
        if run_jobs:
            await run_sync(runner.stop)

    app = FastAPI(
        title="ragtune",
        version="1",
        description="Question answering over your own documents, tuned on them.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.workspace, app.state.runner, app.state.metrics = workspace, runner, metrics
    app.include_router(health.router)
    for module in _ROUTERS:
        app.include_router(module.router, prefix="/v1", dependencies=[Depends(require_key)])
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    if workspace.settings.loopback or workspace.settings.allowed_hosts:
        app.add_middleware(HostGuard, hosts=(*LOOPBACK, *workspace.settings.allowed_hosts))
    _add_error_handlers(app)
    return app


class HostGuard:
    """Refuses a foreign Host header (DNS rebinding) and another site's pages (cross-site request forgery).

    A browser names the page a request comes from in Origin: uploads and posts without a body need no
    preflight, so a page anywhere could send them here.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 421."""
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            host = headers.get(b"host", b"").decode("latin-1").lower()
            origin = headers.get(b"origin", b"").decode("latin-1").lower()
            if _host_name(host) not in self._hosts:
                await _refuse_host(host, self._hosts)(scope, receive, send)
                return
            if origin and _host_name(origin.partition("://")[2]) not in self._hosts:
                await _refuse_origin(origin)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host[1 : host.find("]")]
    return host.rsplit(":", 1)[0] if host.count(":") == 1 else host


def _refuse_host(host: str, hosts: frozenset[str]) -> JSONResponse:
    return _response(
        {
            "type": "wrong-host",
            "title": "The Host header names another server.",
            "status": 421,
            "detail": "This server listens on this machine only and was addressed by another name",
            "got": host[:200],
            "wanted": ", ".join(sorted(hosts)),
            "hint": "Use http://127.0.0.1, or add the name to RAGTUNE_ALLOWED_HOSTS.",
        }
    )


def _refuse_origin(origin: str) -> JSONResponse:
    return _response(
        {
            "type": "wrong-origin",
            "title": "The request comes from another site's page.",
            "status": 403,
            "detail": "A page of another site sent this request",
            "got": origin[:200],
            "wanted": "a request from this server's own pages, or from no page",
            "hint": "Call the API from a program, or add the site's host name to RAGTUNE_ALLOWED_HOSTS.",
        }
    )


def _response(body: dict[str, Any], headers: dict[str, str] | None = None) -> JSONResponse:
    # OpenAI's clients show the member called message, and no other.
    got = "" if body["got"] is None else f"Got: {body['got']}."
    message = " ".join(filter(None, (body["detail"], got, body["hint"])))
    return JSONResponse(
        {**body, "message": message}, status_code=body["status"], headers=headers, media_type=MEDIA_TYPE
    )


def _add_error_handlers(app: FastAPI) -> None:
    """Map every exception to a problem object, here and nowhere else."""

    def ragtune_error(_request: Request, error: Exception) -> JSONResponse:
        headers = {}
        if isinstance(error, Unauthorized):
            headers["WWW-Authenticate"] = "Bearer"
        if isinstance(error, EngineBusy):
            headers["Retry-After"] = str(_BUSY_RETRY_S)
        return _response(problem(error), headers)

    def validation_error(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return _response(invalid_request(list(error.errors())))

    def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        body = {
            "type": {404: "no-such-route", 405: "method-not-allowed"}.get(error.status_code, "http-error"),
            "title": str(error.detail),
            "status": error.status_code,
            "detail": str(error.detail),
            "got": f"{request.method} {request.url.path}",
            "wanted": "",
            "hint": "See / for the routes.",
        }
        return _response(body, dict(error.headers or {}))

    def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _response(problem(error))

    app.add_exception_handler(RagtuneError, ragtune_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, unexpected)
