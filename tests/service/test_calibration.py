"""Calibrating, and what answers, comparisons and the HTTP routes make of it, over small real parts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from data.errors import CalibrationMissing, CalibrationStale, CalibrationTooSmall, InvalidRequest
from data.records import Message, Question
from service.answerer import AskRequest, PassagesFound, Token
from service.arms import Arm
from service.calibration.calibrate import CalibrationRequest, calibrate
from service.calibration.hiding import hide_answers
from service.compare.evaluation import EvaluationRequest, evaluate
from service.jobs import run_job
from service.work.calibrate import request_from
from tests.service.conftest import open_client
from tests.service.parts import adapter

pytestmark = pytest.mark.slow

STATUES = 60
"""A town with so many statues; of every second one the year is not told."""


def town():
    return "\n\n".join(
        f"Statue {n} shows the admiral {n}." + (f" Statue {n} was cast in {1700 + n}." if n % 2 else "")
        for n in range(STATUES)
    )


def questions(numbers=range(STATUES)):
    return tuple(
        Question(f"q{n}", f"When was statue {n} cast?", (str(1700 + n),) if n % 2 else (), bool(n % 2)) for n in numbers
    )


def number(request):
    return int(re.search(r"statue (\d+)", request.messages[-1].parts[-1])[1])


def reply(request):
    """Right of what is told; of every sixth that is not it says so, of the others it makes a year up."""
    n = number(request)
    return "I don't know." if n % 12 == 0 else f"{1700 + n} [1]"


def logprob(request):
    """Sure of what is told, less so of the rest, and twice wrong about it."""
    n = number(request)
    return -0.1 - n / 1000 if n % 2 or n in {2, 4} else -2.0 - n / 100


@pytest.fixture
def statues(make_workspace, generator, tmp_path):
    generator.reply, generator.logprob = reply, logprob
    workspace = make_workspace()
    (tmp_path / "town.md").write_text(town(), encoding="utf-8")
    workspace.ingestor.ingest("default", [tmp_path / "town.md"])
    return workspace


def ignore(_progress):
    pass


def calibrated(workspace, **changes):
    return calibrate(workspace, CalibrationRequest(questions(), **{"mode": "rag", **changes}), ignore)


def ask(workspace, n, rate=None, **changes):
    request = AskRequest(f"When was statue {n} cast?", mode="rag", max_false_answer_rate=rate, **changes)
    return workspace.answerer.answer(request)


def test_a_calibration_reports_what_it_is_worth(statues):
    figures = calibrated(statues)
    assert (figures["n"], figures["unanswerable"], figures["made_unanswerable"]) == (60, 30, False)
    assert (figures["answered"], figures["right"]) == (55, 30)
    assert figures["auroc"] > 0.9
    assert 0 <= figures["ece"] < 0.2
    assert sum(each["n"] for each in figures["bins"]) == 55
    by_rate = {row["max_false_answer_rate"]: row for row in figures["thresholds"]}
    assert by_rate[0.01]["threshold"] is None
    assert by_rate[0.01]["unanswerable_needed"] == 99
    assert by_rate[0.3]["held_out"]["coverage_answerable"] > 0.9
    assert by_rate[0.1]["held_out"]["false_answer_rate"] <= 0.2
    assert json.loads(json.dumps(figures)) == figures


def test_answers_have_a_confidence_once_it_is_calibrated(statues):
    assert ask(statues, 7).confidence is None
    calibrated(statues)
    sure, made_up, unknown = ask(statues, 7), ask(statues, 20), ask(statues, 12)
    assert 0 < made_up.confidence < 0.5 < sure.confidence < 1
    assert (unknown.confidence, unknown.abstained_by) == (None, "model")
    assert statues.store.answers.get(sure.id).answer.signals == sure.signals != {}


def test_an_answer_under_the_threshold_is_withheld(statues):
    calibrated(statues)
    kept, withheld = ask(statues, 7, 0.1), ask(statues, 20, 0.1)
    assert (kept.text, kept.abstained, kept.abstained_by) == ("1707 [1]", False, None)
    assert (withheld.text, withheld.abstained, withheld.abstained_by) == ("I don't know.", True, "confidence")
    assert withheld.citations == ()
    assert withheld.confidence is not None
    assert ask(statues, 20, 1.0).text == "1720"


def test_an_answer_unlike_those_calibrated_on_in_length_has_no_confidence(statues, generator):
    calibrated(statues)
    generator.reply = lambda request: reply(request) + " and more" * 60
    assert ask(statues, 1, max_tokens=48).confidence is not None, "cut where the calibration's answers were"
    assert ask(statues, 1).confidence is None, "longer than any it was fitted on"
    assert ask(statues, 1, max_tokens=10).confidence is None, "cut where none of them was"
    withheld = ask(statues, 1, 0.3)
    assert (withheld.abstained_by, withheld.confidence) == ("confidence", None)
    generator.reply = reply
    assert ask(statues, 1, max_tokens=10).confidence == ask(statues, 1).confidence, "short enough either way"


def test_a_stream_shows_nothing_of_an_answer_that_is_withheld(statues):
    calibrated(statues)
    request = AskRequest("When was statue 20 cast?", mode="rag", max_false_answer_rate=0.1)
    first, token, answer = statues.answerer.stream(request)
    assert isinstance(first, PassagesFound)
    assert isinstance(token, Token)
    assert token.text == answer.text == "I don't know."


def test_the_share_of_false_answers_is_that_of_the_calibration(statues):
    calibrated(statues)
    for rate in (0.05, 0.1, 0.2, 0.5):
        false = [ask(statues, n, rate) for n in range(0, STATUES, 2)]
        assert sum(not answer.abstained for answer in false) <= rate * 31 - 1 + 1e-9


def test_what_differs_from_the_calibration_has_no_confidence_and_is_refused_by_name(statues, generator):
    calibrated(statues)
    assert ask(statues, 7, top_k=2).confidence is None
    with pytest.raises(CalibrationStale, match=r"top_k was 4, is 2.*ragtune calibrate .*--top-k 2"):
        ask(statues, 7, 0.1, top_k=2)
    with pytest.raises(CalibrationStale, match="method was hybrid, is dense"):
        ask(statues, 7, 0.1, method="dense")
    with pytest.raises(CalibrationTooSmall, match="at least 99"):
        ask(statues, 7, 0.01)
    with pytest.raises(InvalidRequest, match="sampling"):
        ask(statues, 7, 0.1, temperature=0.7)
    with pytest.raises(InvalidRequest, match="history"):
        ask(statues, 7, 0.1, history=(Message("user", ("Hello",)),))
    assert ask(statues, 7, temperature=0.7).confidence is None
    asked = len(generator.requests)
    with pytest.raises(CalibrationMissing, match="--mode base"):
        statues.answerer.answer(AskRequest("x", mode="base", max_false_answer_rate=0.1))
    assert len(generator.requests) == asked


def test_a_new_embedder_or_adapter_makes_it_stale(statues, make_workspace):
    calibrated(statues)
    statues.store.adapters.add(adapter())
    calibrated(statues, mode="combined", adapter="house")
    combined = Arm("combined", passages=True, adapter="house@1")
    assert statues.answerer.answer(AskRequest("When was statue 7 cast?", arm=combined)).confidence is not None
    statues.store.adapters.delete("house", 1)
    statues.store.adapters.add(adapter(recipe={"r": 16}))
    assert statues.answerer.answer(AskRequest("When was statue 7 cast?", arm=combined)).confidence is None
    other = make_workspace()
    other.embedder.fingerprint = "hash-256-tuned"
    other.ingestor.rebuild("default")
    with pytest.raises(CalibrationStale, match="embedder was hash-256, is hash-256-tuned"):
        ask(other, 7, 0.1)


def test_a_damaged_calibration_is_none(statues):
    path = Path(calibrated(statues)["path"])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CalibrationMissing):
        ask(statues, 7, 0.1)
    assert ask(statues, 7).confidence is None


def test_without_unanswerable_questions_some_are_made(statues, generator):
    told = questions(range(1, STATUES, 2))
    generator.reply = lambda request: (
        f"{1700 + number(request)} [1]" if str(1700 + number(request)) in request.messages[-1].content else "1600 [1]"
    )
    generator.logprob = lambda request: -0.1 if str(1700 + number(request)) in request.messages[-1].content else -2.0
    figures = calibrate(statues, CalibrationRequest(told, mode="rag"), ignore)
    assert figures["made_unanswerable"]
    assert (figures["answerable"], figures["unanswerable"], figures["right"]) == (15, 15, 15)
    with pytest.raises(CalibrationTooSmall, match="no passages that could be hidden"):
        calibrate(statues, CalibrationRequest(told, mode="base"), ignore)


def test_a_hidden_answer_is_in_no_passage(statues):
    told = questions(range(1, STATUES, 2))
    hidden = hide_answers(told, statues.retriever, "default", 4)
    assert hidden == hide_answers(told, statues.retriever, "default", 4)
    assert len(hidden.chunks) == 15
    for question in hidden.questions:
        found = statues.retriever.search(question.question, exclude_chunks=hidden.chunks.get(question.id, ()))
        year = str(1700 + int(question.id[1:]))
        assert any(year in passage.chunk.text for passage in found) == question.answerable


def test_a_stopped_calibration_goes_on(statues, generator):
    class Stopped(Exception):
        pass

    def stop(progress):
        if progress.done == 20:
            raise Stopped

    with pytest.raises(Stopped):
        calibrate(statues, CalibrationRequest(questions(), mode="rag"), stop)
    calibrated(statues)
    assert len(generator.requests) == 60


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (questions(range(1)), CalibrationTooSmall),
        (questions(range(0, STATUES, 2)), CalibrationTooSmall),
        ((replace(questions()[1], answers=()),), InvalidRequest),
        (questions() + questions(), InvalidRequest),
    ],
)
def test_questions_that_cannot_calibrate(statues, given, error):
    with pytest.raises(error):
        calibrate(statues, CalibrationRequest(given, mode="rag"), ignore)
    with pytest.raises(CalibrationMissing):
        ask(statues, 7, 0.1)


def test_a_generator_without_log_probabilities_is_refused(statues, generator):
    stream = generator.stream

    def silent(request):
        for delta in stream(request):
            yield replace(delta, result=delta.result and replace(delta.result, logprobs=(), top_logprobs=()))

    generator.stream = silent
    with pytest.raises(InvalidRequest, match="log-probabilities"):
        calibrated(statues)


def test_compare_keeps_the_share_where_an_arm_is_calibrated(statues, tmp_path):
    request = EvaluationRequest(questions(), arms=("rag", "base"), out=tmp_path / "out", max_false_answer_rate=0.1)
    with pytest.raises(CalibrationMissing):
        evaluate(statues, request, ignore)
    before = evaluate(statues, replace(request, max_false_answer_rate=None), ignore).result["arms"]["rag"]
    calibrated(statues)
    arms = evaluate(statues, request, ignore).result["arms"]
    assert before["false_answer_rate"] > 0.8
    assert arms["rag"]["false_answer_rate"] <= 0.1
    assert arms["rag"]["coverage_answerable"] > 0.9
    assert 0 <= arms["rag"]["aurc"] < 0.2
    assert arms["rag"]["risk_coverage"][-1]["coverage"] == pytest.approx(
        1 - arms["rag"]["abstained"] / len(questions()), abs=1e-9
    )
    assert (arms["rag"]["max_false_answer_rate"], arms["base"]["max_false_answer_rate"]) == (0.1, None)
    with pytest.raises(CalibrationTooSmall):
        evaluate(statues, replace(request, max_false_answer_rate=0.001), ignore)


def test_a_calibration_over_http_is_a_job(statues):
    rows = [
        {"id": q.id, "question": q.question, "answers": list(q.answers), "answerable": q.answerable}
        for q in questions()
    ]
    with open_client(statues) as client:
        response = client.post("/v1/calibrations", json={"questions": rows, "mode": "rag"})
        assert response.status_code == 202
        job = run_job(statues, response.json()["job_id"])
        assert job.status == "succeeded", job.error
        (found,) = client.get("/v1/calibrations").json()["calibrations"]
        assert found["auroc"] == job.outputs["auroc"]
        assert found["fitted_for"]["mode"] == "rag"
        body = {"question": "When was statue 20 cast?", "mode": "rag", "max_false_answer_rate": 0.1}
        answer = client.post("/v1/answers", json=body).json()
        assert (answer["abstained"], answer["abstained_by"], answer["answer"]) == (True, "confidence", "I don't know.")
        assert client.post("/v1/answers", json={**body, "max_false_answer_rate": 0}).status_code == 422
        assert client.post("/v1/calibrations", json={"questions": [], "mode": "rag"}).status_code == 409
        assert client.post("/v1/calibrations", json={"questions": rows, "mode": "rga"}).status_code == 422


def test_a_calibration_reads_as_many_passages_as_its_collection(statues):
    statues.store.houses.put("default", "", {"top_k": 2}, "test")
    assert request_from(statues, {"questions": []}).top_k == 2
    assert request_from(statues, {"questions": [], "top_k": 3}).top_k == 3
