"""Blind comparisons: two answers under the letters A and B, what stood behind them, and the vote.

Knows nothing of who may be told what stands behind a letter, and when.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import sqlalchemy as sa

from data.access import current
from data.errors import Conflict, InvalidRequest, UnknownTrial
from data.store.database import Database
from data.store.schema import blind_trials

Vote = Literal["A", "B", "tie"]
VOTES: tuple[Vote, ...] = get_args(Vote)


@dataclass(frozen=True, slots=True)
class Trial:
    """One question with two answers.

    Attributes:
        id: of the trial.
        collection: that was asked.
        question: as it was asked.
        arms: what stands behind "A" and "B", JSON.
        answers: under "A" and "B", JSON.
        vote: which is better, None before anybody said so.
        voter: name of who said so, "" before.
        created_at: Unix seconds.
    """

    id: str
    collection: str
    question: str
    arms: Mapping[str, Mapping[str, Any]]
    answers: Mapping[str, Any]
    vote: Vote | None
    voter: str
    created_at: float


class BlindTrials:
    """The blind comparisons that were made."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, collection: str, question: str, arms: Mapping[str, Mapping[str, Any]], answers: Mapping[str, Any]
    ) -> Trial:
        """Keep a trial without a vote; its id tells nothing."""
        made = Trial(
            id=secrets.token_hex(16),
            collection=collection,
            question=question,
            arms=dict(arms),
            answers=dict(answers),
            vote=None,
            voter="",
            created_at=time.time(),
        )
        with self._database.write() as connection:
            connection.execute(sa.insert(blind_trials).values(asdict(made)))
        return made

    def get(self, trial_id: str) -> Trial:
        """Return a trial.

        Raises:
            UnknownTrial: there is none.
        """
        with self._database.read() as connection:
            row = connection.execute(sa.select(blind_trials).where(blind_trials.c.id == trial_id)).one_or_none()
        if row is None or not current().sees(row.collection):
            raise UnknownTrial("No such blind comparison.", got=trial_id)
        return Trial(**{field.name: getattr(row, field.name) for field in fields(Trial)})

    def vote(self, trial_id: str, vote: str) -> Trial:
        """Keep which answer is better; a trial has one vote, which stays.

        Raises:
            UnknownTrial: there is none.
            InvalidRequest: ``vote`` is none of ``VOTES``.
            Conflict: it was voted on before.
        """
        if vote not in VOTES:
            raise InvalidRequest("No such vote", got=vote, wanted=", ".join(VOTES))
        self.get(trial_id)
        change = (
            sa.update(blind_trials)
            .where(blind_trials.c.id == trial_id, blind_trials.c.vote.is_(None))
            .values(vote=vote, voter=current().name, voted_at=time.time())
        )
        with self._database.write() as connection:
            changed = connection.execute(change).rowcount
        if not changed:
            raise Conflict(
                "This comparison has its vote, and what stood behind the letters was told",
                got=trial_id,
                hint="Ask the question again for a new one.",
            )
        return self.get(trial_id)

    def votes(self, collection: str) -> list[tuple[Mapping[str, Mapping[str, Any]], Vote]]:
        """Return what stood behind the letters, and the vote, of every trial of a collection that has one."""
        query = sa.select(blind_trials.c.arms, blind_trials.c.vote).where(
            blind_trials.c.collection == collection, blind_trials.c.vote.is_not(None)
        )
        with self._database.read() as connection:
            return [(row.arms, row.vote) for row in connection.execute(query.order_by(blind_trials.c.key))]

    def open(self, collection: str) -> int:
        """Return how many trials of a collection wait for their vote."""
        query = sa.select(sa.func.count()).where(blind_trials.c.collection == collection, blind_trials.c.vote.is_(None))
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())
