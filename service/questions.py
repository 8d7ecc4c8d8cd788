"""Questions to evaluate on: from corrections and from pairs that were not trained on; those that leak or repeat, named.

Knows nothing of how questions are asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from data.errors import InvalidRequest, QuestionInvalid
from data.prompt import strip_citations
from data.records import Adapter, Question
from data.splits import QuestionIndex
from service.answerer import check_question
from service.arms import adapter_label, did_you_mean
from service.feedback import FEEDBACK, feedback_questions

if TYPE_CHECKING:
    from data.store import Store

PAIRS = "pairs"
"""Origin of the questions of accepted pairs."""
ORIGINS = (FEEDBACK, PAIRS)


def check_askable(questions: Iterable[Question], max_chars: int) -> None:
    """Refuse questions that no arm could be asked, by their id.

    Raises:
        QuestionInvalid: one is blank, no Unicode, or longer than ``max_chars``.
    """
    for question in questions:
        try:
            check_question(question.question, max_chars)
        except QuestionInvalid as error:
            got = f"question {ascii(question.id)[:80]}: {error.got}"
            raise QuestionInvalid(error.detail, got=got, wanted=error.wanted, hint=error.hint) from error


def stored_questions(
    store: Store, collection: str, origin: str, adapters: Iterable[Adapter] = ()
) -> tuple[Question, ...]:
    """Return the questions that the store holds for ``origin``; of pairs those that no adapter was trained on.

    Raises:
        InvalidRequest: no such origin.
    """
    if origin == FEEDBACK:
        return feedback_questions(store, collection)
    if origin == PAIRS:
        return pair_questions(store, collection, adapters)
    raise InvalidRequest(
        "No such origin of questions", got=origin, wanted=", ".join(ORIGINS), hint=did_you_mean(origin, ORIGINS)
    )


def pair_questions(store: Store, collection: str, adapters: Iterable[Adapter]) -> tuple[Question, ...]:
    """Return the accepted pairs of a collection, style examples left out, that are unlike all those trained on.

    ``document`` of each is the source that its first passage is of.
    """
    trained = [index for _, index in _trained(store, adapters)]
    found = []
    pairs = store.pairs.all(collection, "accepted", stale=False)
    chunks = store.chunks.by_ids({chunk_id for pair in pairs for chunk_id in pair.chunk_ids[:1]})
    for pair in pairs:
        if pair.kind == "style" or any(index.match(pair.question) is not None for index in trained):
            continue
        known = pair.kind != "unanswerable"
        answers = (strip_citations(pair.answer),) if known else ()
        source = next((chunks[each][1] for each in pair.chunk_ids[:1] if each in chunks), None)
        found.append(Question(f"pair-{pair.id[:12]}", pair.question, answers, known, source, PAIRS))
    return tuple(found)


def leaked_questions(store: Store, questions: Sequence[Question], adapters: Iterable[Adapter]) -> list[dict[str, Any]]:
    """Return ``{"id", "adapter", "like"}`` of each question that is (nearly) one that an adapter was trained on."""
    return [
        {"id": question.id, "adapter": adapter_label(adapter), "like": like}
        for adapter, index in _trained(store, adapters)
        for question in questions
        if (like := index.match(question.question)) is not None
    ]


def repeated_questions(questions: Sequence[Question]) -> list[dict[str, str]]:
    """Return ``{"id", "of"}`` of each question that is (nearly) an earlier one."""
    index, found = QuestionIndex(), []
    for question in questions:
        before = index.match(question.question)
        if before is None:
            index.add(question.question, question.id)
        else:
            found.append({"id": question.id, "of": str(before)})
    return found


def _trained(store: Store, adapters: Iterable[Adapter]) -> list[tuple[Adapter, QuestionIndex]]:
    """Return an index of the questions each adapter was trained on; of deleted pairs nothing is known."""
    found = []
    for adapter in adapters:
        collection = adapter.lineage.get("collection")
        wanted = set(store.lineage.trained_pairs(adapter.name, adapter.version))
        index = QuestionIndex()
        if wanted and collection is not None:
            for pair in store.pairs.all(str(collection)):
                if pair.id in wanted:
                    index.add(pair.question, pair.question)
        found.append((adapter, index))
    return found
