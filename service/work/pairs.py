"""The ``pairs`` job: question-answer pairs from a collection's documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from data.errors import InvalidRequest
from data.protocols import Report
from service.arms import find_adapter
from service.other_generator import spread
from service.spans import traced_generator
from service.starter import PAIR_WRITER, READER

if TYPE_CHECKING:
    from data.records import PairKind, Progress
    from retrieval.asking import Wishes
    from service.workspace import Workspace

PER_SOURCE_CAP = 0.25
"""Share of the accepted pairs that one document may hold unless the inputs say otherwise."""
ADVICE = (
    "The packaged pair writer (135M) is for trying the loop: of its accepted pairs that were read, about two in five "
    "were right (bench/RESULTS.md). Review them before you train on them, or let a larger model write: --teacher URL "
    "(any OpenAI-compatible server), or RAGTUNE_MODEL."
)
FEW = (
    "Of what your documents state in the forms that are recognized {n} pairs were accepted; without a larger model no "
    "more are made, and no unanswerable ones, so an adapter trained on these alone sees no question to decline. Let a "
    "larger model write both: --teacher URL (any OpenAI-compatible server), or RAGTUNE_MODEL. The packaged pair writer "
    "(135M) writes with --kinds stated,span,unanswerable; about two in five of its pairs are right (bench/RESULTS.md)."
)
STATED = "stated"
LATEST_JOBS = 1000
"""Among so many jobs, the newest, evaluations are looked for."""


def run(workspace: Workspace, inputs: dict[str, Any], report: Report) -> dict[str, Any]:
    """Ask for ``limit`` proposals and keep those that pass the checks; return the ledger.

    What documents ask and answer themselves is taken first, unless ``faq`` is false; its ledger is ``faq``.
    Of ``kinds``, "stated" turns statements of the documents into questions and needs no model; its ledger is
    ``stated``, and counts in the ledger of all. It is the default where only the packaged writer could write. What is
    left of ``limit`` the engine writes, with the packaged pair writer where it fits the base model, or a teacher
    does (``teacher`` is its URL); by default the packaged one writes only where ``fill`` is true. The packaged reader
    answers each span once more as a check. ``glossary`` (``{preferred: [other forms]}``), ``personas`` and
    ``plan_types`` say what written pairs are wanted.

    Raises:
        InvalidRequest: the packaged pair writer would have to write them, and cannot.
    """
    from retrieval.faq import harvest_pairs
    from retrieval.stated.harvest import state_pairs

    starters = workspace.ensure_starter_adapters()
    teacher = inputs.get("teacher") or workspace.settings.teacher_url
    writer = inputs.get("adapter") or (PAIR_WRITER if PAIR_WRITER in starters and not teacher else None)
    kinds = _kinds(inputs, writer)
    written = tuple(kind for kind in kinds if kind != STATED)
    wishes = _wishes(inputs, written, writer)
    about: dict[str, Any] = {
        "exclude_documents": frozenset(inputs.get("exclude_documents", ())),
        "top_k": inputs.get("top_k", 4),
        "evaluation_questions": _measured(workspace, inputs),
        "report": report,
    }
    collection, limit = inputs.get("collection", "default"), inputs["limit"]
    capped = about | {"seed": inputs.get("seed", 0), "per_source_cap": inputs.get("per_source_cap", PER_SOURCE_CAP)}
    found = (workspace.store, workspace.retriever, collection)
    harvested = harvest_pairs(*found, **about) if inputs.get("faq", True) else {}
    beside = (*written, teacher or writer or "") if written else ()
    stated = state_pairs(*found, requested=limit, beside=beside, **capped) if STATED in kinds else {}
    left = limit - stated.get("requested", 0)
    ledger = stated
    if written and left:
        who = _Writers(teacher, writer, READER if READER in starters else None)
        about = capped | {"requested": left, "wishes": wishes, "report": _growing(stated, report)}
        ledger = _together(stated, _written(workspace, collection, who, **about))
    advice = _advice(ledger, stated, writer, left)
    return (
        ledger
        | ({"stated": stated} if stated else {})
        | ({"faq": harvested} if harvested.get("requested") else {})
        | advice
    )


@dataclass(frozen=True, slots=True)
class _Writers:
    """Who writes pairs, and who reads them once more: a teacher's URL, names of adapters."""

    teacher: str | None
    writer: str | None
    reader: str | None


def _written(workspace: Workspace, collection: str, who: _Writers, **about: Any) -> dict[str, Any]:
    """Let a model propose pairs; return the ledger."""
    from retrieval.pairs import generate_pairs

    sequences, teacher = workspace.settings.sequences, who.teacher
    generates = who.reader is not None or not teacher
    where = spread(workspace, sequences) if generates else nullcontext((workspace, 0))
    with where as (generating, places):
        return generate_pairs(
            workspace.store,
            workspace.retriever,
            traced_generator(workspace.teacher_at(teacher) if teacher else generating.generator, "pair"),
            collection,
            adapter=_key(generating, who.writer),
            parallel=sequences if teacher else places or sequences,  # a teacher is one server, however many nodes read
            read_ahead=bool(places),
            **_reading(generating, who.reader),
            **about,
        )


def _kinds(inputs: dict[str, Any], writer: str | None) -> tuple[str, ...]:
    """Return the kinds that are asked for: what documents state, unless a better writer is there or one is named."""
    from retrieval.asking import DEFAULT_KINDS

    if given := inputs.get("kinds"):
        return tuple(dict.fromkeys(given))
    if writer != PAIR_WRITER or inputs.get("adapter"):
        return DEFAULT_KINDS
    return (STATED, *DEFAULT_KINDS) if inputs.get("fill") else (STATED,)


def _growing(stated: dict[str, Any], report: Report) -> Report:
    """Return a report to which the writer's progress is told: it goes on where the statements' ended."""
    if not stated:
        return report

    def go_on(progress: Progress) -> None:
        told, before = progress.metrics, stated["requested"]
        sums = {name: stated[name] + told[name] for name in ("accepted", "failed")}
        sums["rejected"] = dict(Counter(stated["rejected"]) + Counter(told["rejected"]))
        report(replace(progress, done=before + progress.done, total=before + progress.total, metrics=sums))

    return go_on


def _together(stated: dict[str, Any], written: dict[str, Any]) -> dict[str, Any]:
    """Return one ledger of both; the run is the one that wrote."""
    if not stated:
        return written
    sums: dict[str, Any] = {
        name: stated[name] + written[name] for name in ("requested", "accepted", "failed", "pending")
    }
    accepted = Counter(stated["question_types"]["accepted"]) + Counter(written["question_types"]["accepted"])
    types = {"planned": written["question_types"]["planned"], "accepted": dict(accepted)}
    rejected = dict(Counter(stated["rejected"]) + Counter(written["rejected"]))
    return written | sums | {"rejected": rejected, "question_types": types}


def _advice(ledger: dict[str, Any], stated: dict[str, Any], writer: str | None, left: int) -> dict[str, str]:
    """Return what a user should know: what the packaged writer's pairs are worth, or how to get the ``left`` ones."""
    if ledger is stated and writer == PAIR_WRITER:
        return {"advice": FEW.format(n=stated["accepted"])} if left else {}
    wrote = ledger["accepted"] > stated.get("accepted", 0)
    return {"advice": ADVICE} if writer == PAIR_WRITER and wrote else {}


def _wishes(inputs: dict[str, Any], written: Sequence[str], writer: str | None) -> Wishes:
    """Return what the inputs wish of a writer; types are planned by default where the writer follows instructions."""
    from retrieval.asking import DEFAULT_KINDS, Wishes
    from retrieval.glossary import Glossary

    follows = writer is None
    planned = inputs.get("plan_types")
    wishes = Wishes(
        kinds=cast("tuple[PairKind, ...]", tuple(written)) or DEFAULT_KINDS,
        glossary=Glossary.of(inputs.get("glossary") or {}),
        personas=tuple(inputs.get("personas") or ()),
        plan_types=follows if planned is None else planned,
    )
    if writer == PAIR_WRITER and wishes.instructed:
        raise InvalidRequest(
            "The packaged pair writer (135M) writes short answers found in a passage, and follows no instructions",
            got=_instructions(wishes),
            wanted="kinds stated, span and unanswerable, without glossary, personas and planned types",
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
