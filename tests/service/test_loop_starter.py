"""The loop with the real starter model: two rounds over sample documents, the second after one was edited."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import data
from data.formats import read_questions
from service.jobs import run_job, submit
from service.settings import Settings
from service.work.loop import run as run_loop
from service.workspace import Workspace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    # peft asks transformers for a name that transformers is about to change.
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning"),
]

SAMPLES = Path(data.__file__).parent / "samples"
DOCUMENTS = 2
RECIPE = {"max_steps": 2, "warmup_steps": 0}


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    """Two rounds: the documents as they are; one of them edited. Return the workspace and both jobs."""
    root = tmp_path_factory.mktemp("loop")
    folder = root / "documents"
    folder.mkdir()
    every = read_questions(SAMPLES / "questions.jsonl")
    names = list(dict.fromkeys(question.document for question in every))[:DOCUMENTS]
    for name in names:
        shutil.copy(SAMPLES / "corpus" / name, folder)
    asked = [question for question in every if question.document in names]
    with Workspace(Settings.load(state_dir=root / "state", model="starter", n_ctx=2048)) as workspace:
        inputs = {
            "paths": [str(folder)],
            "questions": [
                {"id": q.id, "question": q.question, "answers": list(q.answers), "answerable": q.answerable}
                for q in asked
            ],
            "recipe": RECIPE,
            "proposals": 8,
            "actor": "cli ann",
        }
        first = run_job(workspace, submit(workspace.store, "loop", inputs).id)
        edited = folder / names[0]
        edited.write_text(edited.read_text(encoding="utf-8").replace(".\n", ". This was checked in 2026.\n"), "utf-8")
        second = run_job(workspace, submit(workspace.store, "loop", inputs).id)
        yield workspace, first, second


def test_the_first_round_ends_with_a_reader_that_serves(rounds):
    workspace, first, _ = rounds
    assert first.status == "succeeded", first.error
    steps = first.outputs["steps"]
    assert steps["ingest"]["indexed"] == DOCUMENTS
    assert steps["pairs"]["ledger"]["accepted"] > 0
    assert steps["evaluate"]["questions"]["n"] >= 20
    assert steps["promote"]["promoted"], steps["promote"]["reasons"]
    assert first.outputs["lineage"]["rows_sha256"] == workspace.store.adapters.get("house", 1).rows_sha256
    newest = workspace.store.stages.list(kind="adapter")[-1]
    assert (newest.subject, newest.event, newest.actor) == ("house@1", "promoted", "loop of cli ann")


def test_the_second_round_asks_anew_about_what_was_edited_and_keeps_what_is_as_good(rounds):
    _, _, second = rounds
    assert second.status == "succeeded", second.error
    steps = second.outputs["steps"]
    assert (steps["ingest"]["indexed"], steps["ingest"]["unchanged"]) == (1, DOCUMENTS - 1)
    assert steps["pairs"]["stale"] > 0
    assert steps["pairs"]["documents_without_pairs"] >= 1
    assert steps["train"]["adapter"] == "house@2"
    assert {"rag", "house@1", "house@2"} == set(steps["evaluate"]["arms"])
    promoted = steps["promote"]["promoted"]
    failed = [each["rule"] for each in steps["promote"]["decision"]["reasons"] if each["passed"] is False]
    assert promoted == (not failed)
    assert second.outputs["live"] == ("house@2" if promoted else "house@1")
    report = (Path(second.outputs["folder"]) / "report.md").read_text()
    assert "house@2" in report


def test_a_third_round_without_changes_trains_nothing(rounds):
    workspace, _, second = rounds
    third = run_loop(workspace, dict(second.inputs) | {"questions": [], "proposals": 0}, lambda _: None)
    assert third["steps"]["train"]["skipped"] == "nothing changed since"
    assert third["live"] == second.outputs["live"]
