"""The reader's answer to a proposed question, had before it is the proposal's turn to be checked.

A proposal is checked in the order of the plan, since it is compared with those accepted before; what the reader says
to it does not depend on them. Knows nothing of the store.
"""

from __future__ import annotations

from collections.abc import Sequence

from data.errors import ContextOverflow, EngineTimeout
from data.records import PairKind, Passage
from retrieval.candidates import Context, Read, Reading, chunk_ids, parse_candidate
from retrieval.curate import CHECKS_OF, READING_CHECKS, check


class ReadAhead:
    """Reads for proposals that pass all checks that others decide nothing about. Thread-safe."""

    def __init__(self, context: Context, read: Read | None) -> None:
        """Search and word as ``context`` does; None reads nothing."""
        self._context, self._read = context, read

    def read(self, raw: str, kind: PairKind, passages: Sequence[Passage]) -> Reading | None:
        """Return what the reader says to a proposal; None where it will not be asked, or cannot answer."""
        if self._read is None or not READING_CHECKS & set(CHECKS_OF[kind]):
            return None
        candidate = parse_candidate(raw, kind, *passages)
        alone = Context(self._context.search, glossary=self._context.glossary)
        if not check(candidate, alone)[-1].passed:
            return None
        found = alone.passages(candidate.question)
        try:
            return Reading(candidate.question, chunk_ids(found), self._read(candidate.question, found))
        except (ContextOverflow, EngineTimeout):  # it is told when it is the proposal's turn
            return None
