"""The commands of reviews, through the console script's own entry."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from data.records import QAPair
from service.cli import app
from service.commands.session import Session
from tests.service.conftest import small_workspace

pytestmark = pytest.mark.slow


@pytest.fixture
def shell(make_workspace, generator, tmp_path):
    make_workspace("indexed").close()

    def run(*words, code=0):
        session = Session(lambda settings: small_workspace(settings.state_dir, generator))
        found = CliRunner().invoke(app, ["--state-dir", str(tmp_path / "state"), *map(str, words)], obj=session)
        assert found.exit_code == code, f"{found.output}\n{found.exception!r}"
        return found

    return run


@pytest.fixture
def as_json(shell):
    return lambda *words, code=0: json.loads(shell(*words, "--json", code=code).stdout)


@pytest.fixture
def store(make_workspace):
    return make_workspace("indexed").store


@pytest.fixture
def pairs(store):
    chunk = next(chunk for _, chunk, _ in store.chunks.iterate("default") if "1842" in chunk.text)
    checks = {"grounded": {"passed": True, "reason": ""}, "answered_alike": {"passed": False, "reason": "says: no"}}
    made = [
        QAPair("p1", "When was the lighthouse built?", "1842", (chunk.id,), "span", "test", checks=checks),
        QAPair("p2", "Who kept Orrin?", "Mara Venn", (), "free", "test"),
    ]
    store.pairs.add("default", None, made)
    return store.pairs


def test_show_marks_the_answer_in_its_passage(shell, as_json, pairs):
    text = shell("pairs", "show", "p1", "p2").stdout
    assert "built in ⟦1842⟧." in text
    assert "answered_alike: failed (says: no)" in text
    shown = as_json("pairs", "show", "p1")["pairs"][0]["passages"][0]
    assert shown["text"][shown["span"]["start"] : shown["span"]["end"]] == "1842"
    assert "No such pair" in shell("pairs", "show", "p9", code=1).stderr


def test_decisions_and_their_undoing(shell, as_json, pairs):
    assert as_json("pairs", "accept", "p1", "p2")["changed"] == ["p1", "p2"]
    assert "1 rejected, 0 unchanged" in shell("pairs", "reject", "p1", "--reason", "dull").stdout
    assert (pairs.get("p1").status, pairs.get("p1").reason) == ("rejected", "dull")
    assert "1 undone" in shell("pairs", "undo", "p1").stdout
    assert [row["id"] for row in as_json("pairs", "list", "--status", "accepted")["pairs"]] == ["p1", "p2"]
    assert as_json("pairs", "undo", "p1", "p2") == {"undone": ["p1", "p2"], "unchanged": 0}
    assert "no review" in shell("pairs", "undo", "p1", code=1).stderr
    shell("pairs", "undo", code=2)
    shell("pairs", "undo", "p1", "--review", "r", code=2)
    assert "No such pair" in shell("pairs", "accept", "p1", "p9", code=1).stderr
    assert pairs.get("p1").status == "candidate"


def test_an_edit_says_what_its_wording_is_worth(shell, as_json, pairs):
    assert "grounded: failed" in shell("pairs", "edit", "p1", "--answer", "1843").stdout
    assert (
        as_json("pairs", "edit", "p1", "--question", "When was it built?")["checks"]["self_contained"]["passed"]
        is False
    )
    assert pairs.get("p1").answer == "1843"
    assert "blank" in shell("pairs", "edit", "p1", "--question", " ", code=1).stderr
    assert "changes nothing" in shell("pairs", "edit", "p1", code=1).stderr


def test_a_review_by_filter(shell, as_json, pairs):
    words = ("pairs", "review", "--failed-check", "answered_alike", "--to", "rejected")
    assert "1 pairs" in shell(*words, "--dry-run").stdout
    done = as_json(*words, "--reason", "the reader disagrees")
    assert (done["changed"], pairs.get("p1").reason) == (["p1"], "the reader disagrees")
    assert as_json("pairs", "undo", "--review", done["review_id"])["undone"] == ["p1"]
    assert len(as_json("pairs", "review", "--all", "--to", "accepted")["changed"]) == 2
    shell("pairs", "review", "--to", "accepted", code=2)
    shell("pairs", "review", "--to", "good", "--all", code=2)
    shell("pairs", "review", "--to", "accepted", "--kind", "odd", code=2)
    assert "collection" in shell("pairs", "review", "--to", "accepted", "--all", "-C", "no", code=1).stderr


def test_the_list_is_filtered(shell, as_json, pairs):
    def ids(*words):
        return [row["id"] for row in as_json("pairs", "list", *words)["pairs"]]

    assert ids("--source", "light*") == ["p1"]
    assert ids("--text", "orrin") == ["p2"]
    assert ids("--kind", "free", "--generated-by", "test") == ["p2"]
    assert ids("--failed-check", "answered_alike") == ["p1"]
    assert "No such pairs" in shell("pairs", "list", "--text", "nothing").stdout
    assert "p1" in shell("pairs", "list").stdout
    shell("pairs", "list", "--kind", "odd", code=2)


def test_the_coverage_is_shown(shell, as_json, pairs):
    shell("pairs", "accept", "p1")
    rows = {row["source"]: row for row in as_json("pairs", "coverage")["documents"]}
    assert (rows["lighthouse.md"]["accepted"], rows["garden.md"]["accepted"]) == (1, 0)
    assert "100%" in shell("pairs", "coverage", "--limit", 5).stdout


def test_generation_keeps_evaluation_questions_out(shell, as_json, generator, tmp_path):
    said = '{"question": "When was the lighthouse of Orrin built?", "answer": "1842"}'
    generator.reply = lambda request: said if request.grammar else "1842 [1]"
    path = tmp_path / "questions.jsonl"
    path.write_text('{"id": "1", "question": "When was the lighthouse of Orrin built", "answers": ["1842"]}')
    words = ("pairs", "generate", "--limit", 6, "--exclude", "garden.md", "--exclude-questions", path)
    ledger = as_json(*words)
    assert ledger["accepted"] == 0
    assert ledger["rejected"]["uncontaminated"] >= 4
    assert "per_source_cap=2.0" in shell(*words, "--per-source-cap", 2, code=1).stderr


def test_generation_keeps_out_what_the_collection_is_evaluated_on(as_json, generator, store):
    said = '{"question": "When was the lighthouse of Orrin built?", "answer": "1842"}'
    generator.reply = lambda request: said if request.grammar else "1842 [1]"
    asked = {"question": "When was the lighthouse of Orrin built", "answers": ["1842"]}
    store.jobs.create("evaluate", {"collection": "other", "questions": [asked]})
    assert as_json("pairs", "generate", "--limit", 4, "--exclude", "garden.md")["accepted"] == 1
    store.jobs.create("evaluate", {"collection": "default", "questions": [asked]})
    ledger = as_json("pairs", "generate", "--limit", 4, "--exclude", "garden.md")
    assert (ledger["accepted"], "uncontaminated" in ledger["rejected"] or "not_duplicate" in ledger["rejected"]) == (
        0,
        True,
    )
