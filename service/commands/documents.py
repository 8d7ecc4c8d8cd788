"""Commands about documents: ingest, search, ask, and the index they live in."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection as Collected
from dataclasses import asdict
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from data.errors import RagtuneError
from data.records import METHODS, Answer, Filter, Method, StageNote
from service.arms import MOST_SCALE
from service.commands.foreground import run_here
from service.commands.session import (
    FAILED,
    Collection,
    Json,
    TopK,
    cli_actor,
    complain,
    print_fields,
    print_json,
    print_line,
    session,
    stderr,
    stdout,
)
from service.settings import Rerank

if TYPE_CHECKING:
    from service.asking import AskRequest
    from service.workspace import Workspace

index = typer.Typer(help="The search index and its generations.", no_args_is_help=True)


def ingest(
    ctx: typer.Context,
    *,
    paths: Annotated[list[Path], typer.Argument(help="Files and folders.", show_default=False)],
    collection: Collection = "default",
    sync: Annotated[
        bool, typer.Option("--sync", help="Mirror: the collection becomes what PATHS hold; all other documents go.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Mirror (see --sync), and follow every change until Ctrl-C.")
    ] = False,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Put on every document; repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Read documents into the index; unchanged files are skipped."""
    if watch:
        with session(ctx).workspace() as workspace:
            _follow(workspace, collection, paths, tag, as_json)
        return
    with session(ctx).workspace(mutates=True) as workspace:
        inputs: dict[str, Any] = {"paths": [str(path) for path in paths], "collection": collection, "sync": sync}
        outputs = run_here(workspace, "ingest", inputs | ({"tags": tag} if tag else {}))
    show_ingest(outputs, as_json)
    if outputs["failed"] and not any(outputs[name] for name in ("indexed", "unchanged", "moved")):
        raise typer.Exit(FAILED)


def _follow(workspace: Workspace, collection: str, paths: list[Path], tag: list[str] | None, as_json: bool) -> None:
    """Ingest every change until Ctrl-C. No lock: a server may serve meanwhile, store and index have their own."""
    from retrieval.watch import follow

    with contextlib.suppress(KeyboardInterrupt):
        for batch in follow(workspace.ingestor, collection, paths, tags=tag or None):
            if batch.error is not None:
                complain(batch.error)
            elif batch.report is not None and as_json:
                print_json(asdict(batch.report), indent=None)
            elif batch.report is not None:
                show_ingest(asdict(batch.report), as_json=False)


def show_ingest(outputs: dict[str, Any], as_json: bool) -> None:
    """Print what became of each file."""
    lists = {name: outputs.get(name, []) for name in ("indexed", "unchanged", "moved", "deleted", "failed")}
    if as_json:
        print_json(lists)
        return
    for row in lists["failed"]:
        reason = RagtuneError(row["detail"], got=row["got"], wanted=row["wanted"], hint=row["hint"])
        stderr().print(f"failed: {row['source']}: {reason}", markup=False)
    for row in lists["moved"]:
        print_line(f"moved: {row['from']} to {row['to']}")
    chunks = sum(row["chunks"] for row in lists["indexed"])
    counts = ", ".join(f"{len(lists[name])} {name}" for name in ("unchanged", "moved", "deleted", "failed"))
    print_line(f"{len(lists['indexed'])} indexed ({chunks} chunks), {counts}")


def chunks(
    ctx: typer.Context,
    *,
    file: Annotated[Path, typer.Argument(help="The file to chunk.", exists=True, dir_okay=False)],
    chunk_size: Annotated[int | None, typer.Option(min=1, help="Tokens in a chunk, at most.")] = None,
    chunk_overlap: Annotated[int | None, typer.Option(min=0, help="Tokens repeated from the one before.")] = None,
    as_json: Json = False,
) -> None:
    """Show the chunks that a file would become, before committing to a setting; nothing is stored."""
    from service.preview import preview_chunks

    with session(ctx).workspace() as workspace:
        found = preview_chunks(workspace, file, file.name, chunk_size, chunk_overlap)
    if as_json:
        print_json(found)
        return
    for piece in found["chunks"]:
        page = f", page {piece['page']}" if piece["page"] else ""
        place = f"{piece['start']}:{piece['end']}, {piece['tokens']} tokens{page}"
        print_line(f"{piece['n']}. {piece['heading']}  ({place})")
        print_line(f"   {' '.join(piece['text'].split())}")
    print_line(f"{len(found['chunks'])} chunks of at most {found['chunk_size']} tokens")


def _method(value: str) -> Method:
    if value not in METHODS:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(METHODS)}")
    return value


def _rerank(value: str | None) -> Rerank | None:
    if value is None:
        return None
    if value not in get_args(Rerank):
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(get_args(Rerank))}", param_hint="--rerank")
    return cast("Rerank", value)


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.replace(tzinfo=UTC).timestamp()


def _until(moment: datetime | None) -> float | None:
    """Return the end of what was given: of the day, where no time of day was."""
    if moment is not None and moment.time() == time.min:
        moment += timedelta(days=1, microseconds=-1)
    return _seconds(moment)


def search(
    ctx: typer.Context,
    *,
    query: Annotated[str, typer.Argument(help="What to search for.")],
    collection: Collection = "default",
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, max=100)] = 4,
    method: Annotated[str, typer.Option(callback=_method, help="hybrid, dense or lexical.")] = "hybrid",
    source: Annotated[list[str] | None, typer.Option("--source", help="Only these; * and ? match; repeatable.")] = None,
    media_type: Annotated[list[str] | None, typer.Option("--media-type", help="Only these; repeatable.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Only documents with all of them.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Only documents from this date (UTC) on.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Only documents up to this date (UTC).")] = None,
    rerank: Annotated[str | None, typer.Option(help="off, likelihood or cross-encoder; else as configured.")] = None,
    as_json: Json = False,
) -> None:
    """Find the passages that fit a query."""
    from service.answerer import check_collection, check_question
    from service.views import passage_view

    chosen = Filter(tuple(source or ()), tuple(media_type or ()), tuple(tag or ()), _seconds(since), _until(until))
    with session(ctx).workspace() as workspace:
        check_question(query, workspace.settings.max_question_chars)
        check_collection(workspace.store, collection)
        found = workspace.retriever.retrieve(
            query,
            collection,
            top_k,
            _method(method),
            filter=None if chosen == Filter() else chosen,
            reranker=workspace.reranker(_rerank(rerank)),
        )
    if as_json:
        views = [passage_view(passage) for passage in found.passages]
        print_json({"passages": views, "index_generation": found.generation})
        return
    for passage in found.passages:
        page = f", page {passage.chunk.page}" if passage.chunk.page else ""
        copies = f", {passage.duplicates} near-copies" if passage.duplicates else ""
        print_line(f"{passage.rank}. {passage.source}{page}  {passage.chunk.heading}  ({passage.score:.3f}{copies})")
        print_line(f"   {' '.join(passage.chunk.text.split())}")


def ask(
    ctx: typer.Context,
    *,
    question: Annotated[str, typer.Argument(help="The question.")],
    mode: Annotated[str, typer.Option("--mode", "-m", help="base, rag, tuned, combined or auto.")] = "auto",
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME (its live version, else the newest) or NAME@VERSION, with =SCALE for more or less of it; "
            "several are summed; by default the live one, on the starter the packaged reader while none is."
        ),
    ] = None,
    collection: Collection = "default",
    top_k: TopK = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, max=8192, help="The collection's, else 256.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="The collection's, else 0.")] = None,
    seed: Annotated[int | None, typer.Option(help="Repeats a sampled answer.")] = None,
    max_false_answer_rate: Annotated[
        float | None,
        typer.Option(help="Give no answer where that share could not be kept; see ragtune calibrate.", min=0, max=1),
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer a question as the words come, then name the sources."""
    from service.asking import AskRequest

    given = _given(top_k=top_k, max_tokens=max_tokens, temperature=temperature)
    request = AskRequest(
        question,
        collection=collection,
        mode=mode,
        adapters=tuple(_scaled(text) for text in adapter or ()),
        seed=seed,
        max_false_answer_rate=max_false_answer_rate,
        **given,
    )
    with session(ctx).workspace() as workspace:
        workspace.ensure_starter_adapters()
        _answer(workspace, request, given, as_json=as_json)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _answer(workspace: Workspace, request: AskRequest, given: Collected[str], *, as_json: bool) -> None:
    from service.houses import with_defaults
    from service.starter import with_suggestion

    request = with_suggestion(workspace, with_defaults(workspace.store, request, given))
    if as_json:
        from service.views import answer_view

        print_json(answer_view(workspace.answerer.answer(request)))
        return
    _stream(workspace.answerer.stream(request))


def _scaled(text: str) -> tuple[str, float]:
    """Return the name and the scale of ``NAME`` or ``NAME=SCALE``."""
    name, given, scale = text.partition("=")
    try:
        factor = float(scale) if given else 1.0
    except ValueError:
        factor = math.nan
    if not abs(factor) <= MOST_SCALE:
        raise typer.BadParameter(
            f"{scale!r} is no scale: a number from -{MOST_SCALE:g} to {MOST_SCALE:g}", param_hint="--adapter"
        )
    return name, factor


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
    if answer.adapter_stale:
        stderr().print(f"{answer.adapter} is stale: ragtune adapters show {answer.adapter} says why.", markup=False)
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


def _index_job(ctx: typer.Context, kind: str, collection: str, **inputs: Any) -> dict[str, Any]:
    from service.answerer import check_collection

    with session(ctx).workspace(mutates=True) as workspace:
        check_collection(workspace.store, collection)
        return run_here(workspace, kind, {"collection": collection, **inputs})


@index.command("rebuild")
def index_rebuild(ctx: typer.Context, collection: Collection = "default", as_json: Json = False) -> None:
    """Build a new generation from the stored documents; the old one serves until it is ready."""
    outputs = _index_job(ctx, "rebuild", collection)
    if as_json:
        print_json(outputs)
    else:
        print_line(f"Generation {outputs['index_generation']} of {collection} is current.")


@index.command("verify")
def index_verify(
    ctx: typer.Context,
    collection: Collection = "default",
    repair: Annotated[bool, typer.Option("--repair", help="Repair from the store what can be.")] = False,
    as_json: Json = False,
) -> None:
    """Check every invariant of store, index and uploads; exit 1 if something is wrong and not repaired."""
    found = _index_job(ctx, "verify", collection, repair=repair)
    if as_json:
        print_json(found)
    else:
        for problem in found["problems"]:
            done = "repaired" if problem["repaired"] else "wrong"
            print_line(f"{done}: {problem['kind']}: {problem['what']}: {problem['detail']}")
        counts = ", ".join(f"{count} {name}" for name, count in found["checked"].items())
        print_line(f"{'Sound' if found['ok'] else 'Not sound'}: {counts} checked")
    if not found["ok"]:
        raise typer.Exit(FAILED)


@index.command("compact")
def index_compact(ctx: typer.Context, collection: Collection = "default", as_json: Json = False) -> None:
    """Give back the space of cached vectors, replaced documents and uploads that nothing needs any more."""
    outputs = _index_job(ctx, "compact", collection)
    if as_json:
        print_json(outputs)
    else:
        print_fields(outputs["dropped"])


@index.command("rollback")
def index_rollback(ctx: typer.Context, collection: Collection = "default", as_json: Json = False) -> None:
    """Make the generation before the current one current again."""
    from service.answerer import check_collection

    with session(ctx).workspace(mutates=True) as workspace:
        check_collection(workspace.store, collection)
        workspace.ingestor.rollback(collection, StageNote(cli_actor()))
        generation = workspace.store.collections.current_generation(collection)
    if as_json:
        print_json({"collection": collection, "index_generation": generation})
    else:
        print_line(f"Generation {generation} of {collection} is current.")


def plain(value: Any) -> dict[str, Any]:
    """Return a dataclass or mapping as a dict."""
    return dict(value) if isinstance(value, dict) else asdict(value)
