"""Questions that documents answer themselves: found by their form, kept as they are, through the same checks.

Recognized in the Markdown and plain text that loaders give, outside code: headings and bold lines that
end with a question mark, "Q: … A: …" and "问：… 答：…", definition lists. Knows nothing of generators.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data.protocols import Report
from data.records import Chunk, PairKind, Passage, Progress, QAPair, content_id
from data.store import DocumentRow, Store
from retrieval.candidates import Candidate, Context
from retrieval.curate import FAQ_CHECKS, run_checks
from retrieval.heading import FENCE, HEADING
from retrieval.retriever import Retriever
from retrieval.wording import is_short

FEWEST_ENTRIES = 3
"""A document with fewer is no FAQ: a heading that asks may be rhetoric."""
GENERATED_BY = "faq"

_NUMBERED = re.compile(r"(?:\d+\.)+\d*[)、]?\s+|\d+[)、]\s*")
_ANCHOR = re.compile(r"\{[#.][^{}]*\}\s*$")
_BOLD = re.compile(r"\s*(?:[-*+]\s+|\d+[.)]\s+)?(\*\*|__)(.+?[?？])\1\s*(.*)$")
_ASKED = re.compile(r"\s*(?:[*_]{2})?(?:Q|Question|问|問|问题)(?:\s?\d+)?\s?[:：.、](?:[*_]{2})?\s*(\S.*)")
_ANSWERED = re.compile(r"\s*(?:[*_]{2})?(?:A|Answer|答|回答)(?:\s?\d+)?\s?[:：.、](?:[*_]{2})?\s*")
_DEFINED = re.compile(r"\s{0,3}:\s+")


@dataclass(frozen=True, slots=True)
class Entry:
    """A question and its answer, which is ``text[start:end]`` of the document."""

    question: str
    start: int
    end: int


@dataclass(slots=True)
class _Open:
    """A question whose answer is being read: ``level`` of its heading (7 for other forms), ``marked`` with a "Q"."""

    question: str
    level: int
    start: int | None = None
    marked: bool = False


def entries(text: str) -> list[Entry]:
    """Return the questions that a document asks and answers, in their order; none of a document with too few."""
    found = [entry for entry in _scan(text) if text[entry.start : entry.end].strip()]
    return found if len(found) >= FEWEST_ENTRIES else []


def _scan(text: str) -> Iterator[Entry]:
    asked: list[_Open] = []
    fenced, position, start, previous = False, 0, 0, ""
    for line in text.splitlines(keepends=True):
        before, start, position = start, position, position + len(line)
        if FENCE.match(line):
            fenced = not fenced
            if asked and asked[-1].start is None:
                asked[-1].start = start  # an answer may begin with code
        elif not fenced:
            opened, body = _opened(line, previous)
            heading = HEADING.match(line)
            level = len(heading.group(1)) if heading else 7
            if heading or opened is not None:
                # A definition's question stands on the line before it.
                stop = before if opened is not None and _DEFINED.match(line) else start
                while asked and asked[-1].level >= level:
                    yield from _closed(asked.pop(), text, stop)
            if opened is not None:
                answer = start + body if body is not None else None
                asked.append(_Open(opened, level, answer, marked=_ASKED.match(line) is not None))
            elif asked and asked[-1].start is None and line.strip() and not heading:
                asked[-1].start = start + _answer_offset(line, marked=asked[-1].marked)
            previous = line
    while asked:
        yield from _closed(asked.pop(), text, len(text))


def _opened(line: str, previous: str) -> tuple[str | None, int | None]:
    """Return the question that a line asks and where in the line its answer begins already, if it does."""
    if heading := HEADING.match(line):
        title = _ANCHOR.sub("", heading.group(2).rstrip().rstrip("#")).strip(" *_")
        if number := _NUMBERED.match(title):
            title = title[number.end() :]
        return (title, None) if title.endswith(("?", "？")) else (None, None)
    if (asked := _ASKED.match(line)) and (question := asked.group(1).strip(" *_\r\n")).endswith(("?", "？")):
        return question, None  # "Q1: sales rose" is a quarter
    if bold := _BOLD.match(line):
        return bold.group(2).strip(), bold.start(3) if bold.group(3).strip() else None
    if (defined := _DEFINED.match(line)) and previous.strip().endswith(("?", "？")):
        return previous.strip(), defined.end()
    return None, None


def _answer_offset(line: str, *, marked: bool) -> int:
    answered = _ANSWERED.match(line) if marked else None
    return answered.end() if answered else len(line) - len(line.lstrip())


def _closed(asked: _Open, text: str, end: int) -> Iterator[Entry]:
    if asked.start is not None:
        stop = asked.start + len(text[asked.start : end].rstrip())
        if stop > asked.start:
            yield Entry(" ".join(asked.question.split()), asked.start, stop)


@dataclass(frozen=True, slots=True)
class _Harvested:
    """An entry with the chunks that its answer lies in."""

    id: str
    question: str
    answer: str
    row: DocumentRow
    chunks: tuple[Chunk, ...]


def harvest_pairs(
    store: Store,
    retriever: Retriever,
    collection: str,
    *,
    exclude_documents: Collection[str] = (),
    evaluation_questions: Sequence[str] = (),
    top_k: int = 4,
    report: Report,
) -> dict[str, Any]:
    """Make pairs of the questions that the collection's documents ask and answer themselves.

    A call over the same documents continues an unfinished run, or returns the ledger of a finished one.
    The share of one document is not limited: its questions are not proposals about it but its content.

    Args:
        store: where documents come from and pairs go.
        retriever: the production retriever; a question must bring its answer's chunk back.
        collection: name of the collection.
        exclude_documents: ids of documents to take nothing from.
        evaluation_questions: questions that no pair may resemble.
        top_k: how many passages production retrieves.
        report: receives the progress after each entry.

    Returns:
        The ledger: ``{"run_id", "requested", "accepted", "rejected": {reason: n}, "failed", "pending"}``; with
        ``requested`` 0 and ``run_id`` "" where no document has such questions.

    Raises:
        JobCancelled: ``report`` was told to stop; the run can be continued.
    """
    found = list(_harvested(store, collection, frozenset(exclude_documents)))
    if not found:
        return {"run_id": "", "requested": 0, "accepted": 0, "rejected": {}, "failed": 0, "pending": 0}
    run_id = _run_of(store, collection, found, evaluation_questions)
    context = Context(
        lambda question: retriever.search(question, collection, top_k),
        accepted=[(pair.question, pair.answer) for pair in store.pairs.all(collection, "accepted", stale=False)],
        evaluation=evaluation_questions,
        embed=lambda texts: retriever.vectors(texts, collection),
    )
    done = {pair.id for pair in store.pairs.of_run(run_id)}
    for number, item in enumerate(found, 1):
        if item.id not in done:
            pair = _checked(item, context)
            store.pairs.add(collection, run_id, [pair])
            if pair.status == "accepted":
                context.accept(pair.question, pair.answer, item.row.id)
        report(Progress(number, len(found), "questions", stage="faq"))
    return {"run_id": run_id, **store.pairs.run(run_id)}


def _harvested(store: Store, collection: str, excluded: frozenset[str]) -> Iterator[_Harvested]:
    seen: set[str] = set()
    for row, document, chunks in store.documents.iterate(collection):
        if row.id in excluded:
            continue
        for entry in entries(document.text):
            answer = document.text[entry.start : entry.end]
            held = tuple(chunk for chunk in chunks if chunk.start < entry.end and entry.start < chunk.end)
            said = content_id(entry.question, answer)
            # Of these chunks: what stood in a former version of the document is stale and stays so.
            identity = content_id("faq", collection, said, *(chunk.id for chunk in held))
            if held and said not in seen:
                seen.add(said)
                yield _Harvested(identity, entry.question, answer, row, held)


def _run_of(store: Store, collection: str, found: Sequence[_Harvested], measured: Sequence[str]) -> str:
    inputs = {"faq": content_id(*(item.id for item in found)), "evaluation_questions": content_id(*measured)}
    for run_id in store.pairs.runs(collection):
        if store.pairs.run_inputs(run_id) == inputs:
            return run_id
    return store.pairs.start_run(collection, len(found), inputs)


def _checked(item: _Harvested, context: Context) -> QAPair:
    single = len(item.chunks) == 1 and "\n" not in item.answer and is_short(item.answer)
    kind: PairKind = "span" if single else "free"
    passage = Passage(item.chunks[0], 0.0, 1, "faq", item.row.source, item.row.title)
    results = run_checks(FAQ_CHECKS, Candidate("", item.question, item.answer, kind, passage), context)
    failed = next((result for result in results if not result.passed), None)
    return QAPair(
        id=item.id,
        question=item.question,
        answer=item.answer,
        chunk_ids=tuple(chunk.id for chunk in item.chunks),
        kind=kind,
        generated_by=GENERATED_BY,
        status="rejected" if failed else "accepted",
        reason=failed.name if failed else "",
        checks={result.name: {"passed": result.passed, "reason": result.reason} for result in results},
    )
