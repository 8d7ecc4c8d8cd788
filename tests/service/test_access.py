from __future__ import annotations

import dataclasses
import threading
import time

import httpx
import pytest

from data.access import MACHINE, SCOPES, Access, acting
from data.errors import RateLimited
from data.records import QAPair
from data.store import KeyGrant, KeyRow
from service.access import OPEN_PATHS
from service.app import create_app
from service.jobs import run_job, submitter
from service.limits import MemoryBuckets, RateLimits, rate_headers
from tests.service.conftest import real_server
from tests.service.parts import MODEL, adapter, wait_until
from tests.service.tenants import key

ASK = {"question": "When was the lighthouse of Orrin built?"}


def secret_ids(workspace):
    document = next(iter(workspace.store.documents.by_source("secret").values()))
    job = workspace.store.jobs.create("rebuild", {"collection": "secret"})
    return document.id, job.id


def scopes_of(app):
    """Yield (method, path, the scopes that the description names) of every route."""
    for path, operations in app.openapi()["paths"].items():
        for method, operation in operations.items():
            named = [set(scheme) for wanted in operation.get("security", ()) for scheme in wanted.values()]
            yield method.upper(), path, set().union(*named)


def test_every_route_says_what_it_wants(workspace):
    """A route without a scope would be open to every key."""
    found = {(method, path): scopes for method, path, scopes in scopes_of(create_app(workspace, run_jobs=False))}
    assert len(found) > 50
    for (method, path), scopes in found.items():
        assert bool(scopes) == (path not in OPEN_PATHS), (method, path)


@pytest.mark.slow
def test_a_key_without_the_scope_is_refused_on_every_route(service, shared):
    """Each route is open to some of the four scopes and closed to the others; admin opens all of them."""
    headers = {scope: key(shared, scope) for scope in SCOPES}
    refused = 0
    for method, path, wanted in scopes_of(service.app):
        for scope in SCOPES if wanted else ():
            answer = service.request(method, path, headers=headers[scope])
            forbidden = answer.status_code == 403 and answer.json()["type"] == "forbidden"
            assert forbidden == (scope != "admin" and scope not in wanted), (method, path, scope)
            refused += forbidden
    assert refused > 60


def test_what_a_key_may_do_is_told(service, shared):
    headers = key(shared, "query", collections=["default"])
    assert service.get("/v1/me", headers=headers).json() == {
        "name": "somebody", "scopes": ["query"], "collections": ["default"],
    }  # fmt: skip
    refused = service.post("/v1/index/rebuild", json={}, headers=headers).json()
    assert (refused["type"], refused["status"]) == ("forbidden", 403)
    assert "query" in refused["got"]
    assert "ingest" in refused["wanted"]
    assert "ragtune keys create" in refused["hint"]


def test_another_collection_is_to_a_bound_key_as_if_it_were_not_there(service, shared):
    """By name and by every id: the same answer as for something that never was, but for what was asked for."""
    document, job = secret_ids(shared)
    bound = key(shared, *SCOPES[:3], collections=["default"])
    whole = key(shared, "admin")
    asked = [
        ("POST", "/v1/answers", {**ASK, "collection": "{}"}, "secret"),
        ("POST", "/v1/search", {"query": "vault", "collection": "{}"}, "secret"),
        ("POST", "/v1/compare", {**ASK, "collection": "{}"}, "secret"),
        ("GET", "/v1/documents?collection={}", None, "secret"),
        ("GET", "/v1/index?collection={}", None, "secret"),
        ("GET", "/v1/index/generations?collection={}", None, "secret"),
        ("POST", "/v1/index/rebuild", {"collection": "{}"}, "secret"),
        ("GET", "/v1/pairs?collection={}", None, "secret"),
        ("GET", "/v1/pairs/coverage?collection={}", None, "secret"),
        ("POST", "/v1/pairs/generate", {"collection": "{}"}, "secret"),
        ("GET", "/v1/pairs/export?collection={}", None, "secret"),
        ("POST", "/v1/adapters", {"name": "mine", "collection": "{}"}, "secret"),
        ("GET", "/v1/documents/{}", None, document),
        ("GET", "/v1/documents/{}/text", None, document),
        ("DELETE", "/v1/documents/{}", None, document),
        ("GET", "/v1/pairs/{}", None, "p1"),
        ("PATCH", "/v1/pairs/{}", {"status": "rejected", "reason": "mine"}, "p1"),
        ("POST", "/v1/pairs/{}/undo", None, "p1"),
        ("POST", "/v1/pairs/bulk", {"ids": ["{}"], "status": "accepted"}, "p1"),
        ("GET", "/v1/jobs/{}", None, job),
        ("GET", "/v1/jobs/{}/events", None, job),
        ("POST", "/v1/jobs/{}/cancel", None, job),
        ("GET", "/v1/evaluations/{}", None, "e1"),
        ("GET", "/v1/evaluations/{}/report", None, "e1"),
        ("GET", "/v1/adapters/{}", None, "vaulted"),
        ("DELETE", "/v1/adapters/{}", None, "vaulted"),
        ("POST", "/v1/answers", {**ASK, "mode": "combined", "adapter": "{}"}, "vaulted"),
    ]
    for method, path, body, name in asked:
        answers = []
        for value in (name, "neverwas"):
            sent = None if body is None else _filled(body, value)
            answer = service.request(method, path.format(value), json=sent, headers=bound)
            answers.append((answer.status_code, answer.text.replace(value, "*")))
        assert answers[0] == answers[1], (method, path)
        assert answers[0][0] == 404, (method, path, answers[0])
    for method, path, body, name in asked[:10]:
        sent = None if body is None else _filled(body, name)
        assert service.request(method, path.format(name), json=sent, headers=whole).status_code < 300, path
    assert shared.store.pairs.get("p1").status == "accepted"


def _filled(value, name):
    if isinstance(value, dict):
        return {k: _filled(v, name) for k, v in value.items()}
    if isinstance(value, list):
        return [_filled(v, name) for v in value]
    return value.replace("{}", name) if isinstance(value, str) else value


def test_lists_hold_only_what_a_bound_key_may_know(service, shared):
    secret_ids(shared)
    bound, whole = key(shared, *SCOPES[:3], collections=["default"]), key(shared, "admin")
    for path, field in (("jobs", "jobs"), ("adapters", "adapters"), ("evaluations", "evaluations"), ("models", "data")):
        listed = service.get(f"/v1/{path}", headers=bound).json()[field]
        assert not {"vaulted", "secret"} & set(str(listed).replace("'", " ").split()), path
        assert len(service.get(f"/v1/{path}", headers=whole).json()[field]) > len(listed), path
    assert "secret" not in service.post("/v1/search", json={"query": "x", "collection": "no"}, headers=bound).text


def test_a_bound_key_writes_to_its_collections_only(service, shared):
    bound = key(shared, "ingest", "train", collections=["default", "new"])
    file = ("files", ("note.md", b"# Note\n\nThe note is short.\n"))
    for name, status in (("new", 202), ("secret", 403), ("other", 403)):
        sent = service.post("/v1/documents", files=[file], data={"collection": name}, headers=bound)
        assert sent.status_code == status, name
        rows = {"rows": [{"messages": []}], "collection": name}
        assert service.post("/v1/pairs/import", json=rows, headers=bound).status_code == status, name
    assert "other" not in shared.store.collections.names()


def test_what_is_not_of_one_collection_wants_a_key_for_all(service, shared):
    bound = key(shared, "admin", collections=["default"])
    for method, path in (
        ("POST", "/v1/keys"), ("GET", "/v1/audit"), ("GET", "/v1/lineage/adapter/vaulted"),
    ):  # fmt: skip
        answer = service.request(method, path, json={"name": "x"} if method == "POST" else None, headers=bound)
        assert (answer.status_code, answer.json()["type"]) == (403, "forbidden"), path


def test_keys_are_made_listed_and_revoked_over_http(service, shared):
    root = key(shared, "admin")
    made = service.post("/v1/keys", json={"name": "wiki", "collections": ["default"]}, headers=root)
    assert made.status_code == 201
    assert (made.json()["scopes"], made.json()["collections"]) == (["query"], ["default"])
    headers = {"Authorization": f"Bearer {made.json()['key']}"}
    assert service.post("/v1/answers", json=ASK, headers=headers).status_code == 200
    listed = service.get("/v1/keys", headers=root)
    assert made.json()["key"] not in listed.text
    assert made.json()["id"] in listed.text
    assert service.delete(f"/v1/keys/{made.json()['id']}", headers=root).status_code == 200
    assert service.post("/v1/answers", json=ASK, headers=headers).status_code == 401
    assert service.delete("/v1/keys/none", headers=root).status_code == 404
    assert service.post("/v1/keys", json={"name": "x", "scopes": ["root"]}, headers=root).status_code == 422


def test_a_key_that_ran_out_opens_nothing(service, shared):
    headers = key(shared, "admin", expires_at=time.time() - 1)
    assert service.get("/v1/documents", headers=headers).status_code == 401


def test_changes_are_in_the_audit_log_and_questions_are_not(service, shared):
    root, reader = key(shared, "admin"), key(shared, "query")
    service.post("/v1/answers", json=ASK, headers=root)
    service.get("/v1/documents", headers=root)
    service.post("/v1/index/rebuild", json={}, headers=root)
    service.post("/v1/index/rebuild", json={}, headers=reader)
    entries = service.get("/v1/audit", headers=root).json()["entries"]
    assert [(e["action"], e["status"]) for e in entries] == [
        ("POST /v1/index/rebuild", 403), ("POST /v1/index/rebuild", 202),
    ]  # fmt: skip
    assert {e["name"] for e in entries} == {"somebody"}
    assert all(e["key_id"] for e in entries)


def test_requests_over_the_limit_wait_for_their_bucket(service, shared):
    headers = key(shared, "query", requests_per_minute=2)
    first = service.get("/v1/models", headers=headers)
    assert first.headers["ratelimit-policy"] == '"requests";q=2;w=60'
    assert first.headers["ratelimit"].startswith('"requests";r=1;t=')
    assert service.get("/v1/models", headers=headers).status_code == 200
    refused = service.get("/v1/models", headers=headers)
    assert (refused.status_code, refused.json()["type"]) == (429, "rate-limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert service.get("/v1/models", headers=key(shared, "query")).status_code == 200


def test_tokens_of_an_answer_are_taken_off_the_key(service, shared):
    headers = key(shared, "query", tokens_per_minute=1)
    assert service.post("/v1/answers", json=ASK, headers=headers).status_code == 200
    refused = service.post("/v1/answers", json=ASK, headers=headers)
    assert (refused.status_code, refused.json()["wanted"]) == (429, "at most 1 tokens a minute")
    streamed = key(shared, "query", tokens_per_minute=1)
    for body in ({"model": MODEL.name}, {"model": "rag"}):
        chat = {**body, "stream": True, "messages": [{"role": "user", "content": "Who is Mara Venn?"}]}
        headers = key(shared, "query", tokens_per_minute=1)
        assert service.post("/v1/chat/completions", json=chat, headers=headers).status_code == 200
        assert service.post("/v1/chat/completions", json=chat, headers=headers).status_code == 429
    assert service.get("/v1/models", headers=streamed).status_code == 200


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("answers", ASK),
        ("chat/completions", {"model": "rag", "messages": [{"role": "user", "content": ASK["question"]}]}),
        ("chat/completions", {"model": MODEL.name, "messages": [{"role": "user", "content": ASK["question"]}]}),
    ],
)
def test_a_stream_that_its_client_leaves_is_charged_too(shared, generator, route, body):
    """Otherwise a key could ask without end, and leave each time before the last word."""
    generator.reply = "one two three four"
    generator.hold = threading.Event()
    headers = key(shared, "query", tokens_per_minute=1)
    with real_server(shared) as url:
        sent = {**body, "stream": True}
        with httpx.stream("POST", f"{url}/v1/{route}", json=sent, headers=headers, timeout=60) as response:
            assert any("one" in line for line in response.iter_lines())
        generator.hold.set()
        assert generator.closed.wait(30)
        wait_until(lambda: httpx.get(f"{url}/v1/me", headers=headers, timeout=60).status_code == 429)


def test_a_bucket_fills_evenly():
    now = [0.0]
    limits = RateLimits(MemoryBuckets(lambda: now[0]))
    row = KeyRow("k", "somebody", 0.0, None, KeyGrant(requests_per_minute=60, tokens_per_minute=600))
    assert [limits.admit(row)[0].left for _ in range(60)] == list(range(59, -1, -1))
    with pytest.raises(RateLimited) as refused:
        limits.admit(row)
    assert refused.value.retry_after_s == pytest.approx(1.0)
    now[0] = 2.5
    assert limits.admit(row)[0].left == 1
    limits.charge(row, 900)
    with pytest.raises(RateLimited) as refused:
        limits.admit(row)
    assert refused.value.retry_after_s == pytest.approx(30.1)
    now[0] += 31
    budgets = {budget.kind: budget for budget in limits.admit(row)}
    assert budgets["tokens"].left == 10
    assert rate_headers(list(budgets.values()))["RateLimit-Policy"] == '"requests";q=60;w=60, "tokens";q=600;w=60'


def test_a_key_that_sees_all_sees_collections_of_the_future():
    assert MACHINE.sees("later")
    assert MACHINE.may("train")
    bound = dataclasses.replace(MACHINE, scopes=frozenset(("query",)), collections=frozenset(("a",)))
    assert not bound.sees("later")
    assert not bound.may("train")
    assert bound.may("train", "query")


def test_whoever_acts_is_forgotten_at_the_end_of_the_block(shared):
    with acting(Access("bound", frozenset(SCOPES), frozenset(("default",)))):
        assert shared.store.collections.names() == ["default"]
    assert shared.store.collections.names() == ["default", "secret"]


def test_a_job_knows_no_more_than_who_asked_for_it(service, shared):
    """A job runs in a process of its own: what it may know goes along with it."""
    bound = key(shared, "train", "ingest", collections=["default"])
    job_id = service.post("/v1/index/rebuild", json={}, headers=bound).json()["job_id"]
    job = shared.store.jobs.get(job_id)
    with acting(submitter(job)):
        assert shared.store.collections.names() == ["default"]
        assert shared.store.adapters.list() == []
    assert run_job(shared, job_id).status == "succeeded"
    whole = service.post("/v1/index/rebuild", json={}, headers=key(shared, "admin")).json()["job_id"]
    assert submitter(shared.store.jobs.get(whole)) == MACHINE


def test_a_bound_key_neither_promotes_nor_continues_nor_deletes_what_is_not_its_own(service, shared):
    whole_pair = QAPair("p2", "Who kept the lighthouse?", "Mara Venn", (), "span", "human", "accepted")
    shared.store.pairs.add("default", None, [whole_pair])
    shared.store.adapters.add(adapter("imported"))
    shared.store.adapters.promote("imported", 1)
    bound = key(shared, "train", collections=["default"])
    train = {"name": "mine", "collection": "default"}
    for body, status in (
        (train, 202),
        ({**train, "promote": True}, 202),
        ({**train, "name": "vaulted"}, 403),
        ({**train, "recipe": {"init_adapter": "vaulted"}}, 404),
        ({**train, "recipe": {"init_adapter": ".."}}, 422),
        ({**train, "recipe": {"init_adapter": "imported"}}, 202),
    ):
        assert service.post("/v1/adapters", json=body, headers=bound).status_code == status, body
    assert service.delete("/v1/adapters/imported", headers=bound).status_code == 403
    assert service.delete("/v1/adapters/imported", headers=key(shared, "train")).status_code == 200


def test_a_bound_key_changes_what_is_live_in_its_own_collection_only(service, shared):
    bound, other = (key(shared, "train", collections=[name]) for name in ("default", "secret"))
    store = shared.store
    store.adapters.add(adapter("wide"))
    for version in (1, 2):
        store.adapters.add(adapter("own", version, lineage={"collection": "default"}))
    for step in ("promote", "shadow", "retire"):
        assert service.post(f"/v1/adapters/wide/{step}", headers=bound).status_code == 403
        assert service.post(f"/v1/adapters/own/{step}", headers=other).status_code == 404
    for version in (1, 2):
        sent = {"version": version, "force": True}
        assert service.post("/v1/adapters/own/promote", json=sent, headers=bound).status_code == 200
    assert service.post("/v1/adapters/rollback", headers=other).status_code == 404
    assert service.post("/v1/adapters/rollback?collection=secret", headers=other).status_code == 403
    assert service.post("/v1/adapters/rollback", headers=bound).json()["version"] == 1
    assert service.post("/v1/adapters/own@1/retire", headers=bound).json()["stage"] == "retired"
    store.adapters.promote("wide", 1)
    assert service.post("/v1/adapters/rollback", headers=bound).status_code == 403


def test_the_first_key_is_an_administrators(service, shared):
    refused = service.post("/v1/keys", json={"name": "wiki"})
    assert (refused.status_code, refused.json()["type"]) == (409, "conflict")
    ended = service.post("/v1/keys", json={"name": "old", "scopes": ["admin"], "expires_at": "2001-01-01T00:00:00Z"})
    assert ended.status_code == 422
    assert service.post("/v1/keys", json={"name": "root", "scopes": ["admin"]}).status_code == 201
    assert service.get("/v1/keys").status_code == 401


def test_embeddings_cost_their_tokens(service, shared):
    headers = key(shared, "query", tokens_per_minute=5)
    body = {"model": "ragtune-embedder", "input": "many words about the lighthouse of Orrin and its keeper"}
    names = [model["id"] for model in service.get("/v1/models", headers=headers).json()["data"]]
    body["model"] = names[-1]
    assert service.post("/v1/embeddings", json=body, headers=headers).status_code == 200
    assert service.post("/v1/embeddings", json=body, headers=headers).status_code == 429


def test_evaluations_of_others_do_not_push_ones_own_off_the_list(service, shared):
    shared.store.evaluations.add("mine", {"verdict": "none"}, "default")
    for number in range(60):
        shared.store.evaluations.add(f"theirs{number}", {"verdict": "none"}, "secret")
    bound = key(shared, "train", collections=["default"])
    listed = service.get("/v1/evaluations", headers=bound).json()["evaluations"]
    assert [row["id"] for row in listed] == ["mine"]


def upload(service, headers, text=b"# Note\n\nThe note is short.\n", **named):
    sent = {**headers, "Idempotency-Key": "nightly"}
    return service.post("/v1/documents", files=[("files", ("note.md", text))], data=named, headers=sent)


def test_an_idempotency_key_is_its_senders_own(service, shared):
    """Two keys that choose the same word see neither each other's job nor that there is one."""
    one, other = key(shared, "ingest"), key(shared, "ingest")
    first, second = upload(service, one), upload(service, other)
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["job_id"] != second.json()["job_id"]
    assert upload(service, one).json()["job_id"] == first.json()["job_id"]
    assert upload(service, other).json()["job_id"] == second.json()["job_id"]
    assert upload(service, key(shared, "ingest"), b"Other text.\n").status_code == 202, "no conflict with a stranger's"
    assert upload(service, other, b"Other text.\n").status_code == 409


def test_users_whom_a_proxy_names_have_idempotency_keys_of_their_own(indexed):
    everybody = Access("ada", frozenset(("ingest",)), key_id="k1")
    jobs = []
    for access in (everybody, dataclasses.replace(everybody, name="bob"), dataclasses.replace(everybody, key_id="k2")):
        with acting(access):
            jobs.append(indexed.store.jobs.create("ingest", {}, "nightly").id)
            assert indexed.store.jobs.create("ingest", {}, "nightly").id == jobs[-1]
    assert len(set(jobs)) == 3


def test_files_kept_for_one_keys_job_are_not_anothers(service, shared):
    rows = b'{"question": "Who?", "answers": ["Ada"]}\n'
    jobs = []
    for headers in (key(shared, "train"), key(shared, "train")):
        sent = {**headers, "Idempotency-Key": "nightly"}
        answer = service.post("/v1/pairs/import", files={"file": ("rows.jsonl", rows)}, headers=sent)
        assert answer.status_code == 202
        jobs.append(shared.store.jobs.get(answer.json()["job_id"]))
    assert len({job.inputs["upload"] for job in jobs}) == 2
    run_job(shared, jobs[0].id)
    kept = [(shared.state.uploads / job.inputs["upload"]).is_dir() for job in jobs]
    assert kept == [False, True], "the end of one job takes its own files away"
