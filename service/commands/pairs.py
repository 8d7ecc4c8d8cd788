"""Commands about question-answer pairs: generate, import, export, list; those of reviews are added."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from data.errors import UnknownDocument
from data.formats import FORMATS, Format, read_questions
from data.store import PairFilter
from service.commands import review
from service.commands.foreground import run_here
from service.commands.progress import ProgressView
from service.commands.review import FailedCheck, GeneratedBy, Kind, Source, Status, Text, chosen_pairs
from service.commands.session import FAILED, Collection, Json, print_json, print_line, print_rows, session, stderr
from service.review import pair_details

_FILE: dict[str, Any] = {"exists": True, "dir_okay": False, "readable": True}

pairs = typer.Typer(help="Question-answer pairs made from your documents.", no_args_is_help=True)
review.add_to(pairs)


Teacher = Annotated[str | None, typer.Option(help="URL of an OpenAI-compatible server that writes them.")]
Writer = Annotated[str | None, typer.Option(help="The pair writer to use instead of the packaged one.")]
Excluded = Annotated[list[str] | None, typer.Option(help="Source of a document to leave out; repeatable.")]
ExcludedQuestions = Annotated[
    Path | None, typer.Option(help="JSONL of evaluation questions that no pair may resemble.", **_FILE)
]
Kinds = Annotated[
    str | None,
    typer.Option(
        help="Of stated, span, free, multi, unanswerable; comma-separated. By default stated, "
        "or span,unanswerable where a teacher or a larger model writes."
    ),
]
GlossaryFile = Annotated[
    Path | None, typer.Option(help="TOML or CSV of the house's terms and their other forms.", **_FILE)
]
Personas = Annotated[list[str] | None, typer.Option(help="Who asks, in a few words; repeatable.")]
PlanTypes = Annotated[
    bool | None,
    typer.Option(help="Vary each document's question words; by default where the writer follows instructions."),
]


@pairs.command("generate")
def generate(
    ctx: typer.Context,
    *,
    limit: Annotated[int, typer.Option(min=1, help="How many proposals to ask for.")] = 200,
    collection: Collection = "default",
    teacher: Teacher = None,
    adapter: Writer = None,
    seed: Annotated[int, typer.Option(help="The same seed asks for the same proposals.")] = 0,
    exclude: Excluded = None,
    exclude_questions: ExcludedQuestions = None,
    per_source_cap: Annotated[float, typer.Option(help="Share of the pairs that one document may hold.")] = 0.25,
    kinds: Kinds = None,
    glossary: GlossaryFile = None,
    persona: Personas = None,
    plan_types: PlanTypes = None,
    faq: Annotated[bool, typer.Option(help="Take questions that documents ask and answer themselves, too.")] = True,
    as_json: Json = False,
) -> None:
    """Propose pairs from the documents and keep those that pass the checks. Resumes where it stopped."""
    kept_out = read_questions(exclude_questions) if exclude_questions else []
    inputs = {
        "collection": collection,
        "limit": limit,
        "per_source_cap": per_source_cap,
        "faq": faq,
        "kinds": [kind.strip() for kind in kinds.split(",") if kind.strip()] if kinds is not None else None,
        "glossary": _terms(glossary),
        "personas": persona or [],
        "plan_types": plan_types,
        "exclude_questions": [question.question for question in kept_out],
        "seed": seed,
        "teacher": teacher,
        "adapter": adapter,
    }
    with session(ctx).workspace(mutates=True) as workspace:
        inputs["exclude_documents"] = document_ids(workspace, collection, exclude or [])
        ledger = run_here(workspace, "pairs", inputs)
    print_json(ledger) if as_json else _print_ledger(ledger)


def _terms(path: Path | None) -> dict[str, list[str]]:
    from retrieval.glossary import read_glossary

    return read_glossary(path).to_mapping() if path else {}


def _print_ledger(ledger: dict[str, Any]) -> None:
    if "faq" in ledger:
        print_line("Questions of the documents: " + ledger_text(ledger["faq"]))
    if "stated" in ledger and ledger["stated"]["requested"] < ledger["requested"]:
        print_line("Of these stated by the documents: " + ledger_text(ledger["stated"]))
    print_line(ledger_text(ledger))
    print_line(types_text(ledger["question_types"]))
    if "advice" in ledger:
        stderr().print(ledger["advice"], markup=False)


def types_text(types: dict[str, dict[str, int]]) -> str:
    """Return the question words of the accepted pairs, and those that were planned, as one line."""

    def said(counts: dict[str, int]) -> str:
        return ", ".join(f"{one} {n}" for one, n in sorted(counts.items(), key=lambda item: -item[1])) or "none"

    planned = f"; planned: {said(types['planned'])}" if types["planned"] else ""
    return f"Question words: {said(types['accepted'])}{planned}"


def document_ids(workspace: Any, collection: str, sources: list[str]) -> list[str]:
    """Return the ids of the documents at ``sources``.

    Raises:
        UnknownDocument: the collection has none at one of them.
    """
    known = workspace.store.documents.by_source(collection) if sources else {}
    missing = [source for source in sources if source not in known]
    if missing:
        raise UnknownDocument("No document has this source", got=missing[0], wanted=", ".join(list(known)[:10]))
    return [known[source].id for source in sources]


def ledger_text(ledger: dict[str, Any]) -> str:
    """Return a ledger as one line; its numbers add up."""
    rejected = ledger["rejected"]
    reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(rejected.items(), key=lambda item: -item[1]))
    total = sum(rejected.values())
    pending = f", {ledger['pending']} pending" if ledger.get("pending") else ""
    return (
        f"{ledger['requested']} proposed: {ledger['accepted']} accepted, {total} rejected"
        f"{f' ({reasons})' if reasons else ''}, {ledger['failed']} failed{pending}"
    )


def _formats(values: list[str] | None) -> list[str] | None:
    if unknown := [value for value in values or () if value not in FORMATS]:
        raise typer.BadParameter(f"{', '.join(unknown)} is not among {', '.join(FORMATS)}")
    return values


@pairs.command("list")
def list_pairs(
    ctx: typer.Context,
    *,
    collection: Collection = "default",
    status: Status = None,
    kind: Kind = None,
    source: Source = None,
    text: Text = None,
    failed_check: FailedCheck = None,
    generated_by: GeneratedBy = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    cursor: Annotated[str | None, typer.Option(help="next_cursor of the page before.")] = None,
    as_json: Json = False,
) -> None:
    """List pairs and what became of them."""
    from service.answerer import check_collection

    chosen = chosen_pairs(
        status=status, kind=kind, source=source, text=text, failed_check=failed_check, generated_by=generated_by
    )
    with session(ctx).workspace() as workspace:
        check_collection(workspace.store, collection)
        found, following = workspace.store.pairs.find(collection, chosen, cursor, limit)
        details = pair_details(workspace.store, found) if as_json else []
    if as_json:
        print_json({"pairs": details, "next_cursor": following})
        return
    rows = [(pair.id, pair.status, pair.kind, pair.question, pair.answer, pair.reason) for pair in found]
    columns = ("id", "status", "kind", "question", "answer", "reason")
    print_rows(columns, rows, "No such pairs" if chosen != PairFilter() else "No pairs yet: ragtune pairs generate")
    if following:
        print_line(f"More: --cursor {following}")


@pairs.command("import")
def import_file(
    ctx: typer.Context,
    path: Annotated[
        Path, typer.Argument(help="JSONL of chat, instruction or sharegpt rows, or of questions.", **_FILE)
    ],
    style: Annotated[bool, typer.Option("--style", help="The answers are examples of your house style.")] = False,
    collection: Collection = "default",
    as_json: Json = False,
) -> None:
    """Take in pairs made elsewhere; each bad row fails alone."""
    inputs = {"path": str(path.resolve()), "collection": collection, "style": style}
    with session(ctx).workspace(mutates=True) as workspace:
        done = run_here(workspace, "import_pairs", inputs, title="import")
    if as_json:
        print_json(done)
    else:
        for row in done["failed"]:
            stderr().print(f"failed: {row['detail']}", markup=False)
        print_line(f"{done['imported']} imported, {done['known']} known already, {done['failed_count']} failed")
    if done["failed"] and not done["imported"] and not done["known"]:
        raise typer.Exit(FAILED)


@pairs.command("export")
def export(
    ctx: typer.Context,
    *,
    out: Annotated[Path, typer.Option(help="Folder for train.jsonl and eval.jsonl.", file_okay=False)],
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", callback=_formats, help="chat, instruction or sharegpt; repeatable."),
    ] = None,
    collection: Collection = "default",
    eval_share: Annotated[float, typer.Option(min=0, max=1, help="Share of rows kept for evaluation.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Decides the split.")] = 0,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, max=50)] = 4,
    as_json: Json = False,
) -> None:
    """Write the accepted pairs as training rows over production passages, split without leaks."""
    from retrieval.rowfiles import export_rows
    from service.answerer import check_collection

    with session(ctx).workspace() as workspace:
        check_collection(workspace.store, collection)
        # No job: it only reads, so it runs beside a server, whose runner would take up a queued one.
        with ProgressView("export") as report:
            done = export_rows(
                workspace.store,
                workspace.retriever,
                collection,
                out,
                formats=cast("list[Format]", formats) or ["chat", "instruction"],
                eval_share=eval_share,
                seed=seed,
                top_k=top_k,
                report=report,
            )
    if as_json:
        print_json(done)
    else:
        print_line(
            f"{done['train']} rows to train on, {done['eval']} to evaluate on: {', '.join(done['files'].values())}"
        )
