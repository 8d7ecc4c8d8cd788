"""The ``pairs`` job: question-answer pairs from a collection's documents."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from data.errors import InvalidRequest
from data.protocols import Report
from service.arms import find_adapter
from service.other_generator import spread
from service.spans import traced_generator
from service.starter import PAIR_WRITER, READER

if TYPE_CHECKING:
    from retrieval.asking import Wishes
    from service.workspace import Workspace

PER_SOURCE_CAP = 0.25
"""Share of the accepted pairs that one document may hold unless the inputs say otherwise."""
ADVICE = (
    "The packaged pair writer (135M) is for trying the loop: of its accepted pairs that were read, about two in five "
    "were right (bench/RESULTS.md). Review them before you train on them, or let a larger model write: --teacher URL "
    "(any OpenAI-compatible server), or RAGTUNE_MODEL."
)
LATEST_JOBS = 1000
"""Among so many jobs, the newest, evaluations are looked for."""


def run(workspace: Workspace, inputs: dict[str, Any], report: Report) -> dict[str, Any]:
    """Ask for ``limit`` proposals and keep those that pass the checks; return the ledger.

    What documents ask and answer themselves is taken first, unless ``faq`` is false; its ledger is ``faq``.
    The engine writes them with the packaged pair writer where it fits the base model, or a teacher
    does (``teacher`` is its URL). The packaged reader answers each span once more as a check.
    ``kinds``, ``glossary`` (``{preferred: [other forms]}``), ``personas`` and ``plan_types`` say what pairs are wanted.

    Raises:
        InvalidRequest: the packaged pair writer would have to write them, and cannot.
    """
    from retrieval.faq import harvest_pairs
    from retrieval.pairs import generate_pairs

    starters = workspace.ensure_starter_adapters()
    teacher = inputs.get("teacher") or workspace.settings.teacher_url
    writer = inputs.get("adapter") or (PAIR_WRITER if PAIR_WRITER in starters and not teacher else None)
    wishes = _wishes(inputs, writer)
    about: dict[str, Any] = {
        "exclude_documents": frozenset(inputs.get("exclude_documents", ())),
        "top_k": inputs.get("top_k", 4),
        "evaluation_questions": _measured(workspace, inputs),
        "report": report,
    }
    collection = inputs.get("collection", "default")
    store, retriever = workspace.store, workspace.retriever
    harvested = harvest_pairs(store, retriever, collection, **about) if inputs.get("faq", True) else {}
    sequences = workspace.settings.sequences
    reader = READER if READER in starters else None
    generates = reader is not None or not teacher
    where = spread(workspace, sequences) if generates else nullcontext((workspace, 0))
    with where as (generating, places):
        ledger = generate_pairs(
            store,
            retriever,
            traced_generator(workspace.teacher_at(teacher) if teacher else generating.generator, "pair"),
            collection,
            requested=inputs["limit"],
            seed=inputs.get("seed", 0),
            adapter=_key(generating, writer),
            wishes=wishes,
            per_source_cap=inputs.get("per_source_cap", PER_SOURCE_CAP),
            parallel=sequences if teacher else places or sequences,  # a teacher is one server, however many nodes read
            read_ahead=bool(places),
            **_reading(generating, reader),
            **about,
        )
    advice = {"advice": ADVICE} if writer == PAIR_WRITER and ledger["accepted"] else {}
    return ledger | ({"faq": harvested} if harvested.get("requested") else {}) | advice


def _wishes(inputs: dict[str, Any], writer: str | None) -> Wishes:
    """Return what the inputs wish for; types are planned by default where the writer follows instructions."""
    from retrieval.asking import DEFAULT_KINDS, Wishes
    from retrieval.glossary import Glossary

    follows = writer is None
    planned = inputs.get("plan_types")
    wishes = Wishes(
        kinds=tuple(dict.fromkeys(inputs.get("kinds") or DEFAULT_KINDS)),
        glossary=Glossary.of(inputs.get("glossary") or {}),
        personas=tuple(inputs.get("personas") or ()),
        plan_types=follows if planned is None else planned,
    )
    if writer == PAIR_WRITER and wishes.instructed:
        raise InvalidRequest(
            "The packaged pair writer (135M) writes short answers found in a passage, and follows no instructions",
            got=_instructions(wishes),
            wanted="kinds span and unanswerable, without glossary, personas and planned types",
            hint="Name a larger model as the writer: --teacher URL (any OpenAI-compatible server), or RAGTUNE_MODEL.",
        )
    return wishes


def _instructions(wishes: Wishes) -> str:
    asked = [f"kind {kind}" for kind in wishes.kinds if kind in {"free", "multi"}]
    asked += ["glossary"] if wishes.glossary.terms else []
    asked += ["personas"] if wishes.personas else []
    return ", ".join([*asked, *(["planned types"] if wishes.plan_types else [])])


def _measured(workspace: Workspace, inputs: dict[str, Any]) -> tuple[str, ...]:
    """Return the questions that no pair may resemble: those given, and those of the collection's evaluations."""
    asked = [*inputs.get("evaluation_questions", ()), *inputs.get("exclude_questions", ())]
    collection = inputs.get("collection", "default")
    for job in workspace.store.jobs.list(limit=LATEST_JOBS, kinds=("evaluate", "loop"), collection=collection):
        asked += [question["question"] for question in job.inputs.get("questions", ())]
    return tuple(dict.fromkeys(asked))


def _reading(workspace: Workspace, reader: str | None) -> dict[str, Any]:
    """Return who answers each question once more, if anybody does."""
    if reader is None:
        return {}
    return {"reader": traced_generator(workspace.generator, "check"), "reader_adapter": _key(workspace, reader)}


def _key(workspace: Workspace, name: str | None) -> str | None:
    return workspace.adapter_key(find_adapter(workspace.store, name)) if name else None
