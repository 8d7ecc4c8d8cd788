"""Follow files and folders: each batch of changes is ingested as it settles. The importer of watchfiles.

The first thing done is a whole synchronisation, with the watcher running already, so that nothing that
happens meanwhile is missed. Knows nothing of terminals or signals.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from watchfiles import watch

from data.errors import InvalidRequest, JobCancelled, RagtuneError
from data.protocols import Report
from retrieval.ingest import Ingestor, IngestReport, ignore_progress

DEBOUNCE_MS = 400
"""A batch ends when nothing has changed for ``STEP_MS``, at the latest after this time."""
STEP_MS = 100
_POLL_MS = 500


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of one batch of changes: a report, or the error that stopped it."""

    changes: int
    report: IngestReport | None = None
    error: RagtuneError | None = None


def follow(
    ingestor: Ingestor,
    collection: str,
    paths: Sequence[Path],
    *,
    tags: Sequence[str] | None = None,
    stop: threading.Event | None = None,
    report: Report = ignore_progress,
) -> Iterator[Batch]:
    """Mirror ``paths`` into a collection, now and after every change; yield what each batch did.

    Ends when ``stop`` is set (or at ``KeyboardInterrupt``). A file that fails is in its batch's report
    and is tried again when it changes; an error that concerns more than a file is yielded as such, and
    the files it left out are ingested with the next change.

    Raises:
        InvalidRequest: a path that does not exist.
        JobCancelled: ``report`` said so.
    """
    for path in paths:
        if not path.exists():
            raise InvalidRequest("There is no such file or folder.", got=str(path), hint="Check the path.")

    def ingest(changed: set[Path] | None) -> IngestReport:
        return ingestor.ingest(collection, paths, sync=True, tags=tags, changed=changed, report=report)

    stop = stop or threading.Event()
    pending: set[Path] | None = None  # None: everything
    for number, changes in enumerate(_changes(paths, stop)):
        if number and not changes:
            continue
        if number and pending is not None:
            pending |= changes
        batch = _attempt(ingest, pending, len(changes))
        if batch.error is None:
            pending = set()
        yield batch


def _changes(paths: Sequence[Path], stop: threading.Event) -> Iterator[set[Path]]:
    """Yield what changed; an empty set at first and whenever nothing has for a while."""
    # A single file is watched through its folder: editors replace files instead of writing into them.
    roots = {path if path.is_dir() else path.absolute().parent for path in paths}
    batches = watch(
        *roots,
        watch_filter=None,
        debounce=DEBOUNCE_MS,
        step=STEP_MS,
        rust_timeout=_POLL_MS,
        yield_on_timeout=True,
        stop_event=stop,
        raise_interrupt=True,
    )
    started = False
    for batch in batches:
        if not started:
            yield set()
            started = True
        yield {Path(path) for _, path in batch}


def _attempt(ingest: Callable[[set[Path] | None], IngestReport], changed: set[Path] | None, count: int) -> Batch:
    try:
        return Batch(count, ingest(changed))
    except JobCancelled:
        raise
    except RagtuneError as error:
        return Batch(count, error=error)
