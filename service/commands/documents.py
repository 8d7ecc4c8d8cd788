"""Commands about documents: ingest, search, ask, and the index they live in."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from data.errors import RagtuneError
from data.records import METHODS, Answer, Method
from service.commands.foreground import run_here
from service.commands.session import (
    FAILED,
    Collection,
    Json,
    print_fields,
    print_json,
    print_line,
    session,
    stderr,
    stdout,
)

index = typer.Typer(help="The search index and its generations.", no_args_is_help=True)


def ingest(
    ctx: typer.Context,
    paths: Annotated[list[Path], typer.Argument(help="Files and folders.", show_default=False)],
    collection: Collection = "default",
    sync: Annotated[bool, typer.Option("--sync", help="Delete documents whose file is gone.")] = False,
    as_json: Json = False,
) -> None:
    """Read documents into the index; unchanged files are skipped."""
    with session(ctx).workspace(mutates=True) as workspace:
        inputs = {"paths": [str(path) for path in paths], "collection": collection, "sync": sync}
        outputs = run_here(workspace, "ingest", inputs)
    show_ingest(outputs, as_json)
    if outputs["failed"] and not outputs["indexed"] and not outputs["unchanged"]:
        raise typer.Exit(FAILED)


def show_ingest(outputs: dict[str, Any], as_json: bool) -> None:
    """Print what became of each file."""
    lists = {name: outputs.get(name, []) for name in ("indexed", "unchanged", "deleted", "failed")}
    if as_json:
        print_json(lists)
        return
    for row in lists["failed"]:
        reason = RagtuneError(row["detail"], got=row["got"], wanted=row["wanted"], hint=row["hint"])
        stderr().print(f"failed: {row['source']}: {reason}", markup=False)
    chunks = sum(row["chunks"] for row in lists["indexed"])
    print_line(
        f"{len(lists['indexed'])} indexed ({chunks} chunks), {len(lists['unchanged'])} unchanged, "
        f"{len(lists['deleted'])} deleted, {len(lists['failed'])} failed"
    )


def _method(value: str) -> Method:
    if value not in METHODS:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(METHODS)}")
    return value


def search(
    ctx: typer.Context,
    *,
    query: Annotated[str, typer.Argument(help="What to search for.")],
    collection: Collection = "default",
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, max=100)] = 4,
    method: Annotated[str, typer.Option(callback=_method, help="hybrid, dense or lexical.")] = "hybrid",
    as_json: Json = False,
) -> None:
    """Find the passages that fit a query."""
    from service.answerer import check_collection, check_question
    from service.views import passage_view

    with session(ctx).workspace() as workspace:
        check_question(query, workspace.settings.max_question_chars)
        check_collection(workspace.store, collection)
        passages = workspace.retriever.search(query, collection, top_k, _method(method))
        generation = workspace.retriever.generation(collection)
    if as_json:
        print_json({"passages": [passage_view(p) for p in passages], "index_generation": generation})
        return
    for passage in passages:
        page = f", page {passage.chunk.page}" if passage.chunk.page else ""
        print_line(f"{passage.rank}. {passage.source}{page}  {passage.chunk.heading}  ({passage.score:.3f})")
        print_line(f"   {' '.join(passage.chunk.text.split())}")


def ask(
    ctx: typer.Context,
    *,
    question: Annotated[str, typer.Argument(help="The question.")],
    mode: Annotated[str, typer.Option("--mode", "-m", help="base, rag, tuned, combined or auto.")] = "auto",
    adapter: Annotated[
        str | None,
        typer.Option(help="NAME (its live version, else the newest) or NAME@VERSION; by default the live one."),
    ] = None,
    collection: Collection = "default",
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, max=50)] = 4,
    max_tokens: Annotated[int, typer.Option(min=1, max=8192)] = 256,
    temperature: Annotated[float, typer.Option(min=0, max=2)] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Repeats a sampled answer.")] = None,
    as_json: Json = False,
) -> None:
    """Answer a question as the words come, then name the sources."""
    from service.answerer import AskRequest

    request = AskRequest(
        question,
        collection=collection,
        mode=mode,
        adapter=adapter,
        top_k=top_k,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
    )
    with session(ctx).workspace() as workspace:
        workspace.ensure_starter_adapters()
        if as_json:
            from service.views import answer_view

            print_json(answer_view(workspace.answerer.answer(request)))
            return
        _stream(workspace.answerer.stream(request))


def _stream(events: Any) -> None:
    from service.answerer import Token

    console = stdout()
    for event in events:
        if isinstance(event, Token):
            console.print(event.text, end="", markup=False)
        elif isinstance(event, Answer):
            console.print()
            show_sources(event)


def show_sources(answer: Answer) -> None:
    """Print the citations of an answer, and how it came about."""
    for citation in answer.citations:
        place = ", ".join(filter(None, [citation.heading, f"page {citation.page}" if citation.page else ""]))
        mark = "" if citation.supported else "  (does not support the answer)"
        print_line(f"[{citation.n}] {citation.source}  {place}{mark}")
        print_line(f"    “{' '.join(citation.quote.split())}”")
    seconds = answer.timings.get("total", 0.0) / 1000
    adapter = f" with {answer.adapter}" if answer.adapter else ""
    stderr().print(f"{answer.mode}, {answer.model}{adapter}, {seconds:.1f} s", style="dim", markup=False)


@index.command("status")
def index_status(ctx: typer.Context, collection: Collection = "default", as_json: Json = False) -> None:
    """Show the current generation and what it holds."""
    from service.answerer import check_collection

    with session(ctx).workspace() as workspace:
        check_collection(workspace.store, collection)
        status = plain(workspace.ingestor.status(collection))
    if as_json:
        print_json(status)
    else:
        print_fields(status)


@index.command("rebuild")
def index_rebuild(ctx: typer.Context, collection: Collection = "default", as_json: Json = False) -> None:
    """Build a new generation from the stored documents; the old one serves until it is ready."""
    from service.answerer import check_collection

    with session(ctx).workspace(mutates=True) as workspace:
        check_collection(workspace.store, collection)
        outputs = run_here(workspace, "rebuild", {"collection": collection})
    if as_json:
        print_json(outputs)
    else:
        print_line(f"Generation {outputs['index_generation']} of {collection} is current.")


@index.command("rollback")
def index_rollback(ctx: typer.Context, collection: Collection = "default", as_json: Json = False) -> None:
    """Make the generation before the current one current again."""
    from service.answerer import check_collection

    with session(ctx).workspace(mutates=True) as workspace:
        check_collection(workspace.store, collection)
        workspace.ingestor.rollback(collection)
        generation = workspace.store.collections.current_generation(collection)
    if as_json:
        print_json({"collection": collection, "index_generation": generation})
    else:
        print_line(f"Generation {generation} of {collection} is current.")


def plain(value: Any) -> dict[str, Any]:
    """Return a dataclass or mapping as a dict."""
    return dict(value) if isinstance(value, dict) else asdict(value)
