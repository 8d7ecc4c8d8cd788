"""Pairs to row files and back: train.jsonl and eval.jsonl for other trainers, and files of pairs made elsewhere.

Exported rows hold the messages that production would send. Knows nothing of training itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from data.errors import InvalidRequest, NoAcceptedPairs
from data.formats import FORMATS, Format, convert, format_of, iterate_questions, iterate_rows, write_rows
from data.jsonl import OnError, estimate_lines, read_objects
from data.prompt import (
    ANSWER_WITH_PASSAGES,
    abstains,
    asked_question,
    strip_citations,
)
from data.protocols import Report
from data.records import PairKind, Progress, QAPair, content_id
from data.splits import Split, assert_disjoint, split_without_leaks
from data.store import Store
from retrieval.examples import TrainingExample, examples_from_pairs
from retrieval.retriever import Retriever
from retrieval.wording import stretch_of

_OURS = tuple(ANSWER_WITH_PASSAGES.values())
MOST_FAILURES = 1000
"""Bad rows of an import that are told in words; the others are counted."""
IMPORT_BATCH = 500
"""Imported pairs added in one transaction."""
IMPORT_DEPTH = 10
"""How many passages are searched for the answer of an imported pair."""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """How many pairs are new, how many were there already, and what is wrong with the other rows (the first 1000)."""

    imported: int
    known: int
    failed: list[dict[str, str]] = field(default_factory=list)
    failed_count: int = 0


def row_of(example: TrainingExample) -> dict[str, Any]:
    """Return an example as a chat row: production's messages and the target."""
    messages = [{"role": message.role, "content": message.content} for message in example.messages]
    return {"messages": [*messages, {"role": "assistant", "content": example.target}], "chunk_id": example.chunk_id}


def split_pairs(store: Store, collection: str, *, eval_share: float, seed: int) -> Split[QAPair]:
    """Split a collection's accepted pairs by document; documents that ask (nearly) the same stay together.

    Raises:
        NoAcceptedPairs: there are none.
        InvalidRequest: ``eval_share`` is not from 0 to 1.
        SplitLeak: near-duplicates tie all documents together; two such pairs are named.
    """
    pairs = store.pairs.all(collection, "accepted", stale=False)
    if not pairs:
        raise NoAcceptedPairs(
            f'No accepted pairs in "{collection}"', hint="Generate or import some first: ragtune pairs generate."
        )
    chunks = store.chunks.by_ids(dict.fromkeys(chunk_id for pair in pairs for chunk_id in pair.chunk_ids))

    def documents_of(pair: QAPair) -> list[str]:
        return [chunks[i][0].document_id for i in pair.chunk_ids if i in chunks] or [f"pair {pair.id}"]

    split = split_without_leaks(pairs, documents_of, eval_share, seed)
    assert_disjoint(split.train, split.evaluation)
    return split


def export_rows(
    store: Store,
    retriever: Retriever,
    collection: str,
    out_dir: Path,
    *,
    formats: Sequence[Format] = ("chat", "instruction"),
    eval_share: float = 0.1,
    seed: int = 0,
    top_k: int = 4,
    report: Report | None = None,
) -> dict[str, Any]:
    """Write the accepted pairs as rows over the passages that production retrieves for each question.

    The chat format is written to train.jsonl and eval.jsonl, every other one to files that carry
    its name (train.instruction.jsonl).

    Args:
        store: holds the pairs.
        retriever: the production retriever.
        collection: whose pairs.
        out_dir: created if missing; files in it are replaced.
        formats: of ``data.formats.FORMATS``.
        eval_share: share of rows kept for evaluation, 0 to 1; whole documents.
        seed: decides the split and every draw.
        top_k: passages per question.
        report: receives the progress: one search for each pair.

    Returns:
        ``{"train": n, "eval": n, "files": {name: path}}``.

    Raises:
        NoAcceptedPairs: there is nothing to export.
        InvalidRequest: an unknown format.
        SplitLeak: near-duplicates leave no two sides; two such pairs are named.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise InvalidRequest("Unknown format", got=", ".join(unknown), wanted=", ".join(FORMATS))
    split = split_pairs(store, collection, eval_share=eval_share, seed=seed)
    result: dict[str, Any] = {"files": {}}
    advance = _counter(len(split.train) + len(split.evaluation), report)
    for name, pairs, abstain_share in (("train", split.train, 0.12), ("eval", split.evaluation, 0.0)):
        examples = examples_from_pairs(
            store,
            retriever,
            pairs,
            top_k=top_k,
            seed=seed,
            collection=collection,
            share_passages=False,
            abstain_share=abstain_share,
            advance=advance,
        )
        rows = [row_of(example) for example in examples]
        result[name] = len(rows)
        for chosen in formats:
            path = out_dir / row_file(name, chosen)
            write_rows(path, rows, chosen)
            result["files"][path.name] = str(path)
    return result


def row_file(split: str, format: Format) -> str:
    """Return the name of an exported file: train.jsonl for chat, train.instruction.jsonl, and so on."""
    return f"{split}.jsonl" if format == "chat" else f"{split}.{format}.jsonl"


def _counter(total: int, report: Report | None) -> Callable[[int], None]:
    """Return what adds to the pairs done and reports them."""
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        if report is not None:
            report(Progress(done, max(done, total), "pairs", stage="search"))

    return advance


@dataclass(frozen=True, slots=True)
class _Imported:
    """A question with every answer that its row accepts (none: not answerable)."""

    question: str
    answers: tuple[str, ...]
    document: str | None = None


class _Failures:
    """What is wrong with rows: the first of them in words, all of them counted."""

    def __init__(self) -> None:
        self.kept: list[dict[str, str]] = []
        self.count = 0

    def add(self, error: InvalidRequest) -> None:
        self.count += 1
        if len(self.kept) < MOST_FAILURES:
            self.kept.append({"type": error.type, "detail": str(error), "hint": error.hint})


def import_pairs(
    store: Store,
    collection: str,
    path: Path,
    *,
    retriever: Retriever | None = None,
    style: bool = False,
    report: Report | None = None,
) -> ImportReport:
    """Read pairs from a file of rows (chat, instruction, sharegpt) or of questions; each bad row fails alone.

    Passages in a row's prompt are dropped: training retrieves them anew. With a retriever, a pair is
    linked to the chunk that holds its answer; one without a chunk is of kind "free", and with ``style`` every
    one that answers is an example of the house style, of kind "style". The file is read
    as a stream and added in batches; a pair that is known is left as it is, so that a stopped import
    can be repeated.

    Raises:
        InvalidRequest: the file cannot be read, or holds no row at all.
    """
    failures = _Failures()
    total = estimate_lines(path)
    if not store.chunks.count(collection):
        retriever = None  # nothing is indexed that an answer could stand in
    rows = _rows(path, failures.add)
    advance = _counter(total, report)
    imported = read = 0
    while batch := list(islice(rows, IMPORT_BATCH)):
        pairs = []
        for row in batch:
            pairs.append(_pair(collection, path.name, row, retriever, style=style))
            advance(1)
        imported += store.pairs.add(collection, None, pairs)
        read += len(pairs)
    if not read and not failures.count:
        raise InvalidRequest(
            "The file holds no rows",
            got=path.name,
            wanted="JSONL, one row on each line: chat, instruction or sharegpt, or a question with its answers",
            hint='A row in its shortest form: {"question": "…", "answers": ["…"]}',
        )
    return ImportReport(imported, read - imported, failures.kept, failures.count)


def _rows(path: Path, on_error: OnError) -> Iterator[_Imported]:
    if _holds_questions(path):
        for item in iterate_questions(path, on_error=on_error):
            yield _Imported(item.question.strip(), item.answers if item.answerable else (), item.document)
        return
    for row in iterate_rows(path, on_error=on_error):
        try:
            yield _from_row(row)
        except InvalidRequest as error:
            on_error(error)


def _holds_questions(path: Path) -> bool:
    """Tell by the first object; what is wrong with lines is told by those who read them."""
    for _, row in read_objects(path, lambda _error: None):
        return "question" in row and not {"messages", "conversations", "instruction"} & row.keys()
    return False


def _from_row(row: Mapping[str, Any]) -> _Imported:
    messages = convert(row, "chat")["messages"]
    turns = [message["content"] for message in messages if message["role"] != "system"]
    question = asked_question(turns[0])
    if len(turns) != 2 or not question:
        raise InvalidRequest(
            f"A row of {len(turns)} turns is no pair" if question else "A row without a question",
            got=question[:200],
            wanted="one question and one answer",
        )
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    if format_of(row) == "instruction" and system and not system.startswith(_OURS):
        question = f"{system}\n\n{question}"  # a task and what it is about ask together
    return _Imported(question, () if abstains(turns[1]) else (strip_citations(turns[1]),))


def _pair(collection: str, file_name: str, row: _Imported, retriever: Retriever | None, *, style: bool) -> QAPair:
    answer, chunk_id = _linked(collection, row, None if style else retriever) if row.answers else ("", None)
    answered: PairKind = "style" if style else "span" if chunk_id else "free"
    kind: PairKind = answered if row.answers else "unanswerable"
    return QAPair(
        id=content_id("imported pair", collection, row.question, answer),
        question=row.question,
        answer=answer,
        chunk_ids=(chunk_id,) if chunk_id else (),
        kind=kind,
        generated_by=f"import:{file_name}",
        status="accepted",
    )


def _linked(collection: str, row: _Imported, retriever: Retriever | None) -> tuple[str, str | None]:
    """Return the answer and the chunk that holds it: the best passage with any accepted answer, if one has."""
    passages = retriever.search(row.question, collection, IMPORT_DEPTH) if retriever else []
    for passage in passages:
        if row.document is not None and not passage.source.endswith(row.document):
            continue
        for answer in row.answers:
            if stretch_of(answer, passage.chunk.text):
                return answer, passage.chunk.id
    return row.answers[0], None
