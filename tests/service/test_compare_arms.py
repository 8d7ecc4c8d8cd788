"""Comparisons as resumable jobs: arms that fail, adapters that go, shared searches, methods, stored questions."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from data.access import MACHINE, acting, current
from data.errors import EngineTimeout, EngineUnavailable, InvalidRequest, UnknownAdapter
from data.records import Answer, QAPair, Question, Usage
from service.arms import Arm
from service.asking import AskRequest
from service.compare.answering import GIVE_UP, Failures, ask_all
from service.compare.evaluation import EvaluationRequest, evaluate
from service.compare.outcomes import OutcomeFile, read_outcomes
from service.compare.run import with_methods
from service.compare.table import print_comparison
from service.jobs import RESUMABLE, run_job, submit
from tests.service.conftest import open_client
from tests.service.parts import adapter

pytestmark = pytest.mark.slow

QUESTIONS = tuple(
    Question(f"q{i}", f"When was the lighthouse number {i * 7919} of Orrin built?", ("1842",)) for i in range(24)
)


def ignore(_progress):
    pass


@pytest.fixture
def tuned(indexed, generator):
    generator.reply = lambda request: "1842 [1]" if request.adapter else "I don't know."
    indexed.store.adapters.add(adapter())
    indexed.store.adapters.promote("house")
    return indexed


def run(workspace, tmp_path, report=ignore, **changes):
    return evaluate(workspace, EvaluationRequest(QUESTIONS, **{"out": tmp_path / "out", **changes}), report)


def test_an_arm_that_fails_half_way_is_marked_and_the_rest_is_kept(tuned, tmp_path, generator):
    answered = []

    def reply(request):
        if request.adapter:
            answered.append(1)
            if len(answered) > 6:
                raise EngineTimeout("No answer in time")
            return "1842 [1]"
        return "I don't know."

    generator.reply = reply
    done = run(tuned, tmp_path, arms=("base", "rag", "combined"))
    row = done.result["arms"]["combined"]
    assert row["failed"] == {"type": "engine-timeout", "error": "No answer in time", "after": 6}
    assert (row["n"], row["f1"], row["adapter"]) == (6, 100.0, "house@1")
    assert len(answered) == 6 + GIVE_UP
    assert set(done.result["difference"]) == {"rag-base"}
    assert done.result["recommendation"] in ("rag", "base")
    assert done.result["arms"]["rag"]["n"] == 24
    page = (done.folder / "index.html").read_text()
    assert "combined failed after 6 questions" in page
    assert list(done.comparison.outcomes) == ["base", "rag"]


def test_an_adapter_that_is_deleted_meanwhile_ends_its_arm_at_once(tuned, tmp_path):
    def delete(progress):
        if progress.done == 8 and tuned.store.adapters.list():
            tuned.store.adapters.delete("house")

    done = run(tuned, tmp_path, report=delete, arms=("rag", "combined"))
    assert done.result["arms"]["combined"]["failed"]["type"] == "unknown-adapter"
    assert done.result["arms"]["combined"]["failed"]["after"] == 4
    assert done.result["arms"]["rag"]["n"] == 24


def test_failures_with_successes_between_them_are_wrong_answers(tuned, tmp_path, generator):
    calls = []

    def reply(request):
        calls.append(1)
        if len(calls) % 3:
            raise EngineTimeout("No answer in time")
        return "1842 [1]"

    generator.reply = reply
    row = run(tuned, tmp_path, arms=("combined",)).result["arms"]["combined"]
    assert "failed" not in row
    assert (row["n"], len(row["errors"])) == (24, 16)


def test_where_every_arm_fails_the_evaluation_does(tuned, tmp_path, generator):
    generator.error = EngineUnavailable("The engine is down")
    with pytest.raises(EngineUnavailable):
        run(tuned, tmp_path)
    generator.error = None
    assert run(tuned, tmp_path).result["arms"]["combined"]["n"] == 24
    tuned.store.adapters.delete("house")
    with pytest.raises(UnknownAdapter):
        run(tuned, tmp_path, arms=("combined",), adapter="house", fresh=True)


def outcomes(tmp_path, parallel):
    """Ask all arms of a scripted generator; return what is kept, what ended, and who asked."""
    asked = []
    arms = [Arm("base", False), Arm("combined", True, "house@1")]

    class Answers:
        def answer(self, ask):
            asked.append((current().name, ask.question))
            number = int(ask.question)
            if ask.arm.name == "combined" and number > 4:
                raise EngineTimeout("No answer in time")
            text = f"The answer is {number}."
            return Answer(ask.question, text, False, None, (), ask.arm.mode, "m", None, Usage(), {}, None)

    requests = [
        (Question(f"q{number}", str(number), ("1842",)), arm, AskRequest(str(number), arm=arm))
        for number in range(40)
        for arm in arms
    ]
    failures = Failures()
    with OutcomeFile(tmp_path / f"{parallel}.jsonl", "run") as kept, acting(replace(MACHINE, name="ann")):
        told = [each.done for each in ask_all(Answers(), requests, kept, "compare", failures, parallel=parallel)]
    lines = (tmp_path / f"{parallel}.jsonl").read_text()
    return lines, list(failures.ended), told, asked


def test_questions_asked_at_a_time_are_kept_as_those_asked_one_by_one(tmp_path):
    alone, together = (outcomes(tmp_path, parallel) for parallel in (1, 4))
    assert alone[:3] == together[:3]
    assert alone[1] == ["combined"]
    assert {name for name, _ in together[3]} == {"ann"}
    assert len(together[3]) <= len(alone[3]) + 8  # so many were under way when the arm ended


def test_arms_that_search_alike_share_the_search(tuned, tmp_path, monkeypatch):
    searched = []
    plain = tuned.retriever.retrieve

    def retrieve(question, *about, **named):
        searched.append((question, named.get("method") or about[2]))
        time.sleep(0.02)
        return plain(question, *about, **named)

    monkeypatch.setattr(tuned.retriever, "retrieve", retrieve)
    done = run(tuned, tmp_path, arms=("base", "rag", "tuned", "combined"))
    assert len(searched) == len(QUESTIONS), "rag and combined share one"
    rows = {(o.arm, o.question_id): o for o in read_outcomes(done.folder / "answers.jsonl")}
    for question in QUESTIONS:
        first, second = rows["rag", question.id], rows["combined", question.id]
        assert min(first.retrieve_ms, second.retrieve_ms) >= 20, "the search counts for both"
        assert first.passages == second.passages


def test_each_search_method_makes_an_arm(tuned, tmp_path):
    done = run(tuned, tmp_path, arms=("base", "rag", "combined"), methods=("hybrid", "lexical"))
    assert list(done.result["arms"]) == ["base", "rag", "rag:lexical", "combined", "combined:lexical"]
    assert "combined-rag" in done.result["difference"]
    page = (done.folder / "index.html").read_text()
    assert "rag:lexical" in page
    for wrong in (("hybrid", "hybrid"), ("bm25",)):
        with pytest.raises(InvalidRequest, match="search methods"):
            with_methods((), wrong)


def test_questions_that_leak_repeat_or_have_answers_in_another_language_are_named(tuned, tmp_path):
    chunk = next(iter(tuned.store.chunks.iterate("default")))[1]
    tuned.store.pairs.add(
        "default", None, [QAPair("p1", QUESTIONS[3].question, "1842", (chunk.id,), "span", "test", "accepted")]
    )
    from data.store import TrainedRow

    tuned.store.adapters.add(adapter(version=2, lineage={"collection": "default"}), [TrainedRow("r", "p1", ())])
    twice = (
        *QUESTIONS,
        Question("again", QUESTIONS[0].question + " ", ("1842",), origin="mine"),
        Question("far", "Who mended the roof of Tolm?", ("市长", "屋顶匠"), origin="mine"),
        Question("near", "谁修了屋顶？", ("the old mayor of the town",), origin="mine"),
        Question("name", "哪一家电视台转播了比赛？", ("Golden Gate Bridge",), origin="mine"),
        Question("pair-1", "Who painted the boat house of Tolm?", ("a sailor",), origin="pairs"),
    )
    done = evaluate(tuned, EvaluationRequest(twice, ("rag", "house@2"), out=tmp_path / "out"), ignore)
    about = done.result["questions"]
    assert about["leaked"] == [{"id": "q3", "adapter": "house@2", "like": QUESTIONS[3].question}]
    assert about["repeated"] == [{"id": "again", "of": "q0"}]
    assert about["origins"] == {"file": 24, "mine": 4, "pairs": 1}
    assert about["other_language"] == ["far", "near"], "a name may be written as it is anywhere"
    page = (done.folder / "index.html").read_text()
    assert "q3 (house@2)" in page
    assert "again like q0" in page
    assert "in another language than their questions: far, near" in page
    assert "1 of the questions is of generated pairs" in page
    assert done.result["strata"]["origin"]["mine"]["n"] == 4
    console = Console(file=StringIO(), width=200)
    print_comparison(done.result, console)
    assert "far: its accepted answers are in another language" in console.file.getvalue()


@pytest.mark.parametrize("questions", [QUESTIONS[:1], (Question("no", "Who is the mayor?", (), answerable=False),)])
def test_one_question_decides_nothing_and_has_a_report(tuned, tmp_path, questions):
    done = evaluate(tuned, EvaluationRequest(questions, out=tmp_path / "out"), ignore)
    assert done.result["recommendation"] is None
    assert "not decisive" in done.result["verdict"]
    assert "Too few questions" in (done.folder / "index.html").read_text()


def test_a_job_that_was_killed_goes_on_without_asking_anything_twice(tuned, tmp_path):
    """A real process, killed between two answers; the job is interrupted, queued again and run here."""
    assert "evaluate" in RESUMABLE
    inputs = {"questions": [asdict(q) for q in QUESTIONS], "arms": ["rag", "combined"], "out": str(tmp_path / "out")}
    job = submit(tuned.store, "evaluate", inputs)
    answers = tmp_path / "out" / "answers.jsonl"
    child = subprocess.Popen([sys.executable, "-c", _CHILD, str(tuned.state.root), job.id], cwd=Path.cwd())
    deadline = time.monotonic() + 60
    while not answers.exists() or answers.read_bytes().count(b"\n") < 8:
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = len(read_outcomes(answers))
    assert 7 <= kept < 48
    for _ in range(200):
        if tuned.store.jobs.interrupt_expired():
            break
        time.sleep(0.05)
    tuned.store.jobs.requeue(job.id)
    done = run_job(tuned, job.id)
    assert done.status == "succeeded", done.error
    assert len(tuned.generator.requests) == 48 - kept
    assert done.outputs["evaluation_id"] == job.id
    assert tuned.store.evaluations.get(job.id)["arms"]["combined"]["f1"] == 100.0


_CHILD = """
import sys, time
from service.jobs import run_job
from service.settings import Settings
from service.workspace import Workspace
from tests.service.parts import MODEL, HashEmbedder, ScriptedGenerator

def reply(request):
    time.sleep(0.05)
    return "1842 [1]" if request.adapter else "I don't know."

settings = Settings.load(state_dir=sys.argv[1], lease_s=1.5)
with Workspace(settings, embedder=HashEmbedder(), generator=ScriptedGenerator(reply), model=MODEL) as workspace:
    run_job(workspace, sys.argv[2])
"""


def test_a_fresh_job_that_was_stopped_goes_on_too(tuned, tmp_path, generator):
    run(tuned, tmp_path, arms=("rag",))

    def stop(progress):
        if progress.done == 5:
            raise KeyboardInterrupt

    for report in (stop, ignore):
        try:
            run(tuned, tmp_path, report, arms=("rag",), fresh=True, identity="job1")
        except KeyboardInterrupt:
            assert len(generator.requests) == 24 + 5
    assert len(generator.requests) == 48
    run(tuned, tmp_path, arms=("rag",), fresh=True, identity="job2")
    assert len(generator.requests) == 72


def test_an_evaluation_that_was_stopped_at_its_end_is_kept_once(tuned, tmp_path):
    for _ in range(2):
        done = run(tuned, tmp_path, arms=("rag",), identity="job1")
    assert done.id == "job1"
    assert len(tuned.store.evaluations.list()) == 1


def test_stored_questions_are_asked_over_http_and_from_the_command_line(tuned, tmp_path, generator):
    from tests.service.shells import Shell

    with open_client(tuned) as client:
        refused = client.post("/v1/evaluations", json={"origins": ["feedback"]})
        assert (refused.status_code, refused.json()["type"]) == (409, "no-questions")
        answer = client.post("/v1/answers", json={"question": "When was the lighthouse of Orrin built?"}).json()
        client.post("/v1/feedback", json={"answer_id": answer["id"], "correction": "1842"})
        response = client.post("/v1/evaluations", json={"origins": ["feedback"], "arms": ["rag", "combined"]})
        job = run_job(tuned, response.json()["job_id"])
        assert job.outputs["questions"]["origins"] == {"feedback": 1}
        assert client.get(f"/v1/evaluations/{job.id}").json()["id"] == job.id
        assert client.post("/v1/evaluations", json={"origins": ["rumours"]}).status_code == 422
    shell = Shell(tuned.state.root, generator)
    mine = tmp_path / "mine.jsonl"
    mine.write_text(json.dumps({"id": "a", "question": "Who is the mayor?", "answers": [], "answerable": False}))
    words = ("compare", "--questions", "feedback", "--questions", mine, "--arms", "rag,combined")
    found = shell.json(*words, "--retrievers", "hybrid,lexical")
    assert found["questions"]["origins"] == {"file": 1, "feedback": 1}
    assert "combined:lexical" in found["arms"]
    page = (Path(found["folder"]) / "index.html").read_text()
    assert f"ragtune compare --questions feedback --questions {mine} --top-k 4" in page
    assert "is no file" in shell("compare", "--questions", "none.jsonl", code=2).stderr
    assert "no questions" in shell("compare", "--questions", "pairs", "--arms", "rag", code=1).stderr
