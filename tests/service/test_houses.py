"""Collections as separate houses: instructions and sampling defaults, stale adapters, one live adapter for each."""

from __future__ import annotations

import pytest

from data.prompt import ANSWER_WITH_PASSAGES, prompt_version
from data.records import QAPair
from data.store import KeyGrant
from retrieval.examples import examples_from_pairs
from service.asking import AskRequest
from service.promotion import promote, rollback
from tests.service.conftest import open_client
from tests.service.parts import MODEL, adapter
from tests.service.shells import Shell

pytestmark = pytest.mark.slow

QUESTION = "When was the lighthouse of Orrin built?"
BRIEF = "Write years in Roman numerals."


def prompted(generator):
    return generator.requests[-1].messages[0].content


def put(client, **body):
    response = client.put("/v1/collections/default", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_instructions_join_every_question_and_leave_with_the_next_version(client, generator):
    put(client, instructions=f" {BRIEF}\n")
    client.post("/v1/answers", json={"question": QUESTION})
    assert prompted(generator) == f"{ANSWER_WITH_PASSAGES['en']}\n\n{BRIEF}"
    client.post("/v1/chat/completions", json={"model": "rag", "messages": [{"role": "user", "content": QUESTION}]})
    assert prompted(generator).endswith(f"\n\n{BRIEF}")
    tried = {"question": QUESTION, "instructions": "Answer in verse."}
    client.post("/v1/answers", json=tried)
    assert prompted(generator) == f"{ANSWER_WITH_PASSAGES['en']}\n\nAnswer in verse."
    client.post("/v1/compare", json={"question": QUESTION, "arms": ["rag"], "instructions": ""})
    assert prompted(generator) == ANSWER_WITH_PASSAGES["en"]
    put(client)
    client.post("/v1/answers", json={"question": QUESTION})
    assert prompted(generator) == ANSWER_WITH_PASSAGES["en"]


def test_versions_are_kept_and_can_be_gone_back_to(client):
    assert put(client, instructions=BRIEF, sampling={"top_k": 1})["version"] == 1
    assert put(client, instructions=BRIEF, sampling={"top_k": 1})["version"] == 1, "nothing changed"
    assert put(client, sampling={"temperature": 1})["version"] == 2
    view = put(client, version=1)
    assert (view["version"], view["instructions"], view["sampling"]) == (3, BRIEF, {"top_k": 1})
    assert [each["version"] for each in view["versions"]] == [3, 2, 1]
    assert view["prompt_version"] == prompt_version(BRIEF) != prompt_version()
    assert put(client, version=0)["instructions"] == ""
    assert client.get("/v1/collections").json()["collections"][0]["version"] == 4


def test_sampling_defaults_hold_where_a_question_does_not_say(client, generator):
    put(client, sampling={"top_k": 1, "max_tokens": 7, "temperature": 0.5})
    answer = client.post("/v1/answers", json={"question": QUESTION}).json()
    request = generator.requests[-1]
    assert (len(answer["passages"]), request.max_tokens, request.temperature) == (1, 7, 0.5)
    client.post("/v1/answers", json={"question": QUESTION, "temperature": 0, "max_tokens": 9, "top_k": 2})
    request = generator.requests[-1]
    assert (request.max_tokens, request.temperature) == (9, 0)
    chat = {"model": "rag", "messages": [{"role": "user", "content": QUESTION}]}
    client.post("/v1/chat/completions", json=chat)
    assert (generator.requests[-1].max_tokens, generator.requests[-1].temperature) == (7, 0.5)
    client.post("/v1/chat/completions", json={**chat, "max_completion_tokens": 5, "temperature": 0.25})
    assert (generator.requests[-1].max_tokens, generator.requests[-1].temperature) == (5, 0.25)


@pytest.mark.parametrize(
    "body",
    [
        {"instructions": "x" * 4001},
        {"instructions": 3},
        {"sampling": {"top_k": 0}},
        {"sampling": {"temperature": 3}},
        {"sampling": {"top_p": 0.5}},
        {"version": 1, "instructions": "and"},
        {"words": "no"},
    ],
)
def test_settings_that_cannot_be(client, body):
    response = client.put("/v1/collections/default", json=body)
    assert response.status_code == 422, response.text
    assert client.get("/v1/collections/default").json()["version"] == 0


def test_no_such_version_or_collection(client):
    assert client.put("/v1/collections/default", json={"version": 9}).status_code == 404
    assert client.get("/v1/collections/none").json()["type"] == "unknown-collection"
    assert client.put("/v1/collections/..%2Fup", json={}).status_code in {404, 422}
    assert client.put("/v1/collections/second", json={"instructions": BRIEF}).json()["documents"] == 0


def test_a_key_sees_and_sets_its_own_collection_only(indexed):
    indexed.store.collections.ensure("secret")
    with open_client(indexed) as client:
        client.put("/v1/collections/secret", json={"instructions": "the password is Rosebud"})
        _, key = indexed.store.keys.create("ann", KeyGrant(("train",), ("default",)))
        client.headers["Authorization"] = f"Bearer {key}"
        assert put(client, instructions=BRIEF)["actor"] == "key ann"
        assert client.put("/v1/collections/secret", json={"instructions": ""}).status_code == 403
        assert client.get("/v1/collections/secret").status_code == 404
        assert [each["name"] for each in client.get("/v1/collections").json()["collections"]] == ["default"]


def test_a_changed_prompt_makes_what_was_trained_under_the_old_one_stale(client, indexed):
    indexed.store.adapters.add(adapter(lineage={"collection": "default", "prompt": prompt_version()}))
    indexed.store.adapters.add(adapter("wide"))
    promote(indexed.store, indexed.model, "house")
    ask = {"question": QUESTION}
    assert client.post("/v1/answers", json=ask).json()["adapter_stale"] is False
    put(client, instructions=BRIEF)
    listed = {each["name"]: each for each in client.get("/v1/adapters").json()["adapters"]}
    assert (listed["house"]["stale"], listed["house"]["stale_because"]) == (True, ["prompt"])
    assert listed["wide"]["stale"] is False, "no collection is its own"
    assert client.post("/v1/answers", json=ask).json()["adapter_stale"] is True
    assert client.post("/v1/answers", json={**ask, "adapter": "wide"}).json()["adapter_stale"] is True
    assert client.post("/v1/answers", json={**ask, "instructions": ""}).json()["adapter_stale"] is False
    put(client)
    assert client.post("/v1/answers", json=ask).json()["adapter_stale"] is False


def test_stale_by_its_prompt_it_is_refused_where_stale_adapters_are(make_workspace):
    workspace = make_workspace("indexed", refuse_stale_adapters=True)
    workspace.store.adapters.add(adapter(lineage={"collection": "default"}))
    promote(workspace.store, workspace.model, "house")
    with open_client(workspace) as client:
        put(client, instructions=BRIEF)
        response = client.post("/v1/answers", json={"question": QUESTION})
    assert (response.status_code, response.json()["type"]) == (409, "stale-adapter")
    assert "other instructions" in response.json()["detail"]


def test_training_rows_hold_the_instructions_that_are_served(indexed, generator):
    chunk = next(chunk for _key, chunk, _title in indexed.store.chunks.iterate("default") if "1842" in chunk.text)
    pair = QAPair("p1", QUESTION, "1842", (chunk.id,), "span", "test", "accepted")
    plain = examples_from_pairs(indexed.store, indexed.retriever, [pair], top_k=2, seed=0)
    indexed.store.houses.put("default", BRIEF, {})
    (example,) = examples_from_pairs(indexed.store, indexed.retriever, [pair], top_k=2, seed=0)
    indexed.answerer.answer(AskRequest(QUESTION, mode="rag", top_k=2))
    assert example.messages == generator.requests[-1].messages
    assert plain[0].messages[0].content == ANSWER_WITH_PASSAGES["en"]


def test_each_collection_has_its_own_live_adapter(indexed, client):
    store, sha256 = indexed.store, MODEL.sha256
    store.collections.ensure("manual")
    store.adapters.add(adapter("reader"))
    for name, collection in (("house", "default"), ("manual", "manual")):
        store.adapters.add(adapter(name, lineage={"collection": collection}))
    promote(store, indexed.model, "reader")
    promote(store, indexed.model, "house")
    assert (store.adapters.live(sha256).name, store.adapters.live(sha256, "manual").name) == ("house", "reader")
    done = promote(store, indexed.model, "manual")
    assert done.before.name == "reader"
    assert client.post("/v1/answers", json={"question": QUESTION}).json()["adapter"] == "house@1"
    shown = {each["name"]: each["live_adapter"] for each in client.get("/v1/collections").json()["collections"]}
    assert shown == {"default": "house@1", "manual": "manual@1"}
    assert rollback(store, indexed.model, "manual").live.name == "reader"
    assert (store.adapters.live(sha256).name, store.adapters.live(sha256, "manual").name) == ("house", "reader")
    assert client.post("/v1/adapters/rollback?collection=default").json()["name"] == "reader"
    assert client.post("/v1/answers", json={"question": QUESTION}).json()["adapter"] == "reader@1"


def test_a_shadow_answers_for_its_own_collection(indexed):
    store = indexed.store
    for name, collection in (("house", "default"), ("manual", "manual")):
        store.collections.ensure(collection)
        store.adapters.add(adapter(name, lineage={"collection": collection}))
        store.adapters.shadow(name, 1)
    assert store.adapters.shadowing(MODEL.sha256).name == "house"
    assert store.adapters.shadowing(MODEL.sha256, "manual").name == "manual"
    assert store.adapters.shadowing(MODEL.sha256, "third") is None


def test_commands(make_workspace, generator, tmp_path):
    workspace = make_workspace("indexed")
    workspace.store.adapters.add(adapter(lineage={"collection": "default"}))
    workspace.close()
    shell = Shell(tmp_path / "state", generator)
    (tmp_path / "house.txt").write_text(BRIEF, encoding="utf-8")
    told = shell("collections", "set", "default", "--instructions-file", str(tmp_path / "house.txt"), "--top-k", "1")
    assert "version 1" in told.stdout
    assert "ragtune train --name house" in told.stdout
    assert len(shell.json("ask", QUESTION, "--mode", "rag")["passages"]) == 1
    assert prompted(generator).endswith(BRIEF)
    assert len(shell.json("ask", QUESTION, "--mode", "rag", "--top-k", "2")["passages"]) == 2
    assert shell.json("collections", "set", "default", "--temperature", "1")["sampling"] == {
        "temperature": 1.0,
        "top_k": 1,
    }
    assert shell.json("collections", "show", "default")["version"] == 2
    assert BRIEF in shell("collections", "show", "default").stdout
    assert "default" in shell("collections", "list").stdout
    assert "prompt" in shell("adapters", "list").stdout
    assert shell.json("collections", "set", "default", "--version", "0")["instructions"] == ""
    assert shell.json("adapters", "show", "house")["stale_because"] == []
    shell("collections", "set", "default", "--version", "0", "--top-k", "2", code=1)
