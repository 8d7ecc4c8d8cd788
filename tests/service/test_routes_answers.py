from __future__ import annotations

import json
import socket
import threading

import httpx
import pytest

from data.errors import EngineBusy, EngineTimeout, EngineUnavailable, InvalidRequest
from data.protocols import Delta, GenerationResult
from data.records import Usage
from tests.service.conftest import open_client, real_server
from tests.service.parts import adapter

QUESTION = "When was the lighthouse of Orrin built?"


def sse(text: str) -> list[tuple[str, object]]:
    """Return (event, data) of each event of a stream."""
    events = []
    for block in text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            events.append((lines.get("event", "message"), json.loads(lines["data"])))
    return events


def test_an_answer_has_the_documented_shape(client, generator):
    generator.reply = "1842 [1]"
    response = client.post("/v1/answers", json={"question": QUESTION})
    assert response.status_code == 200
    body = response.json()
    assert set(body) == {
        "id", "answer", "abstained", "abstained_by", "confidence", "mode", "model", "adapter", "adapters",
        "adapter_stale", "citations", "sentences", "passages", "passages_dropped", "usage", "timings_ms",
        "index_generation",
    }  # fmt: skip
    assert (body["answer"], body["mode"], body["model"], body["index_generation"]) == ("1842 [1]", "rag", "scripted", 1)
    (citation,) = body["citations"]
    assert set(citation) == {
        "n", "document_id", "source", "title", "heading", "page", "start", "end", "quote", "score", "supported",
    }  # fmt: skip
    text = client.get(f"/v1/documents/{citation['document_id']}/text").json()["text"]
    assert text[citation["start"] : citation["end"]] == citation["quote"]
    assert set(body["usage"]) == {"prompt_tokens", "cached_tokens", "completion_tokens"}
    assert set(body["timings_ms"]) == {"queue", "retrieve", "prefill", "generate", "total"}
    assert (body["timings_ms"]["queue"], body["timings_ms"]["prefill"], body["timings_ms"]["generate"]) == (3, 1, 2)
    assert body["adapters"] == []


def test_a_streamed_answer_is_passages_tokens_answer(client, generator):
    generator.reply = "Mara Venn [1]"
    response = client.post("/v1/answers", json={"question": "Who was its keeper?", "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = sse(response.text)
    assert [name for name, _ in events] == ["passages", "token", "token", "token", "answer"]
    assert "".join(data["text"] for name, data in events if name == "token") == "Mara Venn [1]"
    assert events[-1][1]["answer"] == "Mara Venn [1]"
    assert set(events[-1][1]["timings_ms"]) == {"queue", "retrieve", "prefill", "generate", "total"}
    assert events[0][1]["passages"] == events[-1][1]["passages"]


def test_an_error_after_the_passages_is_an_event(client, generator):
    generator.error = EngineTimeout("Too slow", got=1)
    events = sse(client.post("/v1/answers", json={"question": QUESTION, "stream": True}).text)
    assert [name for name, _ in events] == ["passages", "error"]
    assert events[-1][1]["type"] == "engine-timeout"
    assert events[-1][1]["status"] == 504


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"question": ""}, 422, "question-invalid"),
        ({"question": "x" * 100_000}, 422, "question-invalid"),
        ({"question": QUESTION, "mode": "ragg"}, 422, "unknown-mode"),
        ({"question": QUESTION, "mode": "tuned"}, 409, "no-live-adapter"),
        ({"question": QUESTION, "mode": "combined", "adapter": "none"}, 404, "unknown-adapter"),
        ({"question": QUESTION, "collection": "none"}, 404, "unknown-collection"),
        ({"question": QUESTION, "max_false_answer_rate": 0.1}, 409, "calibration-missing"),
    ],
)
def test_refusals_have_a_status_even_where_a_stream_was_asked_for(client, stream, body, status, kind):
    response = client.post("/v1/answers", json={**body, "stream": stream})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    found = response.json()
    assert found["type"] == kind
    assert {"title", "status", "detail", "got", "wanted", "hint"} <= set(found)


def test_before_anything_is_indexed(empty_client):
    response = empty_client.post("/v1/answers", json={"question": QUESTION})
    assert (response.status_code, response.json()["type"]) == (409, "nothing-indexed")
    assert "ingest" in response.json()["hint"]


def test_an_unknown_field_is_named(client):
    response = client.post("/v1/answers", json={"question": QUESTION, "topk": 3})
    found = response.json()
    assert (response.status_code, found["type"]) == (422, "invalid-request")
    assert "topk" in found["detail"]


@pytest.mark.parametrize("content", [b"{", b'"text"', b""])
def test_a_body_that_is_no_request(client, content):
    response = client.post("/v1/answers", content=content, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["type"]) == (422, "invalid-request")


@pytest.mark.parametrize(("error", "status"), [(EngineBusy("full"), 429), (EngineUnavailable("died"), 503)])
def test_an_engine_that_is_busy_or_down_says_when_to_come_back(client, generator, error, status):
    generator.error = error
    response = client.post("/v1/answers", json={"question": QUESTION})
    assert (response.status_code, response.json()["type"]) == (status, error.type)
    assert int(response.headers["Retry-After"]) >= 1
    generator.error.retry_after_s = 6.5  # as a server said that generates in the engine's place
    assert client.post("/v1/answers", json={"question": QUESTION}).headers["Retry-After"] == "7"


def test_a_full_queue_refuses_a_stream_with_a_status(client, generator, monkeypatch):
    """The engine refuses where it is called, not where its deltas are read."""

    def refuses(request):
        raise EngineBusy("full")

    monkeypatch.setattr(generator, "stream", refuses)
    response = client.post("/v1/answers", json={"question": QUESTION, "stream": True})
    assert (response.status_code, response.json()["type"]) == (429, "engine-busy")
    assert int(response.headers["Retry-After"]) >= 1


def test_an_engine_that_dies_within_a_stream_is_an_event(client, generator, monkeypatch):
    stream = generator.stream

    def dies(request):
        yield next(iter(stream(request)))
        raise EngineUnavailable("The engine process died", got="killed by SIGKILL")

    monkeypatch.setattr(generator, "stream", dies)
    events = sse(client.post("/v1/answers", json={"question": QUESTION, "stream": True}).text)
    assert [name for name, _ in events] == ["passages", "token", "error"]
    assert (events[-1][1]["type"], events[-1][1]["got"]) == ("engine-unavailable", "killed by SIGKILL")


@pytest.mark.parametrize("stream", [False, True])
def test_whole_passages_that_do_not_fit_are_left_out_and_counted(client, generator, stream):
    sent = {"question": QUESTION}
    whole = client.post("/v1/answers", json=sent).json()["passages"]
    generator.n_ctx = sum(len(m.content.split()) for m in generator.requests[-1].messages) - 1
    response = client.post("/v1/answers", json={**sent, "stream": stream})
    body = sse(response.text)[-1][1] if stream else response.json()
    assert (body["passages"], body["passages_dropped"]) == (whole[:-1], 1)
    shown = generator.requests[-1].messages[-1].content
    assert all(passage["text"].strip() in shown for passage in body["passages"])
    assert whole[-1]["text"].strip() not in shown


def test_a_prompt_that_does_not_fit_is_refused_with_the_counts(client, generator):
    generator.n_ctx = 3
    response = client.post("/v1/answers", json={"question": QUESTION})
    found = response.json()
    assert (response.status_code, found["type"], found["wanted"]) == (422, "context-overflow", "at most 3")
    assert found["got"].endswith(" tokens")


def test_adapters_are_scaled_and_summed(client, indexed, generator):
    for name in ("house", "style", "tone"):
        indexed.store.adapters.add(adapter(name))
    sent = {"question": QUESTION, "mode": "combined", "adapter": "house", "adapter_scale": 0.5,
            "adapters": [{"name": "style@1", "scale": -0.25}, {"name": "tone"}]}  # fmt: skip
    body = client.post("/v1/answers", json=sent).json()
    request = generator.requests[-1]
    assert (request.adapter, request.adapter_scale) == ("house@1", 0.5)
    assert request.added_adapters == (("style@1", -0.25), ("tone@1", 1.0))
    assert body["adapter"] == "house@1"
    assert body["adapters"] == [
        {"name": "house@1", "scale": 0.5}, {"name": "style@1", "scale": -0.25}, {"name": "tone@1", "scale": 1.0},
    ]  # fmt: skip
    alone = {"question": QUESTION, "adapters": [{"name": "style", "scale": 2}]}
    body = client.post("/v1/answers", json=alone).json()
    assert (body["mode"], body["adapters"]) == ("combined", [{"name": "style@1", "scale": 2.0}])
    assert indexed.store.answers.get(body["id"]).answer.adapters == {"style@1": 2.0}


def test_the_live_adapter_can_be_scaled(client, indexed, generator):
    indexed.store.adapters.add(adapter())
    indexed.store.adapters.promote("house", 1)
    client.post("/v1/answers", json={"question": QUESTION, "adapter_scale": 0.5})
    assert (generator.requests[-1].adapter, generator.requests[-1].adapter_scale) == ("house@1", 0.5)


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"adapters": [{"name": "hous"}]}, 404, "unknown-adapter"),
        ({"adapter": "house", "adapters": [{"name": "stile"}]}, 404, "unknown-adapter"),
        ({"adapter": "house", "adapters": [{"name": "house@1"}]}, 422, "invalid-request"),
        ({"adapters": [{"name": "house"}], "mode": "rag"}, 422, "invalid-request"),
        ({"adapters": [{"name": "house"}], "adapter_scale": 0.5}, 422, "invalid-request"),
        ({"adapter_scale": 0.5, "mode": "rag"}, 422, "invalid-request"),
        ({"adapter": "house", "adapter_scale": 4.5}, 422, "invalid-request"),
        ({"adapters": [{"name": "house", "scale": -5}]}, 422, "invalid-request"),
        ({"adapters": [{"name": "house", "scale": "x"}]}, 422, "invalid-request"),
        ({"adapters": [{"name": "house"}] * 9}, 422, "invalid-request"),
        ({"adapter": "house", "adapters": [{"name": "house"}] * 8}, 422, "invalid-request"),
    ],
)
def test_adapters_that_are_refused(client, indexed, body, status, kind):
    indexed.store.adapters.add(adapter())
    response = client.post("/v1/answers", json={"question": QUESTION, **body})
    assert (response.status_code, response.json()["type"]) == (status, kind)


def test_adapters_that_the_engine_cannot_sum_are_the_callers_error(client, indexed, generator):
    for name in ("house", "style"):
        indexed.store.adapters.add(adapter(name))
    generator.error = InvalidRequest("These adapters cannot be summed", got="house@1 (full), style@1 (blockwise)")
    response = client.post(
        "/v1/answers", json={"question": QUESTION, "adapters": [{"name": "house"}, {"name": "style"}]}
    )
    assert (response.status_code, response.json()["type"]) == (422, "invalid-request")


@pytest.mark.parametrize("path", ["answers", "chat/completions"])
@pytest.mark.parametrize("streamed", [False, True])
def test_an_unexpected_error_says_nothing_of_itself_but_where_to_look(indexed, generator, caplog, path, streamed):
    """The text of an exception may hold paths, SQL or a document: it is in the log, under the request's id."""
    generator.error = RuntimeError("secret of /home/ada")
    body = {"question": QUESTION, "model": "rag", "messages": [{"role": "user", "content": QUESTION}]}
    wanted = ("question",) if path == "answers" else ("model", "messages")
    sent = {name: body[name] for name in wanted} | {"stream": streamed}
    with open_client(indexed, raise_server_exceptions=False) as client:
        response = client.post(f"/v1/{path}", json=sent)
    request_id = response.headers["X-Request-ID"]
    assert "secret" not in response.text
    assert "internal-error" in response.text
    if not streamed:
        problem = response.json()
        assert (response.status_code, problem["type"], problem["request_id"]) == (500, "internal-error", request_id)
        assert request_id in problem["hint"]
    (record,) = [each for each in caplog.records if request_id in each.getMessage()]
    assert record.exc_info[1] is generator.error


def test_every_response_names_its_request(client):
    found = [client.get(path).headers["X-Request-ID"] for path in ("/healthz", "/v1/jobs", "/v1/nothing", "/")]
    assert len(set(found)) == len(found)
    assert client.get("/healthz", headers={"Host": "evil.example"}).headers["X-Request-ID"]


def test_a_client_that_leaves_stops_the_generation(indexed, generator):
    """Against a real server: the test client only sees whole responses."""
    generator.reply = "one two three four"
    generator.hold = threading.Event()
    sent = {"question": QUESTION, "stream": True}
    with real_server(indexed) as url:
        with httpx.stream("POST", f"{url}/v1/answers", json=sent, timeout=30) as response:
            lines = response.iter_lines()
            while "token" not in next(lines):
                pass
        generator.hold.set()
        assert generator.closed.wait(10)


class Blocked:
    """A generation that writes nothing until it is cancelled, as one that waits in the queue."""

    def __init__(self) -> None:
        self.begun, self.cancelled, self.closed = threading.Event(), threading.Event(), threading.Event()

    def __iter__(self) -> Blocked:
        return self

    def __next__(self) -> Delta:
        self.begun.set()
        assert self.cancelled.wait(20)
        return Delta("", GenerationResult("", "cancelled", Usage(), 0.0, 0.0))

    def cancel(self) -> None:
        self.cancelled.set()

    def close(self) -> None:
        self.closed.set()


ASKED = [{"role": "user", "content": QUESTION}]


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("answers", {"question": QUESTION}),
        ("answers", {"question": QUESTION, "stream": True}),
        ("chat/completions", {"model": "rag", "messages": ASKED}),
        ("chat/completions", {"model": "rag", "messages": ASKED, "stream": True}),
        ("chat/completions", {"model": "base", "messages": ASKED}),
        ("chat/completions", {"model": "base", "messages": ASKED, "stream": True}),
        ("compare", {"question": QUESTION, "arms": ["rag"]}),
    ],
)
def test_a_client_that_leaves_before_the_first_token_cancels(indexed, generator, monkeypatch, route, body):
    waiting = Blocked()
    monkeypatch.setattr(generator, "stream", lambda request: waiting)
    sent = json.dumps(body).encode()
    with real_server(indexed) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST /v1/{route} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: {len(sent)}\r\n\r\n".encode() + sent)
            assert waiting.begun.wait(20)
        assert waiting.closed.wait(20)
        assert waiting.cancelled.is_set()


def test_compare_answers_side_by_side(client, generator):
    generator.reply = lambda request: "1842 [1]" if len(request.messages[-1].parts) > 1 else "1900"
    body = client.post("/v1/compare", json={"question": QUESTION}).json()
    assert {name: arm["answer"] for name, arm in body["arms"].items()} == {"base": "1900", "rag": "1842 [1]"}


def test_compare_takes_adapters_and_reports_a_failing_arm(client, indexed, generator):
    indexed.store.adapters.add(adapter())
    sent = {"question": QUESTION, "arms": ["rag"], "adapters": ["house"]}
    body = client.post("/v1/compare", json=sent).json()
    assert (body["arms"]["house"]["mode"], body["arms"]["house"]["adapter"]) == ("combined", "house@1")
    generator.error = EngineBusy("full")
    body = client.post("/v1/compare", json=sent).json()
    assert {arm["error"]["type"] for arm in body["arms"].values()} == {"engine-busy"}


def test_compare_refuses_an_unknown_arm(client):
    response = client.post("/v1/compare", json={"question": QUESTION, "arms": ["rga"]})
    assert (response.status_code, response.json()["hint"]) == (422, "Did you mean rag?")


def test_search_returns_passages_with_their_text(client):
    body = client.post("/v1/search", json={"query": "blue roses", "top_k": 1}).json()
    (passage,) = body["passages"]
    assert body["index_generation"] == 1
    assert {"document_id", "source", "text", "score"} <= set(passage)
    assert passage["source"] == "garden.md"
    assert "blue roses" in passage["text"]


@pytest.mark.parametrize("method", ["hybrid", "dense", "lexical"])
def test_search_by_each_method(client, method):
    body = client.post("/v1/search", json={"query": "keeper Mara Venn", "method": method}).json()
    assert body["passages"][0]["source"] == "lighthouse.md"


def test_search_refuses(client, empty_client):
    assert client.post("/v1/search", json={"query": "x", "method": "magic"}).status_code == 422
    assert client.post("/v1/search", json={"query": " "}).json()["type"] == "question-invalid"
    assert client.post("/v1/search", json={"query": "x", "collection": "no"}).json()["type"] == "unknown-collection"


def test_feedback_with_a_correction_becomes_a_candidate_pair(client, indexed, generator):
    generator.reply = "1900 [1]"
    answer = client.post("/v1/answers", json={"question": QUESTION}).json()
    sent = {"answer_id": answer["id"], "rating": -1, "correction": "1842"}
    response = client.post("/v1/feedback", json=sent)
    assert response.status_code == 201
    pair = indexed.store.pairs.get(response.json()["pair_id"])
    assert (pair.question, pair.answer, pair.kind, pair.status) == (QUESTION, "1842", "span", "candidate")
    assert indexed.store.chunks.get(pair.chunk_ids[0]).text.count("1842") == 1
    (row,) = client.get("/v1/feedback").json()["feedback"]
    assert (row["answer_id"], row["rating"], row["correction"]) == (answer["id"], -1, "1842")


def test_feedback_without_evidence_is_free_text(client, indexed):
    answer = client.post("/v1/answers", json={"question": QUESTION}).json()
    pair_id = client.post("/v1/feedback", json={"answer_id": answer["id"], "correction": "Long ago."}).json()["pair_id"]
    assert indexed.store.pairs.get(pair_id).kind == "free"


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [({"answer_id": "none", "rating": 1}, 404, "unknown-answer"), ({"answer_id": "none"}, 422, "invalid-request")],
)
def test_feedback_refusals(client, body, status, kind):
    response = client.post("/v1/feedback", json=body)
    assert (response.status_code, response.json()["type"]) == (status, kind)
