"""Question-answer pairs, and the ledger of the runs that made them.

A run's ledger is counted from rows, never kept beside them, so it reconciles at any moment:
requested = accepted + rejected + failed + pending.
"""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import sqlalchemy as sa

from data.access import current
from data.errors import InvalidRequest, NotFound, UnknownPair
from data.records import PairKind, PairStatus, QAPair
from data.store.collections import ensure_collection
from data.store.database import Database, Row, batches, check_limit, parse_cursor
from data.store.pair_filters import PairFilter, narrowed
from data.store.schema import chunks, pair_chunks, pair_losses, pair_runs, pairs

_CHANGEABLE = ("question", "answer", "kind", "status", "reason", "checks", "chunk_ids")


def mark_stale(connection: sa.Connection, chunk_ids: sa.Select[Any] | Sequence[str]) -> None:
    """Mark the pairs that rest on chunks about to go."""
    resting = sa.select(pair_chunks.c.pair_id).where(pair_chunks.c.chunk_id.in_(chunk_ids))
    connection.execute(sa.update(pairs).where(pairs.c.id.in_(resting)).values(stale=True))


def _gone(connection: sa.Connection, chunk_ids: Iterable[str]) -> bool:
    """Say whether a chunk is not there: its document may have gone while a pair was made of it."""
    wanted = set(chunk_ids)
    found = sum(
        connection.execute(sa.select(sa.func.count()).select_from(chunks).where(chunks.c.id.in_(batch))).scalar_one()
        for batch in batches(wanted)
    )
    return found < len(wanted)


def unmark_stale(connection: sa.Connection, chunk_ids: Iterable[str]) -> None:
    """Clear the mark of the pairs whose chunks are all there again."""
    missing = (
        sa.select(pair_chunks.c.pair_id)
        .outerjoin(chunks, chunks.c.id == pair_chunks.c.chunk_id)
        .where(pair_chunks.c.pair_id == pairs.c.id, chunks.c.id.is_(None))
        .correlate(pairs)
    )
    for batch in batches(chunk_ids):
        resting = sa.select(pair_chunks.c.pair_id).where(pair_chunks.c.chunk_id.in_(batch))
        where = (pairs.c.stale == sa.true()) & pairs.c.id.in_(resting) & ~missing.exists()
        connection.execute(sa.update(pairs).where(where).values(stale=False))


def _check(name: str, value: object, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise InvalidRequest(f"Invalid {name} of a pair.", got=value, wanted=", ".join(accepted))


def _links(pair_id: str, chunk_ids: Sequence[str]) -> list[dict[str, Any]]:
    return [{"pair_id": pair_id, "position": i, "chunk_id": chunk_id} for i, chunk_id in enumerate(chunk_ids)]


class Pairs:
    """The pairs of a store. ``QAPair.stale`` tells that a chunk the pair rests on is gone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, collection: str, run_id: str | None, new: Iterable[QAPair]) -> int:
        """Add pairs to a collection (created if need be), in one transaction; return how many are new.

        A pair whose id the same run has added before is left as it is. One that another run added
        counts in this run's ledger as rejected, reason "duplicate". ``run_id`` None is for pairs
        that no run made (imports, corrections).

        Raises:
            NotFound: no such run.
        """
        added = 0
        with self._database.write() as connection:
            ensure_collection(self._database, connection, collection)
            if run_id is not None:
                self._require_run(connection, run_id)
            for pair in new:
                _check("kind", pair.kind, get_args(PairKind))
                _check("status", pair.status, get_args(PairStatus))
                added += self._add(connection, collection, run_id, pair)
        return added

    def _add(self, connection: sa.Connection, collection: str, run_id: str | None, pair: QAPair) -> int:
        query = sa.select(pairs.c.run_id).where(pairs.c.id == pair.id)
        found = connection.execute(query).one_or_none()
        if found is not None:
            if run_id is not None and found.run_id != run_id:
                self._lose(connection, run_id, "duplicate", pair.id, rejected=True)
            return 0
        connection.execute(
            sa.insert(pairs).values(
                id=pair.id,
                collection=collection,
                run_id=run_id,
                question=pair.question,
                answer=pair.answer,
                kind=pair.kind,
                generated_by=pair.generated_by,
                status=pair.status,
                reason=pair.reason,
                checks=dict(pair.checks),
                stale=pair.stale or _gone(connection, pair.chunk_ids),
                created_at=time.time(),
            )
        )
        if pair.chunk_ids:
            connection.execute(sa.insert(pair_chunks), _links(pair.id, pair.chunk_ids))
        return 1

    def get(self, pair_id: str) -> QAPair:
        """Return one pair.

        Raises:
            UnknownPair: there is none.
        """
        with self._database.read() as connection:
            rows = connection.execute(sa.select(pairs).where(pairs.c.id == pair_id)).all()
            if not rows or not current().sees(rows[0].collection):
                raise UnknownPair("No such pair.", got=pair_id, hint="GET /v1/pairs lists them.")
            return self._pairs(connection, rows)[0]

    def all(
        self,
        collection: str,
        status: PairStatus | None = None,
        kind: PairKind | None = None,
        stale: bool | None = None,
    ) -> list[QAPair]:
        """Return every pair of a collection, oldest first; each filter that is None lets all through."""
        with self._database.read() as connection:
            return self._pairs(connection, connection.execute(self._select(collection, status, kind, stale)).all())

    def of_run(self, run_id: str) -> list[QAPair]:
        """Return the pairs that a run has added, oldest first."""
        query = sa.select(pairs).where(pairs.c.run_id == run_id).order_by(pairs.c.key)
        with self._database.read() as connection:
            return self._pairs(connection, connection.execute(query).all())

    def accepted_by_document(self, collection: str) -> dict[str, int]:
        """Return how many accepted pairs rest on each document that is there, by its id."""
        joined = pairs.join(pair_chunks, pair_chunks.c.pair_id == pairs.c.id).join(
            chunks, chunks.c.id == pair_chunks.c.chunk_id
        )
        count = sa.func.count(pairs.c.id.distinct())
        query = sa.select(chunks.c.document_id, count).select_from(joined).group_by(chunks.c.document_id)
        where = (pairs.c.collection == collection) & (pairs.c.status == "accepted")
        with self._database.read() as connection:
            return {row[0]: int(row[1]) for row in connection.execute(query.where(where))}

    def on_document(self, document_id: str) -> dict[str, dict[str, bool]]:
        """Return which pairs rest on each chunk of a document, and whether they are accepted.

        Stale pairs are left out, and so are chunks without pairs: ``{chunk_id: {pair_id: accepted}}``.
        """
        joined = pair_chunks.join(pairs, pairs.c.id == pair_chunks.c.pair_id).join(
            chunks, chunks.c.id == pair_chunks.c.chunk_id
        )
        query = sa.select(pair_chunks.c.chunk_id, pairs.c.id, pairs.c.status).select_from(joined)
        found: defaultdict[str, dict[str, bool]] = defaultdict(dict)
        with self._database.read() as connection:
            where = (chunks.c.document_id == document_id) & (pairs.c.stale == sa.false())
            for chunk_id, pair_id, status in connection.execute(query.where(where)):
                found[chunk_id][pair_id] = status == "accepted"
        return dict(found)

    def collection_of(self, pair_id: str) -> str:
        """Return the collection that a pair belongs to.

        Raises:
            UnknownPair: there is none.
        """
        with self._database.read() as connection:
            found = connection.execute(sa.select(pairs.c.collection).where(pairs.c.id == pair_id)).scalar()
        if found is None or not current().sees(found):
            raise UnknownPair("No such pair.", got=pair_id, hint="GET /v1/pairs lists them.")
        return str(found)

    def _select(
        self, collection: str, status: PairStatus | None, kind: PairKind | None, stale: bool | None
    ) -> sa.Select[Any]:
        chosen = PairFilter(status=status, kind=kind, stale=stale)
        return sa.select(pairs).where(narrowed(collection, chosen, self._database.dialect)).order_by(pairs.c.key)

    @staticmethod
    def _pairs(connection: sa.Connection, rows: Sequence[Row]) -> list[QAPair]:
        links: defaultdict[str, list[str]] = defaultdict(list)
        for batch in batches(row.id for row in rows):
            query = sa.select(pair_chunks).where(pair_chunks.c.pair_id.in_(batch)).order_by(pair_chunks.c.position)
            for link in connection.execute(query):
                links[link.pair_id].append(link.chunk_id)
        return [
            QAPair(
                id=row.id,
                question=row.question,
                answer=row.answer,
                chunk_ids=tuple(links[row.id]),
                kind=row.kind,
                generated_by=row.generated_by,
                status=row.status,
                reason=row.reason,
                checks=row.checks,
                stale=row.stale,
            )
            for row in rows
        ]

    def update(self, pair_id: str, **changes: Any) -> QAPair:
        """Change a pair (question, answer, kind, status, reason, checks, chunk_ids) and return it.

        Raises:
            UnknownPair: there is none.
            InvalidRequest: a field that cannot be changed, or a value that cannot be.
        """
        for name in changes:
            _check("field", name, _CHANGEABLE)
        if "kind" in changes:
            _check("kind", changes["kind"], get_args(PairKind))
        if "status" in changes:
            _check("status", changes["status"], get_args(PairStatus))
        chunk_ids = changes.pop("chunk_ids", None)
        with self._database.write() as connection:
            if changes:
                connection.execute(sa.update(pairs).where(pairs.c.id == pair_id).values(changes))
            if chunk_ids is not None:
                connection.execute(sa.delete(pair_chunks).where(pair_chunks.c.pair_id == pair_id))
                if chunk_ids:
                    connection.execute(sa.insert(pair_chunks), _links(pair_id, chunk_ids))
                    stale = _gone(connection, chunk_ids)
                    connection.execute(sa.update(pairs).where(pairs.c.id == pair_id).values(stale=stale))
            rows = connection.execute(sa.select(pairs).where(pairs.c.id == pair_id)).all()
            # What was changed above is undone by the error.
            if not rows or not current().sees(rows[0].collection):
                raise UnknownPair("No such pair.", got=pair_id, hint="GET /v1/pairs lists them.")
            return self._pairs(connection, rows)[0]

    def start_run(self, collection: str, requested: int, inputs: Mapping[str, Any]) -> str:
        """Open a ledger for ``requested`` pairs of a collection and return the run's id."""
        if requested < 0:
            raise InvalidRequest("Invalid number of pairs.", got=requested, wanted="0 or more")
        run_id = secrets.token_hex(16)
        with self._database.write() as connection:
            ensure_collection(self._database, connection, collection)
            connection.execute(
                sa.insert(pair_runs).values(
                    id=run_id,
                    collection=collection,
                    requested=requested,
                    inputs=dict(inputs),
                    created_at=time.time(),
                )
            )
        return run_id

    def run(self, run_id: str) -> dict[str, Any]:
        """Return ``{"requested", "accepted", "rejected": {reason: n}, "failed", "pending"}``.

        ``pending`` counts candidates and what was not tried yet. A run that tried more than it was
        asked for reports what it tried as requested.

        Raises:
            NotFound: no such run.
        """
        count = sa.func.count()
        with self._database.read() as connection:
            requested = int(self._require_run(connection, run_id).requested)
            by_status = sa.select(pairs.c.status, pairs.c.reason, count).where(pairs.c.run_id == run_id)
            kept = connection.execute(by_status.group_by(pairs.c.status, pairs.c.reason)).all()
            by_loss = sa.select(pair_losses.c.rejected, pair_losses.c.reason, count)
            by_loss = by_loss.where(pair_losses.c.run_id == run_id)
            lost = connection.execute(by_loss.group_by(pair_losses.c.rejected, pair_losses.c.reason)).all()
        rejected: dict[str, int] = {}
        for reason, n in [(r, n) for s, r, n in kept if s == "rejected"] + [(r, n) for no, r, n in lost if no]:
            rejected[reason or "unknown"] = rejected.get(reason or "unknown", 0) + n
        accepted = sum(n for status, _, n in kept if status == "accepted")
        failed = sum(n for no, _, n in lost if not no)
        tried = sum(row[2] for row in kept) + sum(row[2] for row in lost)
        requested = max(requested, tried)
        pending = requested - accepted - failed - sum(rejected.values())
        ledger = {"requested": requested, "accepted": accepted, "rejected": dict(sorted(rejected.items()))}
        return ledger | {"failed": failed, "pending": pending}

    def run_inputs(self, run_id: str) -> dict[str, Any]:
        """Return what a run was started with.

        Raises:
            NotFound: no such run.
        """
        with self._database.read() as connection:
            return dict(self._require_run(connection, run_id).inputs)

    def runs(self, collection: str) -> list[str]:
        """Return the ids of a collection's runs, newest first."""
        query = sa.select(pair_runs.c.id).where(pair_runs.c.collection == collection)
        with self._database.read() as connection:
            return list(connection.execute(query.order_by(pair_runs.c.key.desc())).scalars())

    def record_failure(self, run_id: str, reason: str, item: str | None = None) -> None:
        """Count an attempt that gave no pair; the same ``item`` of a run counts once.

        Raises:
            NotFound: no such run.
        """
        with self._database.write() as connection:
            self._require_run(connection, run_id)
            self._lose(connection, run_id, reason, item, rejected=False)

    def failures(self, run_id: str) -> list[tuple[str | None, str]]:
        """Return (item, reason) of each attempt of a run that gave no pair, oldest first."""
        where = (pair_losses.c.run_id == run_id) & (pair_losses.c.rejected == sa.false())
        query = sa.select(pair_losses.c.item, pair_losses.c.reason).where(where).order_by(pair_losses.c.key)
        with self._database.read() as connection:
            return [(row.item, row.reason) for row in connection.execute(query)]

    def _lose(self, connection: sa.Connection, run_id: str, reason: str, item: str | None, *, rejected: bool) -> None:
        row = {"run_id": run_id, "item": item, "rejected": rejected, "reason": reason, "created_at": time.time()}
        self._database.insert_new(connection, pair_losses, [row])

    @staticmethod
    def _require_run(connection: sa.Connection, run_id: str) -> Row:
        row = connection.execute(sa.select(pair_runs).where(pair_runs.c.id == run_id)).one_or_none()
        if row is None:
            raise NotFound("No such run of pair generation.", got=run_id)
        return row

    def find(
        self, collection: str, chosen: PairFilter, cursor: str | None = None, limit: int = 50
    ) -> tuple[list[QAPair], str | None]:
        """Return a page of the pairs that pass a filter, as ``list`` does.

        Raises:
            InvalidRequest: a bad cursor or limit.
        """
        query = sa.select(pairs).where(narrowed(collection, chosen, self._database.dialect)).order_by(pairs.c.key)
        query = query.where(pairs.c.key > parse_cursor(cursor))
        with self._database.read() as connection:
            rows = connection.execute(query.limit(check_limit(limit) + 1)).all()
            following = str(rows[limit - 1].key) if len(rows) > limit else None
            return self._pairs(connection, rows[:limit]), following

    def list(
        self,
        collection: str,
        status: PairStatus | None = None,
        kind: PairKind | None = None,
        cursor: str | None = None,
        limit: int = 50,
        *,
        stale: bool | None = None,
    ) -> tuple[list[QAPair], str | None]:
        """Return a page of pairs, oldest first, and the cursor of the next page (None at the end).

        Raises:
            InvalidRequest: a bad cursor or limit.
        """
        return self.find(collection, PairFilter(status=status, kind=kind, stale=stale), cursor, limit)
