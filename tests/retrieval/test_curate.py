"""Every check lets good proposals through and names what it refuses, in English and Chinese."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from data.records import Chunk, PairKind, Passage
from retrieval.candidates import Context, parse_candidate
from retrieval.curate import check, check_wording
from retrieval.wording import dangling_reference, information, points_at_source, prose, says_something, stretch_of

SAMPLES = Path(__file__).resolve().parents[2] / "data" / "samples"
ENGLISH = (
    "Fresno was founded in 1872 by the Central Pacific Railroad. The party of settlers named it after the\n"
    "abundant ash trees lining the San Joaquin River."
)
CHINESE = "弗雷斯诺于1872年由中央太平洋铁路公司建立，其名称来自圣华金河畔的白蜡树。该市现有人口约五十万。"


def passage(text: str = ENGLISH, document: str = "doc", rank: int = 1) -> Passage:
    return Passage(Chunk(f"{document}-{len(text)}", document, text, 0, len(text), "Fresno"), 1.0, rank, "hybrid")


def outcome(
    question: str,
    answer: str = "1872",
    *,
    text: str = ENGLISH,
    kind: PairKind = "span",
    raw: str | None = None,
    context: Context | None = None,
) -> str:
    """Return the name of the check that refuses the proposal, or "accepted"."""
    fields = {"question": question} if kind == "unanswerable" else {"question": question, "answer": answer}
    about = passage(text)
    proposal = parse_candidate(raw or json.dumps(fields, ensure_ascii=False), kind, about)
    results = check(proposal, context or Context(lambda _question: [about]))
    assert all(result.passed for result in results[:-1])
    assert results[-1].passed or results[-1].reason
    return "accepted" if results[-1].passed else results[-1].name


def test_good_proposals_pass() -> None:
    assert outcome("When was Fresno founded?") == "accepted"
    assert outcome("弗雷斯诺是在哪一年建立的？", "1872年", text=CHINESE) == "accepted"


@pytest.mark.parametrize(
    ("question", "raw"),
    [
        ("When was Fresno founded", None),
        ("When?", None),
        ("When was Fresno founded? By whom?", None),
        ("When was Fresno " + "really " * 40 + "founded?", None),
        ("弗雷斯诺是在哪一年建立的？", None),
        ("", "When was Fresno founded? 1872"),
        ("", '{"question": "When was Fresno founded?", "answer": "18'),
        ("", '{"answer": "1872", "question": "When was Fresno founded?", "why": ""}'),
        ("", '{"answer": "1872"}'),
        ("", '{"question": "When was Fresno founded?", "answer": 1872}'),
        ("", '{"question": "When was Fresno founded?", "answer": ""}'),
        ("", '["When was Fresno founded?", "1872"]'),
    ],
)
def test_malformed_proposals_are_refused(question: str, raw: str | None) -> None:
    assert outcome(question, raw=raw) == "well_formed"


@pytest.mark.parametrize(
    "answer",
    [
        "1873",
        "art",
        "187",
        "Fresno was founded in 1872 by the Central Pacific Railroad. The party of settlers named it",
    ],
)
def test_answers_that_do_not_stand_in_the_passage_or_are_long_are_refused(answer: str) -> None:
    assert outcome("When was the town beside the river founded?", answer) == "grounded"


def test_long_chinese_answers_are_refused() -> None:
    assert outcome("弗雷斯诺的历史是怎样的？", CHINESE[:36], text=CHINESE) == "grounded"


def test_a_grounded_answer_gets_the_passages_own_spelling() -> None:
    about = passage()
    proposal = parse_candidate('{"question": "q?", "answer": "THE abundant  ash trees."}', "span", about)
    assert proposal.answer == "the abundant ash trees"


def test_an_answer_is_found_across_a_line_break_but_not_inside_a_word() -> None:
    assert stretch_of("the abundant ash", ENGLISH) == "the abundant ash"
    assert stretch_of("part", ENGLISH) is None
    assert stretch_of("白蜡树", CHINESE) == "白蜡树"
    assert stretch_of("C++", "It is written in C++.") == "C++"
    assert stretch_of("…", "and so on…") is None


def test_a_question_that_holds_its_answer_is_refused() -> None:
    assert outcome("Was Fresno founded in 1872?") == "not_leaked"
    assert outcome("1872年弗雷斯诺由谁建立？", "1872年", text=CHINESE) == "not_leaked"


@pytest.mark.parametrize(
    "question",
    [
        "According to the passage, when was Fresno founded?",
        "What does the author say about Fresno?",
        "What is the main idea of this article?",
        "When was it founded?",
        "What did he do?",
        "What year was this city founded?",
        "Where did they name their town?",
        "When did that happen?",
        "What is the founding?",
    ],
)
def test_questions_that_need_their_passage_are_refused(question: str) -> None:
    assert outcome(question) == "self_contained"


@pytest.mark.parametrize(
    "question",
    ["根据本文，弗雷斯诺何时建立？", "文章中提到的城市何时建立？", "它是在哪一年建立的？", "该市是在哪一年建立的？"],
)
def test_chinese_questions_that_need_their_passage_are_refused(question: str) -> None:
    assert outcome(question, "1872年", text=CHINESE) == "self_contained"


@pytest.mark.parametrize(
    "question",
    [
        "Who is the author of Hamlet?",
        "How long does it take to cross the Atlantic?",
        "Why did Tesla leave his job at Edison?",
        "Which company moved its headquarters to Fresno?",
        "What is photosynthesis?",
        "《红楼梦》的作者是谁？",
        "中央太平洋铁路公司在其他城市有哪些车站？",
        "弗雷斯诺及其周边地区有多少人口？",
    ],
)
def test_questions_that_stand_alone_pass(question: str) -> None:
    assert points_at_source(question) is None
    assert dangling_reference(question) is None


def test_nearly_all_human_questions_count_as_self_contained() -> None:
    questions = [json.loads(line)["question"] for line in (SAMPLES / "questions.jsonl").read_text().splitlines()]
    refused = [q for q in questions if points_at_source(q) or dangling_reference(q)]
    assert len(questions) > 50
    assert len(refused) <= 0.03 * len(questions), refused


def test_near_duplicates_of_accepted_questions_are_refused() -> None:
    about = passage()
    context = Context(lambda _question: [about], accepted=[("In what year was the city of Fresno founded?", "1872")])
    assert outcome("What year was the city of Fresno founded?", context=context) == "not_duplicate"
    assert outcome("Who named the city of Fresno?", "settlers", context=context) == "accepted"


def test_questions_like_an_evaluation_question_are_refused() -> None:
    about = passage()
    context = Context(lambda _question: [about], evaluation=["When was the city of Fresno founded?"])
    assert outcome("When was the city Fresno founded?", context=context) == "uncontaminated"


def test_a_question_must_bring_its_passage_back() -> None:
    other = Context(lambda _question: [passage("Another text.", "other")])
    assert outcome("When was Fresno founded?", context=other) == "retrieved_again"


def scripted_context(*said: str, found: Sequence[Passage] | None = None) -> Context:
    answers = iter(said)
    return Context(lambda _question: found or [passage()], read=lambda _question, _passages: next(answers))


def test_the_reader_has_to_answer_alike() -> None:
    assert outcome("When was Fresno founded?", context=scripted_context("in 1872 [1]")) == "accepted"
    assert outcome("When was Fresno founded?", context=scripted_context("by settlers [1]")) == "answered_alike"
    assert outcome("When was Fresno founded?", context=scripted_context("I don't know.")) == "answered_alike"


def test_unanswerable_questions_are_near_misses_that_the_reader_leaves_unanswered() -> None:
    question = "Who designed the first bridge of Fresno?"
    far = [passage("Another text.", "other")]
    assert outcome(question, kind="unanswerable") == "accepted"
    assert outcome(question, kind="unanswerable", context=scripted_context("I don't know.")) == "accepted"
    assert outcome(question, kind="unanswerable", context=scripted_context("settlers [1]")) == "not_answered"
    assert outcome(question, kind="unanswerable", context=scripted_context("", found=far)) == "near_miss"


def test_retrieval_is_asked_once_per_question_and_only_after_the_cheap_checks() -> None:
    asked: list[str] = []

    def search(question: str) -> list[Passage]:
        asked.append(question)
        return [passage()]

    context = Context(search, read=lambda _question, _passages: "1872 [1]")
    assert outcome("When was it founded?", context=context) == "self_contained"
    assert asked == []
    assert outcome("When was Fresno founded?", context=context) == "accepted"
    assert asked == ["When was Fresno founded?"]


def test_information_counts_names_numbers_and_long_words() -> None:
    assert information("It was so, and they did it as well.") == 0
    assert information("In 1872 the Central Pacific Railroad reached Fresno.") == 5
    assert information(CHINESE) > 15


def test_prose_is_what_code_and_markup_leave() -> None:
    text = (
        "Say <b>this</b> at https://a.b/c. { #anchor }\n{% if x %}\n/// note | Tip\n```py\nx = 1\n```\nDone.\n~~~\nopen"
    )
    assert prose(text).split() == ["Say", "this", "at", "Done."]
    assert not says_something(text)
    assert says_something(ENGLISH)
    assert says_something(CHINESE)


DOCS = "The `status_code` argument takes a number. Clients retry three times when the server is restarted each night."


@pytest.mark.parametrize(
    ("question", "answer", "refused_by"),
    [
        ("How often do clients retry?", "three times", "accepted"),
        ("How often do clients retry?", "the server", "fits_question"),
        ("When is the server restarted?", "each night", "accepted"),
        ("When is the server restarted?", "clients", "fits_question"),
        ("Why do clients retry?", "restarted", "fits_question"),
        ("Which argument takes a number?", "`status_code`", "accepted"),
        ("Which argument takes a number?", "`status_code", "not_cut_off"),
        ("What do clients do when the server is restarted?", "retry three times when", "accepted"),
        ("What do clients do when the server is restarted?", "retry three times when the", "not_cut_off"),
        ("Who holds the patent on redundant storage clusters?", "clients", "spoken_of"),
    ],
)
def test_question_answer_and_passage_must_fit_one_another(question: str, answer: str, refused_by: str) -> None:
    assert outcome(question, answer, text=DOCS) == refused_by


def test_chinese_questions_answers_and_passages_fit_too() -> None:
    assert outcome("弗雷斯诺现有人口约多少？", "五十万", text=CHINESE) == "accepted"
    assert outcome("弗雷斯诺现有人口约多少？", "白蜡树", text=CHINESE) == "fits_question"
    assert outcome("哪家银行在东京提供最低的贷款利率？", "白蜡树", text=CHINESE) == "spoken_of"


def test_an_edited_pair_is_checked_by_its_kind() -> None:
    two = [passage(), passage("Oxygen was isolated by Michael Sendivogius before 1604.", "other")]
    question, answer = (
        "When was Fresno founded and oxygen isolated?",
        "Fresno was founded in 1872. Oxygen was isolated.",
    )
    names = {result.name: result.passed for result in check_wording(question, answer, "multi", two)}
    assert names["claims_grounded"]
    assert "grounded" not in names
    assert not check_wording(question, "It was sold to Orrin.", "multi", two)[0].passed
    assert not check_wording("When was Fresno founded?", "1999", "span", [passage()])[0].passed
    assert check_wording("When was Fresno founded?", "1872", "span", [])[0].name == "not_leaked"
