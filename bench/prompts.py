"""The prompts of the serving benchmark: questions of the samples over passages of the production retriever.

Knows nothing of engines or clients.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from data.prompt import answer_messages
from data.records import Passage, Question
from service.engine.protocol import messages_to_wire
from service.workspace import Workspace

COLLECTION = "bench-serving"
TURNS, CHAT_PASSAGES = 10, 2


def rounds(workspace: Workspace, questions: Sequence[Question], count: int) -> tuple[list[Any], list[Any]]:
    """Return ``count`` prompts over passages of their own, and as many over those same passages in a new order."""
    shuffled = random.Random(0).sample(list(questions), len(questions))
    everything = {chunk.id for _, chunk, _ in workspace.store.chunks.iterate(COLLECTION)}
    seen: set[str] = set()
    begun: set[tuple[str, ...]] = set()

    def ask(place: int, question: Question, excluded: set[str]) -> Any:
        wanted = 2 + place % 3
        found = workspace.retriever.search(question.question, COLLECTION, wanted, exclude_chunks=excluded)
        if len(found) < wanted or 2 * count > len(questions):
            raise SystemExit(f"the samples have not enough questions and passages for {count} requests")
        ordered = unread_order(found, begun)
        seen.update(passage.chunk.id for passage in ordered)
        return messages_to_wire(answer_messages(question.question, ordered))

    cold = [ask(i, question, seen) for i, question in enumerate(shuffled[:count])]
    unseen = everything - seen
    warm = [ask(i, question, unseen) for i, question in enumerate(shuffled[count : 2 * count])]
    return cold, warm


def unread_order(passages: Sequence[Passage], begun: set[tuple[str, ...]]) -> list[Passage]:
    """Rotate passages until they begin least like an earlier prompt; ``begun`` holds all beginnings so far."""

    def beginnings(order: Sequence[Passage]) -> list[tuple[str, ...]]:
        ids = tuple(passage.chunk.id for passage in order)
        return [ids[:end] for end in range(1, len(ids) + 1)]

    rotations = [[*passages[i:], *passages[:i]] for i in range(len(passages))]
    best = min(rotations, key=lambda order: sum(beginning in begun for beginning in beginnings(order)))
    begun.update(beginnings(best))
    return best


def conversations(workspace: Workspace, questions: Sequence[Question], count: int) -> list[dict[str, Any]]:
    """Return conversations of ``TURNS`` questions about one article, each with passages and again without."""
    found: list[dict[str, Any]] = []
    for document in list(dict.fromkeys(question.document for question in questions))[:count]:
        asked = [question.question for question in questions if question.document == document][:TURNS]
        for kind, top_k in (("passages", CHAT_PASSAGES), ("plain", 0)):
            found.append({"kind": kind, "turns": []})
            for before, question in zip(["", *asked], asked, strict=False):
                passages = workspace.retriever.search(question, COLLECTION, top_k, context=before) if top_k else []
                messages = messages_to_wire(answer_messages(question, passages))
                found[-1]["turns"].append({"question": question, "messages": messages})
    return found
