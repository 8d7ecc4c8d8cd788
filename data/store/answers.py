"""Answers that were given, and what people said about them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from data.access import current
from data.errors import UnknownAnswer
from data.records import Answer, Chunk, Citation, Passage, Sentence, Usage
from data.store.database import Database, batches, check_limit
from data.store.links import answer_chunks, link_answer
from data.store.schema import answers, feedback
from data.store.shadow import shadow_answers

_ADD = sa.insert(answers)
"""Made once: every answer runs it."""


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """An answer with the question it was given to."""

    answer: Answer
    question: str
    collection: str
    created_at: float


@dataclass(frozen=True, slots=True)
class FeedbackRow:
    """What somebody said about an answer; ``rating`` is over 0 for good, under 0 for bad."""

    id: str
    answer_id: str
    rating: int | None
    correction: str
    comment: str
    created_at: float


def _answer(stored: Mapping[str, Any]) -> Answer:
    values = dict(stored)
    values["usage"] = Usage(**values["usage"])
    values["citations"] = tuple(Citation(**citation) for citation in values["citations"])
    values["sentences"] = tuple(Sentence(**sentence) for sentence in values.get("sentences", ()))
    values["passages"] = tuple(
        Passage(**(passage | {"chunk": Chunk(**passage["chunk"])})) for passage in values["passages"]
    )
    return Answer(**values)


def _unknown(answer_id: str) -> UnknownAnswer:
    return UnknownAnswer("No such answer.", got=answer_id)


def forget_documents(connection: sa.Connection, document_ids: Iterable[str]) -> None:
    """Take what documents said out of the answers that were shown them: text, sentences, passages and citations.

    What an adapter in the shadow answered beside them goes too. The question, who answered, the counts and the ids
    that links hold stay.
    """
    gone = set(document_ids)
    for batch in batches(gone):
        shown = sa.select(answer_chunks.c.answer_id).where(answer_chunks.c.document_id.in_(batch))
        connection.execute(sa.update(shadow_answers).where(shadow_answers.c.answer_id.in_(shown)).values(text=""))
        keys = connection.execute(sa.select(answers.c.key).where(answers.c.id.in_(shown))).scalars().all()
        for key in keys:  # one at a time: many may have been shown a document, each with all its passages
            stored = connection.execute(sa.select(answers.c.answer).where(answers.c.key == key)).scalar_one()
            left = {
                "text": "",
                "sentences": [],
                "passages": [each for each in stored["passages"] if each["chunk"]["document_id"] not in gone],
                "citations": [each for each in stored["citations"] if each["document_id"] not in gone],
            }
            connection.execute(sa.update(answers).where(answers.c.key == key).values(answer={**stored, **left}))


class Answers:
    """The answers that were given."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, answer: Answer, question: str, collection: str) -> None:
        """Keep an answer, linked with the chunks it was shown and the adapters it used.

        A power cut may take the last ones, a crash of the process does not: waiting for the disk would be the longest
        part of what an answer costs beside search and model.

        Raises:
            Conflict: its id is in use.
        """
        with self._database.write(alone=False, synced=False) as connection:
            values = {"id": answer.id, "collection": collection, "question": question, "created_at": time.time()}
            connection.execute(_ADD, values | {"answer": answer})
            link_answer(connection, answer)

    def get(self, answer_id: str) -> AnswerRow:
        """Return an answer.

        Raises:
            UnknownAnswer: there is none.
        """
        with self._database.read() as connection:
            row = connection.execute(sa.select(answers).where(answers.c.id == answer_id)).one_or_none()
        if row is None or not current().sees(row.collection):
            raise _unknown(answer_id)
        return AnswerRow(_answer(row.answer), row.question, row.collection, row.created_at)


class Feedback:
    """Ratings and corrections of answers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, answer_id: str, rating: int | None = None, correction: str = "", comment: str = "") -> str:
        """Keep what somebody said about an answer and return its id.

        Raises:
            UnknownAnswer: there is no such answer.
        """
        feedback_id = secrets.token_hex(16)
        with self._database.write() as connection:
            found = connection.execute(sa.select(answers.c.collection).where(answers.c.id == answer_id)).scalar()
            if found is None or not current().sees(found):
                raise _unknown(answer_id)
            connection.execute(
                sa.insert(feedback).values(
                    id=feedback_id,
                    answer_id=answer_id,
                    rating=rating,
                    correction=correction,
                    comment=comment,
                    created_at=time.time(),
                )
            )
        return feedback_id

    def list(self, limit: int = 1000) -> list[FeedbackRow]:
        """Return feedback, newest first."""
        table = feedback.c
        columns = (table.id, table.answer_id, table.rating, table.correction, table.comment, table.created_at)
        query = sa.select(*columns).join(answers, answers.c.id == table.answer_id).order_by(table.key.desc())
        if current().collections:
            query = query.where(answers.c.collection.in_(current().collections))
        with self._database.read() as connection:
            return [FeedbackRow(*row) for row in connection.execute(query.limit(check_limit(limit)))]
