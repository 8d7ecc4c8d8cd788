from __future__ import annotations

import pytest
import sqlalchemy as sa

from data.errors import (
    CalibrationMissing,
    ContextOverflow,
    InvalidRequest,
    NothingIndexed,
    QuestionInvalid,
    UnknownAnswer,
    UnknownCollection,
)
from data.records import Answer, Message
from service.answerer import AskRequest, PassagesFound, Token
from tests.service.parts import adapter

QUESTION = "When was the lighthouse of Orrin built?"


def test_an_answer_cites_what_stands_in_its_document(indexed, generator):
    generator.reply = "1842 [1]"
    answer = indexed.answerer.answer(AskRequest(QUESTION))
    (citation,) = answer.citations
    assert (answer.text, answer.abstained, answer.mode, answer.adapter) == ("1842 [1]", False, "rag", None)
    assert citation.source == "lighthouse.md"
    assert citation.supported
    text = indexed.store.documents.get(citation.document_id).text
    assert text[citation.start : citation.end] == citation.quote
    assert "1842" in citation.quote
    assert answer.index_generation == 1
    assert answer.confidence is None
    assert set(answer.timings) == {"queue", "retrieve", "prefill", "generate", "total"}


def test_the_answer_is_kept(indexed):
    answer = indexed.answerer.answer(AskRequest(QUESTION))
    assert indexed.store.answers.get(answer.id).answer.text == answer.text
    unkept = indexed.answerer.answer(AskRequest(QUESTION, keep=False))
    with pytest.raises(Exception, match="No such answer"):
        indexed.store.answers.get(unkept.id)


def test_what_an_answer_looks_up_beforehand_is_one_transaction(indexed):
    indexed.store.adapters.add(adapter())
    indexed.store.adapters.promote("house")
    indexed.store.evaluations.add("e1", {"recommendation": "combined", "arms": {"combined": {"adapter": "house@1"}}})
    indexed.answerer.answer(AskRequest(QUESTION))  # opens the index
    begun: list[object] = []
    pool = indexed.store._database._engine.pool
    sa.event.listen(pool, "checkout", lambda *connection: begun.append(connection))
    answer = indexed.answerer.answer(AskRequest(QUESTION))
    assert (answer.mode, answer.adapter) == ("combined", "house@1")
    # The router, what comes before the search, the current index, its chunks, the index again, the answer.
    assert len(begun) <= 7


def test_an_abstention_cites_nothing(indexed, generator):
    generator.reply = "I don't know."
    answer = indexed.answerer.answer(AskRequest(QUESTION))
    assert answer.abstained
    assert answer.citations == ()


def test_the_prompt_holds_the_passages_and_the_history(indexed, generator):
    history = (Message("user", ("Hello",)), Message("assistant", ("Hi",)))
    indexed.answerer.answer(AskRequest(QUESTION, history=history, top_k=1))
    messages = generator.requests[-1].messages
    assert [message.role for message in messages] == ["system", "user", "assistant", "user"]
    assert len(messages[-1].parts) == 2
    assert "Mara Venn" in messages[-1].content


def test_base_uses_no_passages_and_needs_no_index(workspace, generator):
    generator.reply = "1842"
    answer = workspace.answerer.answer(AskRequest(QUESTION, mode="base"))
    assert answer.passages == ()
    assert answer.index_generation is None
    assert "Orrin" in generator.requests[-1].messages[-1].content


def test_a_tuned_arm_sends_the_adapter(indexed, generator):
    indexed.store.adapters.add(adapter())
    answer = indexed.answerer.answer(AskRequest(QUESTION, mode="combined", adapter="house"))
    assert (answer.mode, answer.adapter) == ("combined", "house@1")
    assert generator.requests[-1].adapter == "house@1"


def test_passages_that_do_not_fit_are_dropped_from_the_bottom_and_counted(indexed, generator):
    whole = indexed.answerer.answer(AskRequest(QUESTION))
    generator.n_ctx = sum(len(m.content.split()) for m in generator.requests[-1].messages) - 1
    answer = indexed.answerer.answer(AskRequest(QUESTION))
    assert answer.passages == whole.passages[:-1]
    assert answer.passages_dropped == 1


def test_a_question_that_does_not_fit_alone_overflows(indexed, generator):
    generator.n_ctx = 3
    with pytest.raises(ContextOverflow):
        indexed.answerer.answer(AskRequest(QUESTION))


@pytest.mark.parametrize("question", ["", " \n\t", "x" * 20_001])
def test_questions_that_cannot_be_asked(indexed, question):
    with pytest.raises(QuestionInvalid):
        indexed.answerer.answer(AskRequest(question))


def test_nothing_indexed(workspace):
    with pytest.raises(NothingIndexed):
        workspace.answerer.answer(AskRequest(QUESTION))


def test_nothing_is_left_after_every_document_was_deleted(indexed):
    for row in indexed.store.documents.by_source("default").values():
        indexed.ingestor.delete(row.id)
    with pytest.raises(NothingIndexed):
        indexed.answerer.answer(AskRequest(QUESTION))


def test_unknown_collection_is_suggested(indexed):
    indexed.store.collections.ensure("manuals")
    with pytest.raises(UnknownCollection, match="Did you mean manuals"):
        indexed.answerer.answer(AskRequest(QUESTION, collection="manual"))


def test_impossible_numbers(indexed):
    with pytest.raises(InvalidRequest):
        indexed.answerer.answer(AskRequest(QUESTION, top_k=0))
    with pytest.raises(CalibrationMissing, match="ragtune calibrate --questions FILE --mode rag"):
        indexed.answerer.answer(AskRequest(QUESTION, max_false_answer_rate=0.1))


def test_a_stream_is_passages_tokens_and_the_same_answer(indexed, generator):
    generator.reply = "Mara Venn [1]"
    first, *middle, last = indexed.answerer.stream(AskRequest("Who was the keeper of the lighthouse?"))
    assert isinstance(first, PassagesFound)
    assert isinstance(last, Answer)
    assert all(isinstance(event, Token) for event in middle)
    assert "".join(event.text for event in middle) == last.text == "Mara Venn [1]"
    assert first.passages == last.passages


def test_closing_a_stream_stops_the_generation(indexed, generator):
    events = indexed.answerer.stream(AskRequest(QUESTION))
    next(events)
    next(events)
    assert not generator.closed.is_set()
    events.close()
    assert generator.closed.is_set()


def test_a_full_disk_refuses_nobody_an_answer(indexed):
    def full(connection, *_):
        connection.execute("PRAGMA max_page_count = 1").close()  # it can no longer grow

    def kept(answer):
        try:
            return indexed.store.answers.get(answer.id) is not None
        except UnknownAnswer:  # which is what feedback on it will say
            return False

    sa.event.listen(sa.pool.Pool, "checkout", full)
    try:
        answers = [indexed.answerer.answer(AskRequest(QUESTION)) for _ in range(60)]
    finally:
        sa.event.remove(sa.pool.Pool, "checkout", full)
    assert all(answer.text for answer in answers)
    assert not kept(answers[-1]), "the disk was not full"
