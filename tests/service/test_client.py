"""The Python client: against openapi.json, and against the replies of a real application."""

from __future__ import annotations

import json
import subprocess
import sys

import httpx2
import pytest

from data.records import QAPair
from service import api_models as models
from service.client import ApiError, Client, JobFailed
from tests.service.conftest import open_client, real_server
from tests.service.parts import DOCUMENTS, adapter

pytestmark = pytest.mark.slow

QUESTION = "When was the lighthouse of Orrin built?"


@pytest.fixture
def served(indexed):
    """A client of a real server over the indexed documents; its jobs are run by the test."""
    with real_server(indexed) as url, Client(url) as client:
        yield client


def test_an_answer_whole_and_streamed(served, generator):
    generator.reply = "It was 1842 [1]"
    whole = served.ask(QUESTION, mode="rag", top_k=1)
    assert whole.answer == "It was 1842 [1]"
    assert whole.citations[0].quote in DOCUMENTS["lighthouse.md"]
    *pieces, last = served.stream(QUESTION, mode="rag", top_k=1)
    assert len(pieces) > 1
    assert "".join(pieces) == last.answer == whole.answer
    assert served.feedback(whole.id, rating=1).answer_id == whole.id


def test_a_stream_that_is_left_stops_the_generation(served, generator):
    import threading

    generator.hold = threading.Event()
    stream = served.stream(QUESTION, mode="rag")
    next(stream)
    stream.close()
    generator.hold.set()
    assert generator.closed.wait(20)


def test_documents_searched_read_and_deleted(served):
    found = served.search("Who was the keeper?", top_k=1)
    (passage,) = found.passages
    assert "Mara Venn" in passage.text
    assert served.documents.text(passage.document_id)[passage.start : passage.end] == passage.text
    assert {document.source for document in served.documents.list()} == set(DOCUMENTS)
    served.documents.delete(passage.document_id)
    assert [document.source for document in served.documents.list()] == ["garden.md"]


def test_pages_are_followed_to_the_end(served, indexed):
    pairs = [QAPair(f"p{n}", f"Question {n}?", "1842", (), "free", "test", "accepted") for n in range(205)]
    indexed.store.pairs.add("default", None, pairs)
    assert [pair.id for pair in served.pairs.list(status="accepted")] == [pair.id for pair in pairs]
    assert served.pairs.review("p3", status="rejected", reason="dull").reason == "dull"


def test_a_job_is_waited_for(served, indexed, tmp_path):
    from service.jobs import run_job

    (tmp_path / "new.md").write_text("# New\n\nThe harbour froze in 1901.\n", encoding="utf-8")
    accepted = served.documents.upload(tmp_path / "new.md", key="once")
    assert served.documents.upload(tmp_path / "new.md", key="once").job_id == accepted.job_id
    with pytest.raises(TimeoutError):
        served.jobs.wait(accepted, timeout_s=0)
    run_job(indexed, accepted.job_id)
    assert served.jobs.wait(accepted).outputs["indexed"][0]["source"] == "new.md"
    assert [job.id for job in served.jobs.list("succeeded")] == [accepted.job_id]
    (tmp_path / "empty.md").write_bytes(b"")
    failed = served.documents.upload(tmp_path / "empty.md")
    run_job(indexed, failed.job_id)
    with pytest.raises(JobFailed) as caught:
        served.jobs.wait(failed)
    assert caught.value.job.status == "failed"
    assert served.jobs.cancel(failed.job_id).status == "failed"


def test_adapters_go_live_and_back(served, indexed):
    for version in (1, 2):
        indexed.store.adapters.add(adapter(version=version))
        assert served.adapters.promote("house").version == version
    assert [(each.version, each.stage) for each in served.adapters.list()] == [(1, "retired"), (2, "live")]
    assert served.adapters.rollback().version == 1
    assert served.adapters.get("house@2").stale_because == []
    assert served.collections.put("default", "Be brief.", {"top_k": 2}).version == 1
    assert served.collections.get("default").versions[0].instructions == "Be brief."
    assert served.collections.list()[0].live_adapter == "house@1"


def test_refusals_are_problems(served):
    with pytest.raises(ApiError) as caught:
        served.ask(QUESTION, mode="ragg")
    assert (caught.value.type, caught.value.status, caught.value.hint) == ("unknown-mode", 422, "Did you mean rag?")
    with pytest.raises(ApiError) as caught:
        list(served.stream(QUESTION, collection="none"))
    assert caught.value.type == "unknown-collection"
    with pytest.raises(ApiError, match="no-accepted-pairs"):
        served.adapters.train("house", "reader")
    assert served.evaluations.list() == []


def test_a_key_is_sent(make_workspace):
    with real_server(make_workspace(api_key="secret")) as url:
        with Client(url, "secret") as client:
            assert client.jobs.list() == []
        with Client(url) as client, pytest.raises(ApiError) as caught:
            client.jobs.list()
    assert (caught.value.type, caught.value.status) == ("unauthorized", 401)


CALLS = {
    ("post", "/v1/answers"): lambda c: c.ask("q?", **dict.fromkeys(ASKED)),
    ("post", "/v1/search"): lambda c: c.search("q", top_k=1, method="dense", filter=None, rerank=None, history=[]),
    ("post", "/v1/feedback"): lambda c: c.feedback("a", rating=1, correction="x", comment="y"),
    ("post", "/v1/documents"): lambda c: c.documents.upload(__file__, tags=["t"], key="k"),
    ("get", "/v1/documents"): lambda c: next(c.documents.list()),
    ("get", "/v1/documents/{document_id}/text"): lambda c: c.documents.text("d"),
    ("delete", "/v1/documents/{document_id}"): lambda c: c.documents.delete("d"),
    ("get", "/v1/jobs"): lambda c: c.jobs.list("queued"),
    ("get", "/v1/jobs/{job_id}"): lambda c: c.jobs.get("j"),
    ("post", "/v1/jobs/{job_id}/cancel"): lambda c: c.jobs.cancel("j"),
    ("get", "/v1/pairs"): lambda c: next(c.pairs.list(status="accepted", kind="span", source="s", text="t")),
    ("post", "/v1/pairs/generate"): lambda c: c.pairs.generate(5, seed=1),
    ("post", "/v1/pairs/import"): lambda c: c.pairs.add([{"question": "q", "answers": ["a"]}]),
    ("patch", "/v1/pairs/{pair_id}"): lambda c: c.pairs.review("p", status="accepted", reason="", answer="a"),
    ("get", "/v1/adapters"): lambda c: c.adapters.list(),
    ("get", "/v1/adapters/{name}"): lambda c: c.adapters.get("n@1"),
    ("post", "/v1/adapters"): lambda c: c.adapters.train("n", "reader", promote=True),
    ("post", "/v1/adapters/{name}/promote"): lambda c: c.adapters.promote("n", 1, True, "why"),
    ("post", "/v1/adapters/rollback"): lambda c: c.adapters.rollback(),
    ("post", "/v1/evaluations"): lambda c: c.evaluations.create([], arms=["rag"], top_k=4),
    ("get", "/v1/evaluations"): lambda c: c.evaluations.list(),
    ("get", "/v1/evaluations/{evaluation_id}"): lambda c: c.evaluations.get("e"),
    ("get", "/v1/collections"): lambda c: c.collections.list(),
    ("get", "/v1/collections/{name}"): lambda c: c.collections.get("c"),
    ("put", "/v1/collections/{name}"): lambda c: c.collections.put("c", "i", {"top_k": 1}),
}
ASKED = ("mode", "adapter", "top_k", "max_tokens", "temperature", "history", "max_false_answer_rate", "instructions")
UNDOCUMENTED = {("post", "/v1/pairs/import"), ("delete", "/v1/documents/{document_id}")}
"""The body of the first is read by hand, as form or JSON; the reply of the second is not read."""


@pytest.fixture(scope="module")
def openapi(tmp_path_factory):
    from tests.service.conftest import small_workspace
    from tests.service.parts import ScriptedGenerator

    with (
        small_workspace(tmp_path_factory.mktemp("api") / "state", ScriptedGenerator()) as workspace,
        open_client(workspace) as client,
    ):
        return client.get("/openapi.json").json()


def sent(call) -> httpx2.Request:
    """Return the request that a call sends."""
    requests: list[httpx2.Request] = []

    def refuse(request: httpx2.Request) -> httpx2.Response:
        request.read()
        requests.append(request)
        return httpx2.Response(418, json={})

    with Client("http://ragtune", transport=httpx2.MockTransport(refuse)) as client, pytest.raises(ApiError):
        call(client)
    return requests[0]


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_every_route_and_field_that_it_uses_is_in_the_document(openapi, method, path):
    request = sent(CALLS[method, path])
    assert request.method.lower() == method
    parts = request.url.path.split("/"), path.split("/")
    assert len(parts[0]) == len(parts[1])
    assert all(a == b or b.startswith("{") for a, b in zip(*parts, strict=True))
    operation = openapi["paths"][path][method]
    known = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"}
    assert set(request.url.params) <= known, path
    if request.headers.get("content-type") == "application/json" and (method, path) not in UNDOCUMENTED:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        names = {each.get("$ref", "").rpartition("/")[2] for each in [schema, *schema.get("anyOf", ())]} - {""}
        fields = {field for name in names for field in openapi["components"]["schemas"][name]["properties"]}
        assert set(json.loads(request.content)) <= fields, path
    if "multipart" in request.headers.get("content-type", ""):
        ref = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["$ref"]
        fields = openapi["components"]["schemas"][ref.rpartition("/")[2]]["properties"]
        assert all(f'name="{name}"'.encode() in request.content for name in ("files", "collection", "tags"))
        assert {"files", "collection", "tags"} <= fields.keys()


def test_no_method_of_the_client_is_left_out():
    public = {
        name
        for part in ("documents", "jobs", "pairs", "adapters", "evaluations", "collections")
        for name in (f"{part}.{method}" for method in dir(getattr(Client(), part)) if not method.startswith("_"))
    }
    # ``wait`` asks what ``get`` asks.
    assert len(public - {"jobs.wait"}) + len({"ask", "search", "feedback"}) == len(CALLS)


REPLIES = {
    ("post", "/v1/answers", "200"): models.Answer,
    ("post", "/v1/search", "200"): models.SearchResult,
    ("post", "/v1/feedback", "201"): models.Feedback,
    ("post", "/v1/documents", "202"): models.Accepted,
    ("get", "/v1/documents", "200"): models.DocumentPage,
    ("get", "/v1/documents/{document_id}/text", "200"): models.DocumentText,
    ("get", "/v1/jobs", "200"): models.JobList,
    ("get", "/v1/jobs/{job_id}", "200"): models.Job,
    ("post", "/v1/jobs/{job_id}/cancel", "200"): models.Job,
    ("get", "/v1/pairs", "200"): models.PairPage,
    ("post", "/v1/pairs/generate", "202"): models.Accepted,
    ("post", "/v1/pairs/import", "202"): models.Accepted,
    ("patch", "/v1/pairs/{pair_id}", "200"): models.Pair,
    ("get", "/v1/adapters", "200"): models.AdapterList,
    ("get", "/v1/adapters/{name}", "200"): models.Adapter,
    ("post", "/v1/adapters", "202"): models.Accepted,
    ("post", "/v1/adapters/{name}/promote", "200"): models.Adapter,
    ("post", "/v1/adapters/rollback", "200"): models.Adapter,
    ("post", "/v1/evaluations", "202"): models.Accepted,
    ("get", "/v1/evaluations", "200"): models.EvaluationList,
    ("get", "/v1/collections", "200"): models.CollectionList,
    ("get", "/v1/collections/{name}", "200"): models.CollectionDetails,
    ("put", "/v1/collections/{name}", "200"): models.CollectionDetails,
}


@pytest.mark.parametrize(("method", "path", "status"), REPLIES)
def test_the_document_says_what_the_client_reads(openapi, method, path, status):
    model = REPLIES[method, path, status]
    schema = openapi["paths"][path][method]["responses"][status]["content"]["application/json"]["schema"]
    assert schema["$ref"].rpartition("/")[2] == model.__name__
    described = openapi["components"]["schemas"][model.__name__]
    assert set(described["properties"]) == set(model.model_fields)


def fields_of(value: object, model: type[models.Reply]) -> None:
    """Assert that a reply's object has exactly the fields of its model, and so have those in it."""
    assert isinstance(value, dict)
    assert set(value) == set(model.model_fields), model.__name__
    for name, field in model.model_fields.items():
        inner = [each for each in (field.annotation, *getattr(field.annotation, "__args__", ())) if is_reply(each)]
        items = value[name] if isinstance(value[name], list) else [value[name]]
        for item in items if inner else ():
            if item is not None:
                fields_of(item, inner[0])


def is_reply(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, models.Reply)


def test_replies_have_all_the_fields_of_their_models_and_no_others(client, indexed, generator):
    generator.reply = "It was 1842 [1]"
    answer = client.post("/v1/answers", json={"question": QUESTION, "mode": "rag"}).json()
    assert answer["sentences"]
    assert answer["citations"]
    fields_of(answer, models.Answer)
    fields_of(client.post("/v1/search", json={"query": QUESTION}).json(), models.SearchResult)
    fields_of(client.get("/v1/documents").json(), models.DocumentPage)
    chunk = next(chunk for _key, chunk, _title in indexed.store.chunks.iterate("default") if "1842" in chunk.text)
    pair = QAPair("p1", QUESTION, "1842", (chunk.id,), "span", "test", "accepted")
    indexed.store.pairs.add("default", None, [pair])
    page = client.get("/v1/pairs").json()
    assert page["pairs"][0]["passages"][0]["span"]
    fields_of(page, models.PairPage)
    indexed.store.adapters.add(adapter())
    fields_of(client.get("/v1/adapters").json(), models.AdapterList)
    job = client.post("/v1/pairs/import", json={"rows": [{"question": "q?", "answers": ["a"]}]}).json()
    fields_of(job, models.Accepted)
    fields_of(client.get("/v1/jobs").json(), models.JobList)
    indexed.store.evaluations.add("e1", {"arms": {}})
    fields_of(client.get("/v1/evaluations").json(), models.EvaluationList)
    client.put("/v1/collections/default", json={"instructions": "Be brief."})
    fields_of(client.get("/v1/collections/default").json(), models.CollectionDetails)
    fields_of(client.post("/v1/feedback", json={"answer_id": answer["id"], "rating": 1}).json(), models.Feedback)


def test_it_loads_no_other_part_of_ragtune():
    program = "import sys, service.client; print(*sorted(m for m in sys.modules if m.split('.')[0] in sys.argv[1:]))"
    heavy = ("data", "retrieval", "finetune", "service", "torch", "fastapi", "sqlalchemy", "numpy", "faiss")
    found = subprocess.run([sys.executable, "-c", program, *heavy], check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["service", "service.api_models", "service.client"]
