"""Right pairs of people, and wrong ones made of them: what ``bench.checks`` shows to each check.

Knows nothing of the checks.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from data.records import Chunk, PairKind, Passage
from data.scoring import token_f1
from retrieval.candidates import Candidate
from retrieval.wording import stretch_of
from service.workspace import Workspace

COLLECTION = "bench-checks"
_NAME = re.compile(r"(?<=[a-z?,] )(?:the )?[A-Z][\w’'-]+(?: (?:of |the )?[A-Z][\w’'-]+)*(?:'s)?")
_POINTERS = ("According to the passage, ", "In this text, ", "As the article says, ")


@dataclass(frozen=True, slots=True)
class Asked:
    """A person's question with its shortest answer ("" if it has none), and the chunk that holds it."""

    question: str
    answer: str
    passage: Passage
    answers: tuple[str, ...] = ()

    def candidate(self, kind: PairKind = "span", **changes: Any) -> Candidate:
        """Return it as a proposal of the generator."""
        fields = {"question": self.question, "answer": self.answer, **changes}
        said = {name: fields[name] for name in ("question", "answer") if name == "question" or kind != "unanswerable"}
        made = Candidate(json.dumps(said), fields["question"], fields["answer"], kind, self.passage)
        return replace(made, **{k: v for k, v in changes.items() if k not in {"question", "answer"}})


def squad2(workspace: Workspace, folder: Path) -> tuple[list[Asked], list[Asked]]:
    """Index the articles; return the answerable questions with the chunk that has the answer, and the others."""
    if not workspace.store.chunks.count(COLLECTION):
        workspace.ingestor.ingest(COLLECTION, [folder / "docs"])
    chunks: dict[str, list[Passage]] = defaultdict(list)
    sources = {row.id: row for row, _document, _chunks in workspace.store.documents.iterate(COLLECTION)}
    for _key, chunk, title in workspace.store.chunks.iterate(COLLECTION):
        row = sources[chunk.document_id]
        chunks[row.source].append(Passage(chunk, 0.0, 1, "bench", row.source, title))
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    paragraphs = {source: _paragraphs(folder / "docs" / source) for source in chunks}
    answered: list[Asked] = []
    unanswered: list[Asked] = []
    for row in rows:
        text = paragraphs[row["document"]][row["paragraph"]]
        inside = [one for one in chunks[row["document"]] if _same(one.chunk.text, text)]
        answer = min(row["answers"], key=len, default="")
        held = [one for one in inside if not answer or stretch_of(answer, one.chunk.text)]
        if held and row["answerable"]:
            answered.append(Asked(row["question"].strip(), answer, held[0], tuple(row["answers"])))
        elif held:
            unanswered.append(Asked(row["question"].strip(), "", held[0]))
    return answered, unanswered


def _paragraphs(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n\n")[1:]


def _same(chunk: str, paragraph: str) -> bool:
    return chunk.strip() in paragraph or paragraph.strip() in chunk


class Wrong:
    """Makes wrong pairs of right ones; None where one cannot be made."""

    def __init__(self, right: Sequence[Asked], random: Random) -> None:
        self._right = right
        self._random = random
        self._by_chunk: dict[str, list[Asked]] = defaultdict(list)
        for one in right:
            self._by_chunk[one.passage.chunk.id].append(one)

    def other_answer(self, one: Asked) -> Candidate | None:
        """Give it the answer of another question of its chunk."""
        others = [other.answer for other in self._by_chunk[one.passage.chunk.id] if not _alike(other.answer, one)]
        return one.candidate(answer=self._random.choice(others)) if others else None

    def shifted(self, one: Asked) -> Candidate | None:
        """Give it the words that follow its answer, as many as the answer has."""
        text, length = one.passage.chunk.text, len(one.answer.split())
        after = text[text.find(one.answer) + len(one.answer) :].split()[:length]
        moved = " ".join(after).strip(".,;:()")
        return one.candidate(answer=moved) if moved and moved in text and not _alike(moved, one) else None

    def foreign_answer(self, one: Asked) -> Candidate | None:
        """Give it the answer of a question of another document."""
        other = self._foreign(one)
        return one.candidate(answer=other.answer) if other.answer not in one.passage.chunk.text else None

    def foreign_question(self, one: Asked) -> Candidate | None:
        """Ask a question of another document of its passage."""
        return one.candidate(question=self._foreign(one).question)

    def neighbour_question(self, one: Asked) -> Candidate | None:
        """Ask a question of another chunk of its document, of which its passage may know something."""
        document = one.passage.chunk.document_id
        near = [o for o in self._right if o.passage.chunk.document_id == document and o.passage != one.passage]
        return one.candidate(question=self._random.choice(near).question) if near else None

    def pronoun(self, one: Asked) -> Candidate | None:
        """Leave only pronouns for the names."""
        said = _NAME.sub(self._random.choice(("it", "he", "they")), one.question)
        return one.candidate(question=said) if said != one.question else None

    def pointing(self, one: Asked) -> Candidate | None:
        """Let the question point at its text."""
        said = self._random.choice(_POINTERS) + one.question[0].lower() + one.question[1:]
        return one.candidate(question=said)

    def leaking(self, one: Asked) -> Candidate | None:
        """Let the question hold the answer."""
        return one.candidate(question=f"{one.question.rstrip('? ')}, {one.answer}?")

    def asked_already(self, one: Asked) -> Candidate | None:
        """Ask the same with one word less, and with other marks."""
        words = one.question.rstrip("? ").split()
        if len(words) < 5:
            return None
        del words[self._random.randrange(1, len(words))]
        return one.candidate(question=" ".join(words).lower() + "?")

    def _foreign(self, one: Asked) -> Asked:
        while (other := self._random.choice(self._right)).passage.chunk.document_id == one.passage.chunk.document_id:
            pass
        return other


def _alike(answer: str, one: Asked) -> bool:
    return token_f1(answer, list(one.answers)) >= 0.5 or any(right in answer for right in one.answers)


def long_answers(folder: Path) -> list[Asked]:
    """Return the questions of ``clapnq`` that people answered in free words over one passage."""
    texts = [json.loads(line) for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    passages = {
        row["id"]: Passage(
            Chunk(row["id"], row["id"], row["text"], 0, len(row["text"])), 0.0, 1, "bench", "", row["title"]
        )
        for row in texts
    }
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        Asked(f"{row['question']}?", answer, passages[row["doc_ids"][0]], (answer,))
        for row in rows
        if row["answerable"]
        for answer in row["answers"][:1]
        if row["doc_ids"][0] in passages
    ]


class WrongClaims:
    """Spoils long answers: a sentence of another, a number or a name changed, or a passage too many."""

    def __init__(self, right: Sequence[Asked], random: Random) -> None:
        self._right = right
        self._random = random

    def other_answer(self, one: Asked) -> Candidate | None:
        """Answer with the long answer of another passage."""
        return self._free(one, self._other(one).answer)

    def foreign_sentence(self, one: Asked) -> Candidate | None:
        """Add the first sentence of another answer."""
        return self._free(one, f"{one.answer.rstrip('. ')}. {self._other(one).answer.split('. ')[0].rstrip('.')}.")

    def other_number(self, one: Asked) -> Candidate | None:
        """Change a number."""
        found = re.search(r"\d+", one.answer)
        if not found:
            return None
        return self._free(one, one.answer[: found.start()] + str(int(found[0]) + 7) + one.answer[found.end() :])

    def other_name(self, one: Asked) -> Candidate | None:
        """Put a name of another answer in place of one."""
        own, others = _NAME.search(one.answer), _NAME.findall(self._other(one).answer)
        if own is None or not others or others[0] in one.passage.chunk.text:
            return None
        return self._free(one, one.answer[: own.start()] + others[0] + one.answer[own.end() :])

    def both(self, one: Asked) -> Candidate:
        """Answer two questions over both passages: right, and needs both."""
        other = self._other(one)
        said = f"{one.answer.rstrip('. ')}. {other.answer}"
        return one.candidate("multi", answer=said, others=(other.passage,))

    def spare(self, one: Asked) -> Candidate | None:
        """Answer one question over two passages."""
        return one.candidate("multi", others=(self._other(one).passage,))

    def _free(self, one: Asked, answer: str) -> Candidate:
        return one.candidate("free", answer=answer)

    def _other(self, one: Asked) -> Asked:
        while (other := self._random.choice(self._right)).passage == one.passage:
            pass
        return other
