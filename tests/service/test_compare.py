from __future__ import annotations

import json

import pytest

from data.errors import (
    BaseModelMismatch,
    EngineTimeout,
    InvalidRequest,
    JobCancelled,
    NoLiveAdapter,
    NoQuestions,
    StateNotWritable,
    UnknownMode,
)
from data.records import Question
from service.compare.evaluation import EvaluationRequest, evaluate
from service.compare.outcomes import read_outcomes
from service.compare.run import choose_arms
from tests.service.parts import adapter

QUESTIONS = (
    Question("built", "When was the lighthouse of Orrin built?", ("1842",)),
    Question("keeper", "Who was the keeper of the lighthouse?", ("Mara Venn", "Venn")),
    Question("roses", "What does the garden of Tolm grow?", ("blue roses",)),
    Question("mayor", "Who is the mayor of Orrin?", (), answerable=False),
)
RIGHT = {"built": "1842 [1]", "Who was": "Mara Venn [1]", "garden": "blue roses [1]", "mayor": "I don't know."}


def reply(request):
    """Right with an adapter, "1842" from passages alone, lost with neither."""
    question = request.messages[-1].parts[-1]
    if request.adapter:
        return next(text for mark, text in RIGHT.items() if mark in question)
    return "1842 [1]" if len(request.messages[-1].parts) > 1 else "I don't know."


def ignore(_progress):
    pass


@pytest.fixture
def tuned(indexed, generator):
    generator.reply = reply
    indexed.store.adapters.add(adapter())
    indexed.store.adapters.promote("house")
    return indexed


def run(workspace, tmp_path, report=ignore, **changes):
    return evaluate(workspace, EvaluationRequest(QUESTIONS, **{"out": tmp_path / "out", **changes}), report)


def test_each_arm_is_scored_on_every_question(tuned, tmp_path):
    result = run(tuned, tmp_path).result
    arms = result["arms"]
    assert list(arms) == ["base", "rag", "tuned", "combined"]
    assert (arms["combined"]["f1"], arms["combined"]["em"]) == (100.0, 100.0)
    assert (arms["rag"]["f1"], arms["base"]["f1"]) == (25.0, 25.0)
    assert arms["combined"]["false_answer_rate"] == 0.0
    assert arms["rag"]["false_answer_rate"] == 1.0
    assert (arms["base"]["coverage_answerable"], arms["combined"]["coverage_answerable"]) == (0.0, 1.0)
    assert arms["combined"]["abstained"] == 1
    assert (arms["combined"]["rouge_l"], arms["rag"]["rouge_l"]) == (100.0, 25.0)
    assert (arms["combined"]["groundedness"], arms["base"]["groundedness"]) == (1.0, None)
    assert arms["combined"]["semantic_similarity"] == pytest.approx(1.0)
    assert arms["rag"]["semantic_similarity"] < 0.5
    assert arms["base"]["semantic_similarity"] is None
    assert (arms["rag"]["aurc"], arms["rag"]["risk_coverage"]) == (None, None)
    assert "ragtune calibrate" in arms["rag"]["unscored"]["aurc"]
    assert set(arms["base"]["unscored"]) == {"ece", "aurc", "risk_coverage", "groundedness", "citation_precision"}
    assert arms["rag"]["completion_tokens"] == 2.0
    assert "two calibrated arms" in result["router"]["reason"]
    oracle = result["router"]["oracle"]
    assert (oracle["best_single_f1"], oracle["f1"]) == (100.0, 100.0)
    assert oracle["best_single"] in ("tuned", "combined"), "both answer all rightly"
    assert {row["method"] for row in arms.values()} == {None, "hybrid"}
    assert arms["combined"]["adapter"] == "house@1"
    assert result["difference"]["combined-rag"]["f1"] == 75.0
    assert {"combined-base", "combined-tuned", "tuned-rag", "rag-base"} <= set(result["difference"])
    assert "not decisive" in result["verdict"]  # four questions decide nothing
    assert result["recommendation"] is None
    assert result["seconds"]["answers"] > 0


def test_the_report_has_the_title_and_the_command_that_are_wanted(tuned, tmp_path):
    done = run(tuned, tmp_path, arms=("rag", "base"), title="Orrin", repeat_with="python -m again")
    page = (done.folder / "index.html").read_text()
    assert "<h1>Orrin" in page
    assert "Repeat it with <code>python -m again</code>" in page
    assert "An oracle that took each question" in page
    oracle = done.result["router"]["oracle"]
    assert (oracle["best_single_f1"], oracle["f1"]) == (25.0, 50.0), "each is right where the other is not"


def test_citations_are_scored_by_whether_the_passage_holds_an_answer(tuned, tmp_path, generator):
    combined = run(tuned, tmp_path, arms=("combined", "base")).result["arms"]["combined"]
    assert (combined["citation_precision"], combined["citation_recall"]) == (1.0, 1.0)
    generator.reply = lambda request: "1842 [2]"
    rag = run(tuned, tmp_path, arms=("rag", "base"), fresh=True).result["arms"]["rag"]
    # The wrong mark is put right, so every answer cites the lighthouse: for two of the four it holds the answer.
    assert rag["citation_precision"] == 0.5
    assert run(tuned, tmp_path, arms=("base",)).result["arms"]["base"]["citation_recall"] is None


def test_every_arm_is_asked_alike(tuned, tmp_path, generator):
    run(tuned, tmp_path, top_k=1)
    assert {(r.temperature, r.max_tokens) for r in generator.requests} == {(0.0, 48)}
    assert {r.adapter for r in generator.requests} == {None, "house@1"}


def test_a_failing_question_counts_as_wrong_and_is_listed(tuned, tmp_path, generator):
    def fail_once(request):
        if "garden" in request.messages[-1].parts[-1] and request.adapter:
            raise EngineTimeout("No answer in time", got="300 s")
        return reply(request)

    generator.reply = fail_once
    combined = run(tuned, tmp_path, arms=("combined", "rag")).result["arms"]["combined"]
    assert combined["n"] == 4
    assert combined["f1"] == 75.0
    assert combined["errors"] == [{"id": "roses", "error": "engine-timeout: No answer in time Got: 300 s."}]


def test_a_stopped_run_goes_on_where_it_was(tuned, tmp_path, generator):
    asked = []

    def stop(progress):
        if progress.done == 5:
            raise JobCancelled("stop")

    with pytest.raises(JobCancelled):
        run(tuned, tmp_path, report=stop)
    before = len(generator.requests)
    assert before == 5
    assert len(read_outcomes(tmp_path / "out" / "answers.jsonl")) == 5
    result = run(tuned, tmp_path, report=asked.append).result
    assert asked[0].done == 5
    assert asked[-1].done == asked[-1].total == 16
    assert len(generator.requests) == 16
    assert result["arms"]["combined"]["f1"] == 100.0


def test_a_line_cut_short_by_a_crash_is_asked_again(tuned, tmp_path, generator):
    run(tuned, tmp_path)
    path = tmp_path / "out" / "answers.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    run(tuned, tmp_path)
    assert len(generator.requests) == 17


def test_other_questions_arms_or_settings_share_no_answers(tuned, tmp_path, generator):
    run(tuned, tmp_path, arms=("rag",))
    run(tuned, tmp_path, arms=("rag",), top_k=1)
    assert len(generator.requests) == 8
    run(tuned, tmp_path, arms=("rag",), top_k=1)
    assert len(generator.requests) == 8
    run(tuned, tmp_path, arms=("rag",), top_k=1, fresh=True)
    assert len(generator.requests) == 12


def test_the_starter_reader_is_a_row_of_its_own(tuned, tmp_path):
    tuned.store.adapters.add(adapter("reader"))
    result = run(tuned, tmp_path).result
    assert list(result["arms"]) == ["base", "rag", "tuned", "combined", "reader"]
    assert result["arms"]["reader"]["adapter"] == "reader@1"
    assert "Against the starter reader alone" in result["verdict"]


def test_an_adapter_that_is_named_takes_the_place_of_the_live_one(tuned, tmp_path):
    tuned.store.adapters.add(adapter("other"))
    result = run(tuned, tmp_path, arms=("combined", "rag"), adapter="other").result
    assert result["arms"]["combined"]["adapter"] == "other@1"


def test_reports_and_row_are_kept(tuned, tmp_path):
    evaluation = run(tuned, tmp_path)
    kept = json.loads((tmp_path / "out" / "result.json").read_text())
    assert kept["arms"] == evaluation.result["arms"]
    assert (tmp_path / "out" / "index.html").read_text().startswith("<!doctype html>")
    assert tuned.store.evaluations.get(evaluation.id)["verdict"] == kept["verdict"]
    assert tuned.store.evaluations.latest("default")["id"] == evaluation.id


def test_what_cannot_run_is_refused_before_anything_is_asked(tuned, tmp_path, generator):
    store, model = tuned.store, tuned.model
    with pytest.raises(NoQuestions):
        evaluate(tuned, EvaluationRequest(()), ignore)
    with pytest.raises(InvalidRequest, match="same id"):
        evaluate(tuned, EvaluationRequest((QUESTIONS[0], QUESTIONS[0])), ignore)
    with pytest.raises(InvalidRequest, match="no accepted answer"):
        evaluate(tuned, EvaluationRequest((Question("a", "b?", ()),)), ignore)
    with pytest.raises(InvalidRequest, match="twice"):
        choose_arms(store, model, ("rag", "rag"))
    with pytest.raises(UnknownMode):
        choose_arms(store, model, ("ragg",))
    store.adapters.add(adapter("foreign", base="f" * 64))
    with pytest.raises(BaseModelMismatch):
        choose_arms(store, model, ("foreign",))
    store.adapters.delete("house")
    with pytest.raises(NoLiveAdapter):
        choose_arms(store, model, ("combined",))
    assert [arm.name for arm in choose_arms(store, model)] == ["base", "rag"]
    assert generator.requests == []


def test_a_folder_that_cannot_be_written_ends_the_run(tuned, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateNotWritable):
        run(tuned, tmp_path, out=tmp_path / "file" / "out")


def asked(generator):
    return {(r.max_tokens, r.temperature, len(r.messages[-1].parts) > 2) for r in generator.requests}


def test_what_a_comparison_leaves_open_is_the_collections_own(tuned, tmp_path, generator):
    tuned.store.houses.put("default", "", {"top_k": 1, "max_tokens": 9, "temperature": 0.5}, "test")
    run(tuned, tmp_path, arms=("rag",))
    assert asked(generator) == {(9, 0.5, False)}
    again = run(tuned, tmp_path, arms=("rag",), fresh=True, top_k=2, max_tokens=20, temperature=0.0)
    assert asked(generator) == {(9, 0.5, False), (20, 0.0, True)}
    assert "temperature 0, at most 20 tokens" in (again.folder / "index.html").read_text(encoding="utf-8")


def test_a_share_of_false_answers_wants_greedy_answers(tuned, tmp_path):
    tuned.store.houses.put("default", "", {"temperature": 0.5}, "test")
    with pytest.raises(InvalidRequest, match="greedily"):
        run(tuned, tmp_path, max_false_answer_rate=0.1)
