"""Measures the searches of a collection on questions, with a report where one is wanted.

What the command line and the committed reports share. Knows nothing of arms and answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.records import METHODS, Method, Question
from service.compare.retrieval_report import write_retrieval_reports

if TYPE_CHECKING:
    from service.workspace import Workspace


def evaluate_searches(
    workspace: Workspace,
    questions: Sequence[Question],
    collection: str = "default",
    methods: Sequence[Method] = METHODS,
    *,
    disagreements: int = 0,
    out: Path | None = None,
    title: str = "Which search finds best",
    command: str = "",
) -> dict[str, Any]:
    """Return what ``retrieval.evaluate.evaluate_questions`` finds; with ``out`` write the report there, too.

    Raises:
        As ``evaluate_questions``; StateError: the report cannot be written.
    """
    from retrieval.evaluate import evaluate_questions

    retriever = workspace.retriever
    found = evaluate_questions(questions, retriever, collection, methods, disagreements, ranks=out is not None)
    if out is None:
        return found
    lineage = {
        "made": datetime.now(UTC).isoformat(" ", "seconds"),
        "collection": collection,
        "index generation": retriever.generation(collection),
        "embedder": workspace.embedders.indexed_with(collection),
    }
    write_retrieval_reports(found, out, title=title, command=command, lineage=lineage)
    return {name: value for name, value in found.items() if name != "ranks"}
