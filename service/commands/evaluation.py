"""Commands that measure: evaluate retrieval, compare."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data.errors import NoQuestions
from data.records import METHODS, Method, Question
from service.commands.foreground import run_here
from service.commands.session import (
    Collection,
    Json,
    TopK,
    print_json,
    print_line,
    print_rows,
    session,
    stderr,
    stdout,
)
from service.questions import ORIGINS

if TYPE_CHECKING:
    from service.workspace import Workspace

evaluate = typer.Typer(help="Measure one part on labelled data.", no_args_is_help=True)

Sources = Annotated[
    list[str] | None,
    typer.Option(help="JSONL, feedback or pairs (accepted, not trained on); repeatable. The samples by default."),
]
Adapter = Annotated[
    str | None, typer.Option(help="Of tuned and combined: NAME (newest) or NAME@VERSION; else the live one.")
]
Retrievers = Annotated[
    str | None,
    typer.Option(
        "--retrievers",
        "--methods",
        help="Comma-separated: hybrid, dense, lexical; every arm with passages once for each.",
    ),
]
Quantizations = Annotated[str | None, typer.Option(help="Comma-separated: Q8_0, Q4_K_M ...; every arm once for each.")]
Judge = Annotated[
    str | None, typer.Option(help="URL of an OpenAI-compatible server that says which answers are better.")
]
Rate = Annotated[float | None, typer.Option(help="That calibrated arms keep to; see ragtune calibrate.", min=0, max=1)]
_FILE: dict[str, Any] = {"exists": True, "dir_okay": False, "readable": True}
Style = Annotated[
    Path | None,
    typer.Option(help="JSONL of rows or questions whose answers are in the house style: measures it.", **_FILE),
]


@evaluate.command("retrieval")
def evaluate_retrieval_command(
    ctx: typer.Context,
    *,
    corpus: Annotated[Path | None, typer.Option(help="JSONL of id, title, text.", **_FILE)] = None,
    queries: Annotated[Path | None, typer.Option(help="JSONL of id, text.", **_FILE)] = None,
    qrels: Annotated[Path | None, typer.Option(help="TSV with a header: query-id, corpus-id, score.", **_FILE)] = None,
    questions: Annotated[
        Path | None,
        typer.Option(help="Instead: JSONL of id, question, answers, document; asked of the collection.", **_FILE),
    ] = None,
    collection: Collection = "default",
    methods: Annotated[str, typer.Option(help="Comma-separated: hybrid, dense, lexical.")] = ",".join(METHODS),
    disagreements: Annotated[int, typer.Option(min=0, help="Queries to name on which methods differ most.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="With --questions: folder for the report (page, JSON, CSV).", file_okay=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Rank a labelled corpus, or your own questions' passages: nDCG@10, recall, MRR with 95 % intervals."""
    chosen = _methods(methods)
    if out is not None and questions is None:
        raise typer.BadParameter("a report is made of --questions", param_hint="--out")
    with session(ctx).workspace() as workspace:
        if questions is not None and not (corpus or queries or qrels):
            result = _evaluate_questions(workspace, questions, collection, chosen, disagreements=disagreements, out=out)
        elif corpus and queries and qrels and questions is None:
            from retrieval.evaluate import evaluate_retrieval

            size = workspace.settings.chunk_size
            result = evaluate_retrieval(
                corpus, queries, qrels, workspace.embedder, chosen, chunk_size=size, disagreements=disagreements
            )
        else:
            raise typer.BadParameter("give either --corpus, --queries and --qrels, or --questions")
    if as_json:
        print_json(result)
        return
    _print_retrieval(result)


def _methods(methods: str) -> list[Method]:
    named = listed(methods)
    unknown = [name for name in named if name not in METHODS]
    if unknown or not named:
        raise typer.BadParameter(f"{', '.join(unknown) or 'nothing'} is not among {', '.join(METHODS)}")
    return [method for method in METHODS if method in named]


def _evaluate_questions(
    workspace: Workspace, path: Path, collection: str, methods: list[Method], *, disagreements: int, out: Path | None
) -> dict[str, Any]:
    from service.answerer import check_collection
    from service.compare.searches import evaluate_searches

    check_collection(workspace.store, collection)
    words = ["--questions", str(path), "--methods", ",".join(methods), "--collection", collection]
    return evaluate_searches(
        workspace,
        read_question_file(path),
        collection,
        methods,
        disagreements=disagreements,
        out=out,
        command=f"ragtune evaluate retrieval {shlex.join(words)}",
    )


def _print_retrieval(result: dict[str, Any]) -> None:
    figures = ("ndcg@10", "recall@1", "recall@5", "recall@10", "mrr")
    rows = [
        (name, *(f"{row[figure]:.3f} [{row['ci'][figure][0]:.3f}, {row['ci'][figure][1]:.3f}]" for figure in figures))
        for name, row in result["methods"].items()
    ]
    print_rows(("method", *figures), rows, "No methods were evaluated.")
    for name, measures in result["differences"].items():
        found = measures["ndcg@10"]
        print_line(f"{name}: nDCG@10 {found['difference']:+.3f} [{found['ci'][0]:+.3f}, {found['ci'][1]:+.3f}]")
    for row in result.get("disagreements", ()):
        scores = ", ".join(f"{name} {score:.2f}" for name, score in row["ndcg@10"].items())
        print_line(f"{row['id']}: {row['query']}  ({scores})")


def read_question_file(path: Path) -> tuple[Question, ...]:
    """Return the questions of a JSONL file.

    Raises:
        NoQuestions: the file holds none.
        InvalidRequest: a line is not a question.
    """
    from data.formats import read_questions

    questions = tuple(read_questions(path))
    if not questions:
        raise NoQuestions("The file holds no questions", got=str(path), wanted='lines of {"question", "answers"}')
    return questions


def sample_questions() -> Path:
    """Return the committed sample questions, which fit the committed sample documents."""
    import data

    return Path(data.__file__).parent / "samples" / "questions.jsonl"


def compare(
    ctx: typer.Context,
    *,
    questions: Sources = None,
    arms: Annotated[str | None, typer.Option(help="Comma-separated modes or adapters; else all that can run.")] = None,
    adapter: Adapter = None,
    collection: Collection = "default",
    top_k: TopK = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, max=8192, help="The collection's, else 48.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="The collection's, else 0.")] = None,
    style: Style = None,
    retrievers: Retrievers = None,
    quantizations: Quantizations = None,
    judge: Judge = None,
    judge_model: Annotated[str, typer.Option(help="Its model; else RAGTUNE_JUDGE_MODEL, or the only one.")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder for the report; else under the state directory.")] = None,
    max_false_answer_rate: Rate = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ask again what an earlier run has answered.")] = False,
    as_json: Json = False,
) -> None:
    """Let the arms answer the same questions and say what the scores show."""
    sources = questions or [str(sample_questions())]
    inputs = {
        "questions": [asdict(each) for source in sources for each in _from_file(source)],
        "arms": listed(arms),
        "adapter": adapter,
        "collection": collection,
        "top_k": top_k,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "out": str(out) if out else None,
        "fresh": fresh,
        "questions_file": " --questions ".join(map(shlex.quote, sources)),
        "methods": _methods(retrievers) if retrievers is not None else [],
        "quantizations": listed(quantizations),
        "style": style_examples(style),
        "judge": judge,
        "judge_model": judge_model,
        "max_false_answer_rate": max_false_answer_rate,
    }
    _compare(ctx, inputs, [source for source in sources if source in ORIGINS], as_json)


def listed(names: str | None) -> list[str]:
    """Return names that were given comma-separated."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def _from_file(source: str) -> tuple[Question, ...]:
    """Return the questions of a file; none of what the store holds."""
    path = Path(source)
    if source in ORIGINS:
        return ()
    if not path.is_file():
        raise typer.BadParameter(f"{source!r} is no file, and none of {', '.join(ORIGINS)}", param_hint="--questions")
    return read_question_file(path)


def style_examples(path: Path | None) -> list[str]:
    """Return the answers of a file in the house style, enough to tell it by; none for None."""
    from service.compare.style import check_examples, read_examples

    examples = read_examples(path) if path is not None else ()
    check_examples(examples)
    return list(examples)


def _compare(ctx: typer.Context, inputs: dict[str, Any], origins: list[str], as_json: bool) -> None:
    from service.answerer import check_collection
    from service.compare.evaluation import questions_for_arms
    from service.compare.statistics import describe_power
    from service.compare.table import print_comparison

    with session(ctx).workspace(mutates=True) as workspace:
        check_collection(workspace.store, inputs["collection"])
        if origins:
            inputs["questions"] += [asdict(each) for each in questions_for_arms(workspace, inputs, origins)]
        n = len(inputs["questions"])
        if n:
            stderr().print(describe_power(n), markup=False)
        result = run_here(workspace, "evaluate", inputs, title="compare")
    if as_json:
        print_json(result)
        return
    print_comparison(result, stdout())
    print_line(f"Report: {Path(result['folder']) / 'index.html'}")
