"""Spans: what a request, a search, a generation or a job was and how long it took, for whoever traces.

Off unless a tracer was installed (``traces``); then a span costs a comparison. Names and attributes are those of
OpenTelemetry's conventions for HTTP (https://github.com/open-telemetry/semantic-conventions v1.41, docs/http) and
for generative AI (https://github.com/open-telemetry/semantic-conventions-genai, docs/gen-ai/gen-ai-spans.md, status
Development); ``ragtune.*`` is ours. No text of a question, a passage or an answer is in them unless the tracer says so.
Knows nothing of OpenTelemetry's library.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Literal, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data.errors import RagtuneError
from service.request_ids import current_request_id
from service.settings import collector, traces_hold_texts

if TYPE_CHECKING:
    from data.protocols import Delta, GenerationRequest, GenerationResult, Generator
    from data.records import Job
    from retrieval.rerank import Reranker
    from retrieval.retriever import Retrieved

log = logging.getLogger(__name__)

Kind = Literal["server", "client", "internal"]
Attributes = Mapping[str, Any]


class Span(Protocol):
    """Something that is going on."""

    def note(self, attributes: Attributes, name: str | None = None) -> None:
        """Add attributes; None values are left out. ``name`` renames it."""

    def fail(self, kind: str) -> None:
        """Say that it ended in an error of this kind."""


class Tracer(Protocol):
    """Begins spans."""

    @property
    def texts(self) -> bool:
        """Whether questions, passages and answers may be recorded."""

    def span(
        self, name: str, attributes: Attributes, kind: Kind, *, current: bool, headers: Mapping[str, str] | None = None
    ) -> AbstractContextManager[Span]:
        """Begin a span that ends with the block.

        Args:
            name: of the span.
            attributes: None values are left out.
            kind: server answers a request, client asks another process.
            current: whether what begins within the block is part of it. Not for a block that a generator yields from:
                its steps may run in different threads.
            headers: of a request, which may say what it is part of elsewhere (W3C Trace Context).
        """


class _Installed:
    """The tracer of this process, as its log is one of the process too."""

    tracer: Tracer | None = None


def install(tracer: Tracer | None) -> None:
    """Let ``tracer`` begin the spans of this process; None turns them off."""
    _Installed.tracer = tracer


def traced() -> bool:
    """Tell whether anybody traces."""
    return _Installed.tracer is not None


def tracing() -> AbstractContextManager[object]:
    """Trace this process until the block ends, if a collector is named; else import nothing and do nothing.

    The variables are often set for a whole machine, so what keeps us from sending is a warning and no error.
    """
    to, protocol = collector()
    if to is None:
        return nullcontext()
    if protocol != "http/protobuf":
        log.warning(
            "no traces are sent to %s: it is to be spoken to in %s, and this speaks http/protobuf", to, protocol
        )
        return nullcontext()
    try:
        from service.traces import sending
    except ModuleNotFoundError:
        log.warning("no traces are sent to %s: next, pip install 'ragtune[telemetry]'", to)
        return nullcontext()
    return sending(texts=traces_hold_texts())


@contextmanager
def _ending(span: Span) -> Iterator[None]:
    """Say of a span what it failed with, by kind alone: an error's text may hold what somebody asked."""
    try:
        yield
    except Exception as error:
        span.fail(error.type if isinstance(error, RagtuneError) else type(error).__qualname__)
        raise


class TraceRequests:
    """Makes a span of every request, to the end of its response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on within a span."""
        tracer = _Installed.tracer
        if scope["type"] != "http" or tracer is None:
            await self._app(scope, receive, send)
            return
        method = scope["method"]
        attributes = {
            "http.request.method": method,
            "url.path": scope["path"],
            "url.scheme": scope["scheme"],
            "ragtune.request.id": current_request_id(),
        }
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with tracer.span(method, attributes, "server", current=True, headers=headers) as span, _ending(span):

            async def watch(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.note({"http.response.status_code": message["status"]})
                    if message["status"] >= 500:
                        span.fail(str(message["status"]))
                await send(message)

            try:
                await self._app(scope, receive, watch)
            finally:
                route = route_template(scope)
                span.note({"http.route": route}, name=f"{method} {route}" if route else None)


def route_template(scope: Scope) -> str | None:
    """Return the whole path's template, None where no route took the request."""
    template: str | None = getattr(scope.get("route"), "path", None)
    # FastAPI's included routers know nothing of the prefix that they are included under.
    inside = template is not None and scope["path"].startswith("/v1/") and not template.startswith("/v1/")
    return f"/v1{template}" if inside else template


class Told:
    """What a search or a generation came to, for its span."""

    found: Retrieved | None = None
    result: GenerationResult | None = None


@contextmanager
def retrieval_span(query: str, collection: str, top_k: int, method: str) -> Iterator[Told]:
    """Make a span of a search; what was found is told to what is yielded."""
    tracer, told = _Installed.tracer, Told()
    if tracer is None:
        yield told
        return
    attributes = {
        "gen_ai.operation.name": "retrieval",
        "gen_ai.provider.name": "ragtune",
        "gen_ai.data_source.id": collection,
        "gen_ai.retrieval.top_k": top_k,
        "gen_ai.retrieval.query.text": query if tracer.texts else None,
        "ragtune.retrieval.method": method,
    }
    with tracer.span(f"retrieval {collection}", attributes, "internal", current=True) as span, _ending(span):
        yield told
        if told.found is not None:
            documents = [{"id": each.chunk.id, "score": float(each.score)} for each in told.found.passages]
            span.note(
                {
                    "ragtune.retrieval.passages": len(documents),
                    "ragtune.index.generation": told.found.generation,
                    "gen_ai.retrieval.documents": json.dumps(documents) if tracer.texts else None,
                }
            )


class _TracedReranker:
    """A reranker with a span of each use."""

    def __init__(self, reranker: Reranker, tracer: Tracer) -> None:
        self._reranker = reranker
        self._tracer = tracer

    @property
    def share(self) -> float:
        """As the reranker's own."""
        return self._reranker.share

    def scores(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """Return the reranker's scores."""
        about = {"ragtune.rerank.by": type(self._reranker).__name__, "ragtune.rerank.passages": len(texts)}
        with self._tracer.span("rerank", about, "internal", current=True) as span, _ending(span):
            return self._reranker.scores(query, texts)


def traced_reranker(reranker: Reranker) -> Reranker:
    """Return ``reranker`` with spans, itself where nobody traces."""
    tracer = _Installed.tracer
    return reranker if tracer is None else _TracedReranker(reranker, tracer)


@contextmanager
def generation_span(
    generator: Generator, request: GenerationRequest, *, streamed: bool, purpose: str = "answer"
) -> Iterator[Told]:
    """Make a span of a generation; its result is told to what is yielded."""
    tracer, told = _Installed.tracer, Told()
    if tracer is None:
        yield told
        return
    # A tuned model has a name of its own; several adapters are named by the first.
    model = request.adapter or generator.model
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "ragtune",
        "gen_ai.request.model": model,
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.request.temperature": request.temperature,
        "gen_ai.request.top_p": request.top_p,
        "gen_ai.request.seed": request.seed,
        "gen_ai.request.stream": streamed or None,
        "gen_ai.output.type": "json" if request.json_schema is not None else "text",
        "gen_ai.input.messages": _messages(request) if tracer.texts else None,
        "ragtune.base_model": generator.model,
        "ragtune.purpose": purpose,
    }
    # The engine is another process.
    with tracer.span(f"chat {model}", attributes, "client", current=False) as span, _ending(span):
        try:
            yield told
        finally:  # who reads a stream may close it when it has what it wanted
            if told.result is not None:
                span.note(_usage(told.result, texts=tracer.texts))


class _TracedGenerator:
    """A generator with a span of each use, all part of what was going on when this was made, in whatever thread."""

    def __init__(self, generator: Generator, purpose: str) -> None:
        self._generator = generator
        self._purpose = purpose
        self._around = copy_context()

    @property
    def model(self) -> str:
        """As the generator's own."""
        return self._generator.model

    @property
    def takes_grammars(self) -> bool:
        """As the generator's own; one that does not say takes them."""
        return bool(getattr(self._generator, "takes_grammars", True))

    def generate(self, request: GenerationRequest) -> GenerationResult:
        """Generate to the end; raises as ``Generator.generate``."""
        return self._around.copy().run(self._spanned, request)

    def _spanned(self, request: GenerationRequest) -> GenerationResult:
        with generation_span(self._generator, request, streamed=False, purpose=self._purpose) as told:
            result = told.result = self._generator.generate(request)
        return result

    def stream(self, request: GenerationRequest) -> Iterator[Delta]:
        """Yield text as it comes, without a span: what is traced here reads whole replies."""
        return self._generator.stream(request)


def traced_generator(generator: Generator, purpose: str) -> Generator:
    """Return ``generator`` with spans that say what it is used for, itself where nobody traces."""
    return generator if _Installed.tracer is None else _TracedGenerator(generator, purpose)


def _usage(result: GenerationResult, *, texts: bool) -> dict[str, Any]:
    parts = [{"type": "text", "content": result.text}]
    said = [{"role": "assistant", "parts": parts, "finish_reason": result.finish_reason}]
    return {
        "gen_ai.usage.input_tokens": result.usage.prompt_tokens,
        "gen_ai.usage.cache_read.input_tokens": result.usage.cached_tokens,
        "gen_ai.usage.output_tokens": result.usage.completion_tokens,
        "gen_ai.response.finish_reasons": [result.finish_reason],
        "gen_ai.output.messages": json.dumps(said, ensure_ascii=False) if texts else None,
        "ragtune.queue_ms": result.queued_ms,
        "ragtune.prefill_ms": result.prefill_ms,
        "ragtune.generate_ms": result.generate_ms,
    }


def _messages(request: GenerationRequest) -> str:
    shown = [
        {"role": each.role, "parts": [{"type": "text", "content": part} for part in each.parts]}
        for each in request.messages
    ]
    return json.dumps(shown, ensure_ascii=False)


@contextmanager
def job_span(job: Job) -> Iterator[None]:
    """Make a span of the run of a job."""
    tracer = _Installed.tracer
    if tracer is None:
        yield
        return
    about = {
        "ragtune.job.id": job.id,
        "ragtune.job.kind": job.kind,
        "ragtune.collection": job.inputs.get("collection"),
    }
    with tracer.span(f"job {job.kind}", about, "internal", current=True) as span, _ending(span):
        yield
