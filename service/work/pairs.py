"""The ``pairs`` job: question-answer pairs from a collection's documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data.protocols import Report
from service.arms import find_adapter
from service.starter import PAIR_WRITER, READER

if TYPE_CHECKING:
    from service.workspace import Workspace


def run(workspace: Workspace, inputs: dict[str, Any], report: Report) -> dict[str, Any]:
    """Ask for ``limit`` proposals and keep those that pass the checks; return the ledger.

    The engine writes them with the packaged pair writer where it fits the base model, or a teacher
    does (``teacher`` is its URL). The packaged reader answers each pair once more as a check.
    """
    from retrieval.pairs import generate_pairs

    starters = workspace.ensure_starter_adapters()
    teacher = inputs.get("teacher") or workspace.settings.teacher_url
    writer = inputs.get("adapter") or (PAIR_WRITER if PAIR_WRITER in starters and not teacher else None)
    reader = READER if READER in starters else None
    return generate_pairs(
        workspace.store,
        workspace.retriever,
        workspace.teacher_at(teacher) if teacher else workspace.generator,
        inputs.get("collection", "default"),
        requested=inputs["limit"],
        seed=inputs.get("seed", 0),
        adapter=_key(workspace, writer),
        reader=workspace.generator if reader else None,
        reader_adapter=_key(workspace, reader),
        exclude_documents=frozenset(inputs.get("exclude_documents", ())),
        top_k=inputs.get("top_k", 4),
        evaluation_questions=tuple(inputs.get("evaluation_questions", ())),
        parallel=workspace.settings.sequences,
        report=report,
    )


def _key(workspace: Workspace, name: str | None) -> str | None:
    return workspace.adapter_key(find_adapter(workspace.store, name)) if name else None
