"""Pairs and evaluations on a Ray cluster of two nodes, with the real starter: what one process finds."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

import data
from data.errors import JobCancelled
from data.formats import read_questions
from service.jobs import run_job, submit
from service.settings import Settings
from service.work import pairs
from service.workspace import Workspace
from tests.service.engine.fake_server import FakeServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SAMPLES = Path(data.__file__).parent / "samples"
DOCUMENT = "00-super-bowl-50.md"
PROPOSALS = 8
QUESTIONS = 3
PAIRS = {"collection": "default", "limit": PROPOSALS, "seed": 3, "kinds": ["span", "unanswerable"]}


def settings(state, **given):
    return Settings.load(state_dir=state, model="starter", n_ctx=1024, sequences=2, n_threads=1, **given)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A state with a document and a run of pairs that was stopped before its first proposal, so that ids are given."""
    state = tmp_path_factory.mktemp("begun") / "state"

    def stop(progress):
        if progress.stage == "pairs":
            raise JobCancelled("stopped")

    with Workspace(settings(state)) as workspace:
        workspace.ingestor.ingest("default", [SAMPLES / "corpus" / DOCUMENT])
        with pytest.raises(JobCancelled):
            pairs.run(workspace, PAIRS, stop)
    return state


@pytest.fixture
def place(begun, tmp_path):
    def make(name, **given):
        shutil.copytree(begun, tmp_path / name)
        return settings(tmp_path / name, **given)

    return make


@dataclass
class Kill:
    """Kills a node when so much of a stage is done."""

    cluster: object
    stage: str
    after: int
    killed: int = -1

    def __call__(self, progress):
        if progress.stage == self.stage and progress.done >= self.after and self.killed < 0:
            self.killed = progress.done
            self.cluster.kill_one()


def written(chosen, watch=None):
    """Run the pairs job; return the ledger and the run's pairs."""
    with Workspace(chosen) as workspace:
        job = run_job(workspace, submit(workspace.store, "pairs", PAIRS).id, watch=watch)
        assert job.status == "succeeded", job.error
        found = workspace.store.pairs.of_run(job.outputs["run_id"])
        told = {pair.id: (pair.question, pair.answer, pair.status, pair.reason, pair.checks) for pair in found}
        assert len(told) == len(found)
        return job.outputs, told, sorted(workspace.store.pairs.failures(job.outputs["run_id"]))


def test_pairs_are_those_of_one_process_though_a_node_is_killed(place, ray_cluster):
    alone = written(place("alone"))
    kill = Kill(ray_cluster, "pairs", 1)
    spread = written(place("spread", ray_address=ray_cluster.address), kill)
    ray_cluster.complete()
    assert 0 <= kill.killed < PROPOSALS - 3, "it came too late to matter"
    assert alone == spread
    ledger = spread[0]
    assert ledger["pending"] == 0
    assert ledger["accepted"] + sum(ledger["rejected"].values()) + ledger["failed"] == PROPOSALS


def test_a_teacher_has_as_many_requests_as_without_a_cluster(place, ray_cluster):
    chosen = place("taught", ray_address=ray_cluster.address, teacher_model="default")
    mutex, under_way, most, more = threading.Lock(), [], [], threading.Event()

    def reply(body):
        with mutex:
            under_way.append(body)
            most.append(len(under_way))
            if most[-1] > chosen.sequences:
                more.set()
        more.wait(1.0)
        with mutex:
            under_way.pop()
        return json.dumps({"question": "Who won Super Bowl 50 in the year 2016?", "answer": "Denver Broncos"})

    with FakeServer("openai") as teacher, Workspace(chosen) as workspace:
        teacher.models, teacher.reply = ("default",), reply
        ledger = pairs.run(workspace, {**PAIRS, "teacher": teacher.url}, lambda _progress: None)
    assert ledger["accepted"] + sum(ledger["rejected"].values()) == PROPOSALS
    assert max(most) <= chosen.sequences


def questions():
    asked = [each for each in read_questions(SAMPLES / "questions.jsonl") if each.document == DOCUMENT]
    return [
        {"id": each.id, "question": each.question, "answers": list(each.answers), "answerable": each.answerable}
        for each in asked[:QUESTIONS]
    ]


def answered(chosen, watch=None):
    """Run the evaluation job; return what each arm answered to each question."""
    inputs = {"collection": "default", "questions": questions(), "arms": ["base", "rag", "reader"]}
    with Workspace(chosen) as workspace:
        job = run_job(workspace, submit(workspace.store, "evaluate", inputs).id, watch=watch)
        assert job.status == "succeeded", job.error
        from service.compare.outcomes import read_outcomes

        outcomes = read_outcomes(Path(job.outputs["folder"]) / "answers.jsonl")
        assert len(outcomes) == 3 * QUESTIONS
        assert workspace.store.evaluations.get(job.outputs["evaluation_id"])
        return [(each.key, each.text, each.f1, each.cited, each.passages, each.error) for each in outcomes]


def test_answers_are_those_of_one_process_though_a_node_is_killed(place, ray_cluster):
    alone = answered(place("alone"))
    kill = Kill(ray_cluster, "compare", 1)
    spread = answered(place("spread", ray_address=ray_cluster.address), kill)
    ray_cluster.complete()
    assert 0 <= kill.killed < 2 * QUESTIONS, "it came too late to matter"
    assert alone == spread
    assert not any(error for *_, error in spread)
