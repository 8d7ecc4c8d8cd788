"""Spans as the SDK's in-memory exporter gets them, and as a collector gets them over OTLP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from data.errors import EngineTimeout
from service.jobs import run_job, submit
from service.spans import tracing
from service.traces import sending
from tests.service.conftest import open_client

QUESTION = "When was the lighthouse of Orrin built?"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@contextmanager
def recorded(*, texts: bool = False) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    with sending(InMemorySpanExporter(), texts=texts) as provider:
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        yield exporter


def spans_of(exporter):
    return {span.name: span for span in exporter.get_finished_spans()}


@pytest.mark.parametrize("streamed", [False, True])
def test_an_answer_is_a_request_with_a_search_and_a_generation(indexed, streamed):
    with recorded() as exporter, open_client(indexed) as client:
        sent = {"question": QUESTION, "stream": streamed, "top_k": 2, "max_tokens": 9}
        reply = client.post("/v1/answers", json=sent, headers={"traceparent": PARENT})
    found = spans_of(exporter)
    request, search, chat = (found[name] for name in ("POST /v1/answers", "retrieval default", "chat scripted"))
    assert (request.kind, search.kind, chat.kind) == (SpanKind.SERVER, SpanKind.INTERNAL, SpanKind.CLIENT)
    assert f"{request.context.trace_id:032x}" == PARENT.split("-")[1], "what asked goes on"
    assert [span.parent.span_id for span in (search, chat)] == [request.context.span_id] * 2
    assert request.attributes["http.route"] == "/v1/answers"
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["ragtune.request.id"] == reply.headers["X-Request-ID"]
    assert (search.attributes["gen_ai.operation.name"], search.attributes["gen_ai.retrieval.top_k"]) == ("retrieval", 2)
    about = chat.attributes
    assert (about["gen_ai.operation.name"], about["gen_ai.request.model"]) == ("chat", "scripted")
    assert (about["gen_ai.request.max_tokens"], about["gen_ai.request.temperature"]) == (9, 0.0)
    assert about["gen_ai.usage.output_tokens"] == 2
    assert about["gen_ai.usage.input_tokens"] > 20
    assert about["gen_ai.response.finish_reasons"] == ("stop",)


def test_no_text_is_recorded_unless_it_is_switched_on(indexed):
    for texts in (False, True):
        with recorded(texts=texts) as exporter, open_client(indexed) as client:
            client.post("/v1/answers", json={"question": QUESTION})
        told = json.dumps([json.loads(span.to_json()) for span in exporter.get_finished_spans()])
        assert ("Orrin" in told) == texts
        assert ("forty-two" in told) == texts
        if texts:
            said = json.loads(spans_of(exporter)["chat scripted"].attributes["gen_ai.output.messages"])
            parts = [{"type": "text", "content": "forty-two [1]"}]
            assert said == [{"role": "assistant", "parts": parts, "finish_reason": "stop"}]


def test_an_error_is_told_by_its_kind_alone(indexed, generator):
    generator.error = EngineTimeout("No end within 1 s", got="secret")
    with recorded() as exporter, open_client(indexed) as client:
        client.post("/v1/answers", json={"question": QUESTION})
    found = spans_of(exporter)
    chat, request = found["chat scripted"], found["POST /v1/answers"]
    assert (chat.status.status_code, chat.attributes["error.type"]) == (StatusCode.ERROR, generator.error.type)
    assert request.attributes["error.type"] == str(request.attributes["http.response.status_code"])
    assert "secret" not in chat.to_json() + request.to_json()
    assert chat.events == ()


def test_what_the_client_can_correct_is_no_error(indexed):
    with recorded() as exporter, open_client(indexed) as client:
        client.post("/v1/answers", json={"question": ""})
    assert spans_of(exporter)["POST /v1/answers"].status.status_code is StatusCode.UNSET


def test_a_search_and_its_reranker(indexed, generator, monkeypatch):
    class Backwards:
        share = 1.0

        def scores(self, query, texts):
            return [float(-n) for n in range(len(texts))]

    monkeypatch.setattr("service.workspace.likelihood_reranker", lambda _generator: Backwards())
    asked = {"query": QUESTION, "top_k": 2, "rerank": "likelihood"}
    with recorded() as exporter, open_client(indexed) as client:
        assert client.post("/v1/search", json=asked).status_code == 200
    found = spans_of(exporter)
    assert found["rerank"].attributes["ragtune.rerank.by"] == "Backwards"
    assert found["rerank"].parent.span_id == found["retrieval default"].context.span_id


def test_a_job(workspace):
    with recorded() as exporter:
        run_job(workspace, submit(workspace.store, "ingest", {"paths": ["/does/not/exist"]}).id)
    span = spans_of(exporter)["job ingest"]
    assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, "invalid-request")


def test_what_is_asked_for_pairs_is_part_of_their_job(indexed, generator):
    with recorded() as exporter:
        job = run_job(indexed, submit(indexed.store, "pairs", {"limit": 3, "faq": False}).id)
    assert job.status == "succeeded", job.error
    spans = exporter.get_finished_spans()
    (whole,) = [span for span in spans if span.name == "job pairs"]
    asked = [span for span in spans if span.name == "chat scripted"]
    assert len(asked) == len(generator.requests) > 0
    assert {span.attributes["gen_ai.operation.name"] for span in asked} == {"chat"}
    assert {span.attributes["ragtune.purpose"] for span in asked} <= {"pair", "check"}
    assert {span.parent.span_id for span in asked} == {whole.context.span_id}, "its threads' spans too"
    assert all(span.attributes["gen_ai.usage.output_tokens"] > 0 for span in asked)


def test_off_it_costs_no_import(tmp_path):
    code = (
        "import sys\nfrom service.spans import tracing\nimport service.app\n"
        "with tracing(): pass\nassert not [m for m in sys.modules if m.startswith('opentelemetry.sdk')]"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], env=environment)


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """Listen as a collector does; yields the address and what came."""
    came: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert (self.path, self.headers["x-team"]) == ("/v1/traces", "docs")
            came.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", came
        finally:
            server.shutdown()
            thread.join()


def test_a_collector_named_by_the_standard_variables_gets_them(indexed, monkeypatch):
    with collector() as (url, came):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=docs")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "answers")
        with tracing(), open_client(indexed) as client:
            client.post("/v1/answers", json={"question": QUESTION})
        spans = [
            span for sent in came for each in sent.resource_spans for scope in each.scope_spans for span in scope.spans
        ]
        assert {"POST /v1/answers", "retrieval default", "chat scripted"} <= {span.name for span in spans}
        names = {each.key: each.value.string_value for each in came[0].resource_spans[0].resource.attributes}
        assert names["service.name"] == "answers"


TURNED_OFF = (
    ("OTEL_SDK_DISABLED", "true"),
    ("OTEL_TRACES_EXPORTER", "none"),
    ("OTEL_TRACES_EXPORTER", "console"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
)


@pytest.mark.parametrize(("name", "value"), TURNED_OFF)
def test_what_turns_it_off_sends_nothing(indexed, monkeypatch, name, value):
    with collector() as (url, came):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=docs")
        monkeypatch.setenv(name, value)
        with tracing(), open_client(indexed) as client:
            assert client.post("/v1/answers", json={"question": QUESTION}).status_code == 200
    assert came == []


def test_without_the_library_it_warns_and_serves(indexed, monkeypatch, caplog):
    """The variables are set for whole machines, whose services must not stop for want of a tracer."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "service.traces", None)
    with tracing(), open_client(indexed) as client:
        assert client.post("/v1/answers", json={"question": QUESTION}).status_code == 200
    assert "pip install 'ragtune[telemetry]'" in caplog.text


def test_a_collector_that_is_down_holds_nothing_up(indexed, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with tracing(), open_client(indexed) as client:
        assert client.post("/v1/answers", json={"question": QUESTION}).status_code == 200
