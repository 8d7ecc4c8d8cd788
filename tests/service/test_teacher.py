"""Pairs that a teacher writes over a socket: every kind, its checks, types, terms and personas; and who cannot."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from data.errors import InvalidRequest
from service.cli import app
from service.commands.session import Session
from service.settings import Settings
from service.work import pairs as pairs_work
from service.workspace import Workspace
from tests.service.conftest import real_server, small_workspace
from tests.service.engine.fake_server import FakeServer
from tests.service.parts import DOCUMENTS, MODEL, HashEmbedder, adapter

BOTH = "facts of both passages"
FREE = "full sentences of your own"
NO_ANSWER = "does not answer"


def said(question: str, answer: str | None = None) -> str:
    return json.dumps({"question": question} if answer is None else {"question": question, "answer": answer})


GOOD = {
    BOTH: said(
        "Who kept the lighthouse of Orrin and who planted the garden of Tolm with its blue roses?",
        "The keeper of the lighthouse was Mara Venn. The garden was planted by the brothers Ask and Embla.",
    ),
    FREE: said("Why can the lighthouse of Orrin be seen from the bay?", "It stands on a red cliff above the bay."),
    NO_ANSWER: said("How tall is the lighthouse of Orrin on its red cliff?"),
    "Choose an answer": said("When was the lighthouse of Orrin built?", "1842"),
}


def system(body: dict) -> str:
    return body["messages"][0]["content"]


def answering(replies: dict[str, str]) -> Callable[[dict], str]:
    return lambda body: next(reply for words, reply in replies.items() if words in system(body))


@pytest.fixture
def teacher() -> Iterator[FakeServer]:
    with FakeServer("openai") as server:
        server.models = ("default",)
        server.reply = answering(GOOD)
        yield server


@pytest.fixture
def generate(make_workspace, generator, tmp_path, teacher):
    make_workspace("indexed").close()

    def run(*words, code=0):
        session = Session(lambda settings: small_workspace(settings.state_dir, generator))
        given = ["pairs", "generate", "--teacher", teacher.url, "--json", *map(str, words)]
        found = CliRunner().invoke(app, ["--state-dir", str(tmp_path / "state"), *given], obj=session)
        assert found.exit_code == code, f"{found.output}\n{found.exception!r}"
        return json.loads(found.stdout) if code == 0 else found.stderr

    return run


@pytest.fixture
def kept(make_workspace):
    return lambda: make_workspace().store.pairs.all("default", "accepted")


def test_every_kind_is_asked_for_and_kept(generate, teacher, kept):
    ledger = generate("--kinds", "span,free,multi,unanswerable", "--limit", 40, "--per-source-cap", 1)
    assert ledger["accepted"] + sum(ledger["rejected"].values()) + ledger["failed"] == 40
    pairs = {pair.kind: pair for pair in kept()}
    assert set(pairs) == {"span", "free", "multi", "unanswerable"}
    assert len(set(pairs["multi"].chunk_ids)) == 2
    assert pairs["multi"].checks["needs_each_passage"]["passed"]
    assert pairs["multi"].checks["retrieved_again"]["reason"].startswith("rank ")
    assert pairs["free"].checks["claims_grounded"]["passed"]
    bodies = [body for _, body in teacher.seen]
    assert all(body["response_format"]["type"] == "json_schema" for body in bodies)
    two = next(body for body in bodies if BOTH in system(body))["messages"][1]["content"]
    assert "1842" in two
    assert "blue roses" in two


def test_an_answer_that_one_passage_gives_needs_no_second(generate, teacher):
    one = said("Who kept the lighthouse of Orrin, and when was it built?", "It was built in 1842. Mara Venn kept it.")
    teacher.reply = answering({**GOOD, BOTH: one})
    ledger = generate("--kinds", "multi", "--limit", 6)
    assert ledger["rejected"] == {"needs_each_passage": 6}


def test_a_claim_that_no_passage_makes_is_found(generate, teacher):
    invented = said(
        "Why can the lighthouse of Orrin be seen from the bay?",
        "It stands on a red cliff above the bay. Its lamp burns whale oil from Norway.",
    )
    teacher.reply = answering({**GOOD, FREE: invented})
    assert generate("--kinds", "free", "--limit", 4)["rejected"] == {"claims_grounded": 4}


def test_types_are_planned_within_each_document_and_reported(generate, teacher, kept):
    ledger = generate("--kinds", "span,free", "--limit", 12)
    planned = ledger["question_types"]["planned"]
    assert sum(planned.values()) == 12
    assert len(planned) >= 3
    asked = Counter(word for _, body in teacher.seen for word in planned if f"“{word.capitalize()}”" in system(body))
    assert asked == Counter(planned)
    assert sum(ledger["question_types"]["accepted"].values()) == len(kept()) > 0
    before = len(teacher.seen)
    assert generate("--kinds", "span,free", "--limit", 12, "--no-plan-types")["question_types"]["planned"] == {}
    assert not any("Ask a “" in system(body) for _, body in teacher.seen[before:])


def test_terms_and_personas_are_told_and_terms_are_checked(generate, teacher, tmp_path):
    glossary = tmp_path / "terms.toml"
    glossary.write_text('[terms]\n"light station" = ["lighthouse"]\n"greenhouse" = ["hothouse"]\n')
    words = ("--kinds", "free", "--limit", 4, "--glossary", glossary, "--exclude", "garden.md")
    ledger = generate(*words, "--persona", "A sailor in a hurry.", "--persona", "A child.")
    assert ledger["rejected"] == {"preferred_terms": 4}
    systems = [system(body) for _, body in teacher.seen]
    assert all("Write “light station”, never “lighthouse”." in text for text in systems)
    assert not any("greenhouse" in text for text in systems), "that term is not in the passage"
    assert Counter("A child." in text for text in systems) == {True: 2, False: 2}
    teacher.reply = answering({FREE: GOOD[FREE].replace("lighthouse", "light station")})
    assert generate(*words)["rejected"].get("preferred_terms") is None


def test_impossible_wishes_are_refused(generate):
    assert "span, free, multi, unanswerable" in generate("--kinds", "style", code=1)
    assert "Invalid persona" in generate("--persona", " ", code=1)


def test_two_passages_need_a_second_one(generate, kept):
    ledger = generate("--kinds", "multi", "--limit", 3, "--exclude", "garden.md", "--no-faq")
    assert ledger["failed"] + ledger["accepted"] + sum(ledger["rejected"].values()) == 3
    assert all(len(set(pair.chunk_ids)) == 2 for pair in kept())


def test_a_teacher_without_a_reader_needs_no_cluster(make_workspace, tmp_path, teacher):
    make_workspace("indexed").close()
    weights = tmp_path / "toy.gguf"
    weights.write_bytes(b"no starter")
    settings = Settings.load(state_dir=tmp_path / "state", teacher_model="default", ray_address="127.0.0.1:1")
    with Workspace(settings, embedder=HashEmbedder(), model=replace(MODEL, gguf=str(weights))) as workspace:
        ledger = pairs_work.run(workspace, {"limit": 2, "teacher": teacher.url}, lambda _progress: None)
    assert ledger["failed"] == 0
    assert ledger["accepted"] + sum(ledger["rejected"].values()) == 2


def test_what_the_packaged_writer_is_worth_is_said(make_workspace, generator):
    built = said("When was the lighthouse of Orrin built?", "1842")
    generator.reply = lambda request: built if request.grammar else "1842 [1]"
    workspace = make_workspace("indexed")
    for name in ("pair-writer", "mine"):
        workspace.store.adapters.add(adapter(name))
    mine = pairs_work.run(workspace, {"adapter": "mine", "limit": 4}, lambda _progress: None)
    assert "advice" not in mine
    workspace.store.pairs.update(workspace.store.pairs.all("default", "accepted")[0].id, status="rejected")
    packaged = pairs_work.run(workspace, {"adapter": "pair-writer", "limit": 4}, lambda _progress: None)
    assert packaged["accepted"] == 1
    assert "--teacher" in packaged["advice"]


def test_without_a_larger_model_documents_are_taken_at_their_word(make_workspace, generator, monkeypatch):
    generator.reply = lambda request: said("When was it built?", "1842") if request.grammar else "1842 [1]"
    workspace = make_workspace("indexed")
    workspace.store.adapters.add(adapter("pair-writer"))
    monkeypatch.setattr(Workspace, "ensure_starter_adapters", lambda _self: ("pair-writer",))
    ledger = pairs_work.run(workspace, {"limit": 4}, lambda _progress: None)
    assert ledger["requested"] == ledger["stated"]["requested"] < 4
    assert not generator.requests
    assert "--teacher" in ledger["advice"]
    filled = pairs_work.run(workspace, {"limit": 4, "fill": True}, lambda _progress: None)
    assert filled["requested"] == 4 == filled["accepted"] + filled["failed"] + sum(filled["rejected"].values())
    assert filled["stated"]["requested"] == sum(ledger["rejected"].values()), "what is kept is not counted again"
    assert generator.requests
    assert pairs_work.run(workspace, {"limit": 4, "kinds": ["span"]}, lambda _progress: None)["requested"] == 4


def test_the_live_ledger_of_statements_and_written_pairs_only_grows(make_workspace, generator, monkeypatch):
    generator.reply = lambda request: said("When was it built?", "1842") if request.grammar else "1842 [1]"
    workspace = make_workspace("indexed")
    workspace.store.adapters.add(adapter("pair-writer"))
    monkeypatch.setattr(Workspace, "ensure_starter_adapters", lambda _self: ("pair-writer",))
    seen = []
    ledger = pairs_work.run(workspace, {"limit": 4, "fill": True, "faq": False}, seen.append)
    live = [one for one in seen if one.unit == "proposals"]
    assert {one.stage for one in live} == {"stated", "pairs"}
    assert live[-1].done == live[-1].total == ledger["requested"] == 4
    for count in (lambda one: one.done, lambda one: one.metrics["accepted"]):
        assert [count(one) for one in live] == sorted(count(one) for one in live)
    assert dict(live[-1].metrics) == {name: ledger[name] for name in ("accepted", "rejected", "failed")}


def test_statements_are_taken_beside_a_teachers_pairs_where_asked_for(generate, kept):
    ledger = generate("--kinds", "stated,span", "--limit", 5, "--no-faq")
    assert ledger["requested"] == 5 == ledger["accepted"] + ledger["failed"] + sum(ledger["rejected"].values())
    assert ledger["stated"]["requested"] >= 1
    assert any(pair.generated_by == "stated:when_done" for pair in kept())
    assert generate("--kinds", "stated,span", "--limit", 5, "--no-faq") == ledger
    assert "stated" not in generate("--limit", 5, "--no-faq")


def test_statements_that_are_kept_take_nothing_of_a_teachers_share(generate):
    alone = generate("--kinds", "stated", "--limit", 5, "--no-faq")
    assert alone["accepted"] >= 1
    ledger = generate("--kinds", "stated,span", "--limit", 5, "--no-faq")
    assert ledger["stated"]["requested"] == sum(alone["rejected"].values())
    assert ledger["requested"] == 5 == ledger["accepted"] + ledger["failed"] + sum(ledger["rejected"].values())
    assert "advice" not in ledger
    assert "advice" not in alone, "who named a teacher has a larger model"


@pytest.fixture(scope="module")
def starter(tmp_path_factory):
    root = tmp_path_factory.mktemp("starter")
    for name, text in DOCUMENTS.items():
        (root / name).write_text(text, encoding="utf-8")
    settings = Settings.load(state_dir=root / "state", log_level="WARNING", n_ctx=2048, teacher_model="base")
    with Workspace(settings, embedder=HashEmbedder()) as workspace:
        workspace.ingestor.ingest("default", [root / name for name in DOCUMENTS])
        yield workspace


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wish", "named"),
    [({"kinds": ["span", "multi"]}, "kind multi"), ({"personas": ["A child."]}, "personas"),
     ({"glossary": {"a": ["b"]}}, "glossary"), ({"plan_types": True}, "planned types")],
)  # fmt: skip
def test_the_packaged_pair_writer_refuses_what_it_cannot_do(starter, wish, named):
    with pytest.raises(InvalidRequest, match="follows no instructions") as refused:
        pairs_work.run(starter, {"limit": 4, **wish}, lambda _progress: None)
    assert named in str(refused.value.got)
    assert "--teacher" in refused.value.hint


@pytest.mark.slow
def test_a_real_engine_behind_a_socket_replies_in_the_form_asked_for(starter):
    with real_server(starter) as url:
        inputs = {"limit": 6, "kinds": ["free", "multi", "unanswerable"], "teacher": f"{url}/v1", "faq": False}
        ledger = pairs_work.run(starter, inputs, lambda _progress: None)
    assert ledger["accepted"] + sum(ledger["rejected"].values()) + ledger["failed"] == 6
    made = starter.store.pairs.of_run(ledger["run_id"])
    assert {pair.kind for pair in made} >= {"free", "multi"}
    reasons = [pair.checks["well_formed"]["reason"] for pair in made]
    assert reasons.count("not the JSON object that was asked for") <= 1, "only one that was cut off"
