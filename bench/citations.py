"""Do citations point at what bears the answer out? Annotated answers of four sets, and answers of the starter.

``python -m bench.citations --data FOLDER``, where the folder holds squad2, xquad and clapnq. An annotated answer is
given to the verifier as if a model had written it: as it is, and with the mark of a passage drawn at random among the
four that the production search finds. A citation is right if what it quotes stands in the annotated paragraph (clapnq:
the annotated passage). Recall counts the answers whose paragraph is among the four. The starter's own answers are
judged by the same paragraphs, under ``keep`` and ``mark``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from bench.sides import STATE
from data.prompt import strip_citations
from data.records import Passage
from data.scoring import contains
from service.answerer import AskRequest
from service.arms import Arm
from service.settings import Settings
from service.verification import check_marks, verify
from service.workspace import Workspace

SEED = 7
SETS = ("squad2", "xquad/en", "xquad/zh", "clapnq")
_ADAPTER = "reader@1"


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with an accepted answer, and where in which source that stands, characters."""

    question: str
    answers: tuple[str, ...]
    source: str
    start: int
    end: int


@dataclass(slots=True)
class Count:
    """Citations given, those that are right, answers that could be cited, and those that are cited rightly."""

    given: int = 0
    right: int = 0
    possible: int = 0
    found: int = 0

    def add(self, quotes: Sequence[bool], *, possible: bool) -> None:
        """Count one answer's citations, each right or not."""
        self.given += len(quotes)
        self.right += sum(quotes)
        self.possible += possible
        self.found += possible and any(quotes)

    def rates(self) -> dict[str, float | int | None]:
        """Return precision and recall, 0 to 1, and the counts behind them."""
        return {
            "precision": self.right / self.given if self.given else None,
            "recall": self.found / self.possible if self.possible else None,
            "citations": self.given,
            "answers": self.possible,
        }


def read(data: Path, name: str, limit: int) -> list[Asked]:
    """Return at most ``limit`` answerable questions of a set, drawn at random."""
    lines = (data / name / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row.get("answerable", True) and row["answers"]]
    found = list(_places(data / name, rows))
    return Random(SEED).sample(found, min(limit, len(found)))


def _places(folder: Path, rows: Iterable[dict[str, Any]]) -> Iterator[Asked]:
    texts: dict[str, str] = {}
    for row in rows:
        source = row["document"] if "document" in row else f"{row['doc_ids'][0].replace(':', '-')}.md"
        path = folder / "docs" / source
        if source not in texts:
            texts[source] = path.read_text(encoding="utf-8") if path.exists() else ""
        spans = paragraphs(texts[source])
        if "paragraph" in row and row["paragraph"] < len(spans):
            start, end = spans[row["paragraph"]]
            if contains(texts[source][start:end], row["answers"]):
                yield Asked(row["question"], tuple(row["answers"]), source, start, end)
        elif "paragraph" not in row:
            yield Asked(row["question"], tuple(row["answers"]), source, 0, 1 << 30)


def paragraphs(text: str) -> list[tuple[int, int]]:
    """Return where the paragraphs of a Markdown article stand, its headings left out."""
    return [m.span() for m in re.finditer(r"[^\n]+(?:\n[^\n]+)*", text) if not m.group().startswith("#")]


def documents(data: Path, name: str, scratch: Path) -> Path:
    """Return the folder of a set's documents; those of clapnq are written from its lines."""
    if (data / name / "docs").exists():
        return data / name / "docs"
    scratch.mkdir(parents=True, exist_ok=True)
    for line in (data / name / "corpus.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        path = scratch / f"{row['id'].replace(':', '-')}.md"
        path.write_text(f"# {row['title']}\n\n{row['text']}\n", encoding="utf-8")
    return scratch


def inside(asked: Asked, passage: Passage, start: int, end: int) -> bool:
    """Tell whether a quote stands in the annotated paragraph (or a part of it does, where a chunk cuts it)."""
    return Path(passage.source).name == asked.source and start < asked.end and end > asked.start


def judge(asked: Asked, text: str, passages: Sequence[Passage], count: Count, *, keep: bool = False) -> None:
    """Verify one text and count its citations: those of ``keep`` are the marks as they were written."""
    possible = any(inside(asked, p, p.chunk.start, p.chunk.end) for p in passages)
    if keep:
        cited = [passages[int(n) - 1] for n in re.findall(r"\[(\d+)\]", text) if 1 <= int(n) <= len(passages)]
        quotes = [inside(asked, passage, passage.chunk.start, passage.chunk.end) for passage in cited]
    else:
        found = verify(check_marks(text, passages, asked.question), passages, "mark", asked.question)
        quotes = [inside(asked, passages[c.n - 1], c.start, c.end) for c in found.citations]
    count.add(quotes, possible=possible)


def measure(workspace: Workspace, name: str, asked: Sequence[Asked]) -> dict[str, Any]:
    """Return precision and recall on annotated answers."""
    draw = Random(SEED)
    counts = {side: Count() for side in ("as it is", "random mark, keep", "random mark, mark")}
    collection = name.replace("/", "-")
    for each in asked:
        passages = workspace.retriever.search(each.question, collection)
        answer = min(each.answers, key=len) if name != "clapnq" else each.answers[0]
        marked = f"{answer} [{draw.randrange(len(passages)) + 1}]"
        judge(each, answer, passages, counts["as it is"])
        judge(each, marked, passages, counts["random mark, keep"], keep=True)
        judge(each, marked, passages, counts["random mark, mark"])
    return {side: count.rates() for side, count in counts.items()}


def starter(workspace: Workspace, name: str, asked: Sequence[Asked]) -> dict[str, Any]:
    """Return precision and recall on what the packaged reader answers, and on its right answers alone."""
    counts = {f"{policy}, {which}": Count() for policy in ("keep", "mark") for which in ("all", "right")}
    arm = Arm("reader", passages=True, adapter=_ADAPTER)
    for each in asked:
        ask = AskRequest(
            each.question,
            collection=name.replace("/", "-"),
            arm=arm,
            max_tokens=48,
            keep=False,
            unsupported="keep",
        )
        answer = workspace.answerer.answer(ask)
        if answer.abstained:
            continue
        right = contains(strip_citations(answer.text), each.answers)
        for which in ("all", *(["right"] if right else [])):
            judge(each, answer.text, answer.passages, counts[f"keep, {which}"], keep=True)
            judge(each, answer.text, answer.passages, counts[f"mark, {which}"])
    return {side: count.rates() for side, count in counts.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Index, measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.citations", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=400, help="annotated answers of each set")
    parser.add_argument("--ask", type=int, default=120, help="questions of xquad/en for the starter; 0 for none")
    options = parser.parse_args(arguments)
    line: dict[str, Any] = {"bench": "citations"}
    with Workspace(Settings.load(state_dir=STATE / "citations", model="starter", embedder="starter")) as workspace:
        workspace.ensure_starter_adapters()
        for name in SETS:
            folder = documents(options.data, name, STATE / "citations" / "clapnq")
            workspace.ingestor.ingest(name.replace("/", "-"), [folder])
            line[name] = measure(workspace, name, read(options.data, name, options.limit))
        if options.ask:
            line["starter"] = starter(workspace, "xquad/en", read(options.data, "xquad/en", options.ask))
    print(json.dumps(line))
    for name in (*SETS, "starter"):
        for side, rates in line.get(name, {}).items():
            shown = {key: round(value, 3) if isinstance(value, float) else value for key, value in rates.items()}
            print(f"{name:10} {side:20}", shown)


if __name__ == "__main__":
    main()
