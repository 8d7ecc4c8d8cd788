"""The SQL store: the truth from which every index is derived.

``Store`` gathers the aggregates; each has a module of its own. Knows nothing of files beside the
database.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from data.protocols import Report
from data.store.adapters import Adapters, scope_of
from data.store.answers import AnswerRow, Answers, Feedback, FeedbackRow
from data.store.blind import VOTES, BlindTrials, Trial, Vote
from data.store.buckets import Buckets
from data.store.chunks import Chunks
from data.store.collections import Collections
from data.store.database import Database
from data.store.documents import DocumentRow, Documents, NewDocument
from data.store.embeddings import Embeddings
from data.store.evaluations import Evaluations
from data.store.generations import GenerationRow, Generations
from data.store.houses import MAX_INSTRUCTIONS, Houses
from data.store.jobs import Jobs
from data.store.keys import Audit, AuditRow, KeyGrant, KeyRow, Keys
from data.store.lineage import KINDS, Kind, Lineage, Links, Trace, TrainedOn
from data.store.links import GOLD, SHOWN, ChunkLink, TrainedRow
from data.store.models import Models
from data.store.pair_filters import PairFilter
from data.store.pairs import Pairs
from data.store.relocate import relocate
from data.store.reviews import Reviewed, Reviews
from data.store.shadow import ShadowAnswer, Shadows
from data.store.stages import TRANSITIONS, StageRow, Stages
from data.store.transfer import TableCopy, copy_database
from data.store.webhooks import Due, Notice, NoticeStatus, Webhook, Webhooks

__all__ = [
    "GOLD",
    "KINDS",
    "MAX_INSTRUCTIONS",
    "SHOWN",
    "TRANSITIONS",
    "VOTES",
    "AnswerRow",
    "AuditRow",
    "ChunkLink",
    "DocumentRow",
    "Due",
    "FeedbackRow",
    "GenerationRow",
    "KeyGrant",
    "KeyRow",
    "Kind",
    "Links",
    "NewDocument",
    "Notice",
    "NoticeStatus",
    "PairFilter",
    "Reviewed",
    "ShadowAnswer",
    "StageRow",
    "Store",
    "TableCopy",
    "Trace",
    "TrainedOn",
    "TrainedRow",
    "Trial",
    "Vote",
    "Webhook",
    "scope_of",
]


class Store:
    """All that ragtune remembers; safe for several threads and several processes at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.collections = Collections(database)
        self.houses = Houses(database)
        self.documents = Documents(database)
        self.chunks = Chunks(database)
        self.embeddings = Embeddings(database)
        self.generations = Generations(database)
        self.pairs = Pairs(database)
        self.reviews = Reviews(database)
        self.adapters = Adapters(database)
        self.stages = Stages(database)
        self.shadows = Shadows(database)
        self.jobs = Jobs(database)
        self.answers = Answers(database)
        self.feedback = Feedback(database)
        self.evaluations = Evaluations(database)
        self.blind = BlindTrials(database)
        self.models = Models(database)
        self.keys = Keys(database)
        self.webhooks = Webhooks(database)
        self.audit = Audit(database)
        self.buckets = Buckets(database)
        self.lineage = Lineage(database)

    @classmethod
    def open(cls, url_or_path: str | Path) -> Store:
        """Open a store and migrate it; a SQLite file is created if it does not exist.

        A server is connected to and migrated at first use.

        Raises:
            StorageCorrupt: the file is damaged, is no database, or was written by a newer ragtune.
            StateNotWritable: it cannot be created or written.
        """
        return cls(Database(url_or_path))

    def reading(self) -> AbstractContextManager[None]:
        """Let what this thread reads until the block ends be of one moment, over one connection. No writes within.

        For a few short reads that belong together: under a rollback journal no writer can commit meanwhile.
        """
        return self._database.reading()

    def check(self) -> None:
        """Read the whole database for damage.

        Raises:
            StorageCorrupt: damage was found.
        """
        self._database.check()

    def snapshot(self, path: Path) -> None:
        """Write the database, as it is at this moment, into the new file ``path``; others may write meanwhile.

        Raises:
            InvalidRequest: the store is no SQLite file.
            InsufficientStorage: the disk is full.
        """
        self._database.snapshot(path)

    def copy_to(self, target: Store, report: Report) -> list[TableCopy]:
        """Copy everything (of a SQLite file) into an empty store on a server, all or nothing; see ``transfer``."""
        return copy_database(self._database, target._database, report)

    def relocate(self, old: str, new: str) -> None:
        """Let paths under the folder ``old`` point under ``new``: the state directory is there now."""
        relocate(self._database, old, new)

    def compact(self) -> None:
        """Give the space of what was deleted back to the disk (SQLite); writers wait meanwhile.

        Raises:
            InsufficientStorage: there is no room for the copy that this takes.
        """
        self._database.vacuum()

    def close(self) -> None:
        """Close every connection."""
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
