"""What ``/metrics`` shows, and the middleware that counts requests.

Each app has a registry of its own. Knows nothing of what the routes do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data.errors import StateError
from data.records import Answer, JobStatus
from service.spans import route_template
from service.telemetry import EngineCollector

if TYPE_CHECKING:
    from service.workspace import Workspace

_JOB_STATUSES: tuple[JobStatus, ...] = ("queued", "running", "succeeded", "failed", "cancelled", "interrupted")
_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counters of one app.

    Args:
        generator: returns what generates now, None before it was started (see ``EngineCollector``).
    """

    def __init__(self, generator: Callable[[], object | None]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(generator))
        self.requests = Counter(
            "ragtune_http_requests", "Requests by route.", ("method", "route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "ragtune_http_request_seconds",
            "Time to the end of the response.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.answers = Counter("ragtune_answers", "Answers by mode.", ("mode", "abstained"), registry=self.registry)
        self.tokens = Counter("ragtune_tokens", "Tokens by kind.", ("kind",), registry=self.registry)
        self.store_up = Gauge("ragtune_store_up", "Whether the database answers.", registry=self.registry)
        self.jobs = Gauge("ragtune_jobs", "Jobs by status.", ("status",), registry=self.registry)

    def count(self, answer: Answer) -> None:
        """Count one finished answer."""
        self.answers.labels(answer.mode, str(answer.abstained).lower()).inc()
        self.tokens.labels("prompt").inc(answer.usage.prompt_tokens)
        self.tokens.labels("cached").inc(answer.usage.cached_tokens)
        self.tokens.labels("completion").inc(answer.usage.completion_tokens)

    def render(self, workspace: Workspace) -> bytes:
        """Return the exposition text, the jobs counted now."""
        try:
            for status in _JOB_STATUSES:
                self.jobs.labels(status).set(len(workspace.store.jobs.list(status, 1000)))
            self.store_up.set(1)
        except StateError:
            self.jobs.clear()  # rather no figure than an old one
            self.store_up.set(0)
        return generate_latest(self.registry)


class MetricsMiddleware:
    """Counts and times every request under its route's path, never under the raw one."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            route = route_template(scope) or "none"
            self._metrics.requests.labels(scope["method"], route, str(status)).inc()
            self._metrics.seconds.labels(scope["method"], route).observe(time.perf_counter() - started)
