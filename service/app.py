"""The HTTP application: routes, the guards in front of them, and the one error handler.

Composition only; what the routes do is in ``routes``, who may talk to them in ``guards``, how errors
read in ``problems``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from functools import cache
from importlib.util import find_spec

from anyio.to_thread import run_sync
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from data.errors import RagtuneError
from service.access import KeyGuard
from service.description import ERRORS, DescribedApp
from service.guards import BodyGuard, HostGuard
from service.hangup import Hangups
from service.metrics import Metrics, MetricsMiddleware
from service.pace import PaceGuard
from service.problems import invalid_request
from service.replies import error_response, problem_response
from service.request_ids import HEADER, RequestIds, current_request_id, problem_for_client
from service.routes import (
    adapters,
    answers,
    blind,
    calibrations,
    collections,
    compare,
    documents,
    evaluations,
    feedback,
    health,
    index,
    jobs,
    keys,
    lineage,
    loop,
    openai,
    page,
    pairs,
    promotions,
    recipes,
    retrievers,
    reviews,
    search,
    system,
    webhooks,
)
from service.runner import JobRunner
from service.settings import LOOPBACK
from service.shadow import Shadow, ShadowGate
from service.spans import TraceRequests, traced
from service.webhooks import WebhookSender
from service.workspace import Workspace

_ROUTERS = (
    *(answers, compare, blind, search, collections, documents, index, reviews, pairs),
    *(
        adapters,
        promotions,
        loop,
        recipes,
        retrievers,
        evaluations,
        calibrations,
        jobs,
        webhooks,
        feedback,
        lineage,
        keys,
        system,
        openai,
    ),
)


def create_app(workspace: Workspace, *, run_jobs: bool = True) -> FastAPI:
    """Return the application over ``workspace``; the caller closes the workspace.

    Args:
        workspace: what the routes work on; it holds the lock on its state directory where jobs are run.
        run_jobs: whether queued jobs are run (in child processes) while the app is up.
    """
    metrics = Metrics(lambda: workspace.started_generator)
    runner, sender = JobRunner(workspace), WebhookSender(workspace)
    tools = _tools(workspace)
    shadow = Shadow(workspace)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if run_jobs:
            await run_sync(runner.start)
            sender.start()
        async with nullcontext() if tools is None else tools.router.lifespan_context(tools):
            yield
        await run_sync(shadow.stop)
        if run_jobs:
            await run_sync(runner.stop)
            await run_sync(sender.stop)

    app = DescribedApp(
        title="ragtune",
        version="1",
        description="Question answering over your own documents, tuned on them.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a path that is no route is refused, whatever it resembles
    )
    app.state.workspace, app.state.runner, app.state.metrics = workspace, runner, metrics
    app.state.shadow, app.state.hangups = shadow, Hangups()
    app.router.routes.extend(_routes().routes)
    if tools is not None:
        app.router.routes.extend(tools.routes)
    _add_guards(app, workspace, metrics, shadow)
    _add_error_handlers(app)
    return app


@cache
def _routes() -> APIRouter:
    """Return every route, made once in a process: what a route takes and gives is worked out at its first request."""
    router = APIRouter()
    router.include_router(page.router)
    router.include_router(health.router, responses=ERRORS)
    for module in _ROUTERS:
        router.include_router(module.router, prefix="/v1", responses=ERRORS)
    return router


def _add_guards(app: FastAPI, workspace: Workspace, metrics: Metrics, shadow: Shadow) -> None:
    """Put the guards in front of every route; the one that is added last stands in front."""
    app.add_middleware(ShadowGate, shadow=shadow)
    app.add_middleware(BodyGuard, max_bytes=workspace.settings.max_body_bytes)
    app.add_middleware(PaceGuard)
    app.add_middleware(KeyGuard, workspace=workspace)
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    if workspace.settings.loopback or workspace.settings.allowed_hosts:
        app.add_middleware(HostGuard, hosts=(*LOOPBACK, *workspace.settings.allowed_hosts))
    if traced():
        app.add_middleware(TraceRequests)
    app.add_middleware(RequestIds)


def _tools(workspace: Workspace) -> Starlette | None:
    """Return the app of the Model Context Protocol; None where its extra is not installed."""
    if find_spec("mcp") is None:
        return None
    from service.mcp_server import http_app, mcp_server

    return http_app(mcp_server(workspace))


def _add_error_handlers(app: FastAPI) -> None:
    """Map every exception to a problem object, here and nowhere else."""

    def ragtune_error(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RagtuneError)
        return error_response(error)

    def validation_error(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return problem_response(invalid_request(list(error.errors())))

    def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        body = {
            "type": {404: "no-such-route", 405: "method-not-allowed"}.get(error.status_code, "http-error"),
            "title": str(error.detail),
            "status": error.status_code,
            "detail": str(error.detail),
            "got": f"{request.method} {request.url.path}",
            "wanted": "",
            "hint": "See /openapi.json for the routes.",
        }
        return problem_response(body, dict(error.headers or {}))

    def unexpected(_request: Request, error: Exception) -> JSONResponse:
        # This stands in front of every guard, RequestIds too.
        return problem_response(problem_for_client(error), {HEADER: current_request_id()})

    app.add_exception_handler(RagtuneError, ragtune_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, unexpected)
