"""Sends spans to an OpenTelemetry collector, configured by the standard ``OTEL_*`` variables (extra ``telemetry``).

The library reads them itself: where spans go and with which headers (``OTEL_EXPORTER_OTLP_*``), how many are kept
(``OTEL_TRACES_SAMPLER``, ``OTEL_BSP_*``), what this service is called (``OTEL_SERVICE_NAME``,
``OTEL_RESOURCE_ATTRIBUTES``). ``settings`` decides whether this module is imported at all. Knows nothing of what the
spans are about.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.spans import Attributes, Kind, Span, install

_KINDS: dict[Kind, trace.SpanKind] = {
    "server": trace.SpanKind.SERVER,
    "client": trace.SpanKind.CLIENT,
    "internal": trace.SpanKind.INTERNAL,
}
_UNNAMED = "unknown_service"
"""How the library calls a service that nobody named."""
FLUSH_S = 2.0
"""How long the end of the process waits for what is left to be sent."""


class _Span:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def note(self, attributes: Attributes, name: str | None = None) -> None:
        self._span.set_attributes(_given(attributes))
        if name is not None:
            self._span.update_name(name)

    def fail(self, kind: str) -> None:
        self._span.set_attribute("error.type", kind)
        self._span.set_status(trace.StatusCode.ERROR)


class OtlpTracer:
    """Begins spans of one provider."""

    def __init__(self, provider: TracerProvider, *, texts: bool) -> None:
        self._tracer = provider.get_tracer("ragtune", version("ragtune"))
        self._texts = texts
        self._headers = TraceContextTextMapPropagator()

    @property
    def texts(self) -> bool:
        """Whether questions, passages and answers may be recorded."""
        return self._texts

    @contextmanager
    def span(
        self, name: str, attributes: Attributes, kind: Kind, *, current: bool, headers: Mapping[str, str] | None = None
    ) -> Iterator[Span]:
        """Begin a span that ends with the block, as ``service.spans.Tracer`` says."""
        context = None if headers is None else self._headers.extract(headers)
        span = self._tracer.start_span(name, context, _KINDS[kind], _given(attributes))
        try:
            if current:
                # What an exception says may be somebody's text: ``spans`` tells its kind.
                with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                    yield _Span(span)
            else:
                yield _Span(span)
        finally:
            span.end()


def _given(attributes: Attributes) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


@contextmanager
def sending(exporter: SpanExporter | None = None, *, texts: bool = False) -> Iterator[TracerProvider]:
    """Send the spans of this process until the block ends; then what was not sent yet.

    Args:
        exporter: where they go; None takes the OTLP exporter over HTTP that the environment configures.
        texts: whether questions, passages and answers are in them.
    """
    if exporter is None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter()
    resource = Resource.create({SERVICE_VERSION: version("ragtune")})
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith(_UNNAMED):
        resource = resource.merge(Resource({SERVICE_NAME: "ragtune"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    install(OtlpTracer(provider, texts=texts))
    try:
        yield provider
    finally:
        install(None)
        # It sends what is left, and waits for a collector that does not answer: longer than a stop may take.
        ending = threading.Thread(target=provider.shutdown, name="traces", daemon=True)
        ending.start()
        ending.join(FLUSH_S)
