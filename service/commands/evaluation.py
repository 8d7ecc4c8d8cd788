"""Commands that measure: evaluate retrieval, compare."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from data.errors import Conflict, NoQuestions
from data.records import METHODS, Method, Question
from service.commands.foreground import run_here
from service.commands.session import Collection, Json, print_json, print_line, print_rows, session, stderr, stdout

evaluate = typer.Typer(help="Measure one part on labelled data.", no_args_is_help=True)

_FILE: dict[str, Any] = {"exists": True, "dir_okay": False, "readable": True}


@evaluate.command("retrieval")
def evaluate_retrieval_command(
    ctx: typer.Context,
    *,
    corpus: Annotated[Path, typer.Option(help="JSONL of id, title, text.", **_FILE)],
    queries: Annotated[Path, typer.Option(help="JSONL of id, text.", **_FILE)],
    qrels: Annotated[Path, typer.Option(help="TSV with a header: query-id, corpus-id, score.", **_FILE)],
    methods: Annotated[str, typer.Option(help="Comma-separated: hybrid, dense, lexical.")] = ",".join(METHODS),
    as_json: Json = False,
) -> None:
    """Rank a labelled corpus with each method: nDCG@10, recall@5, MRR with 95 % intervals."""
    from retrieval.evaluate import evaluate_retrieval

    named = [name.strip() for name in methods.split(",") if name.strip()]
    chosen: list[Method] = [method for method in METHODS if method in named]
    unknown = [name for name in named if name not in METHODS]
    if unknown or not named:
        raise typer.BadParameter(f"{', '.join(unknown) or 'nothing'} is not among {', '.join(METHODS)}")
    with session(ctx).workspace() as workspace:
        result = evaluate_retrieval(corpus, queries, qrels, workspace.embedder, chosen)
    if as_json:
        print_json(result)
        return
    figures = ("ndcg@10", "recall@5", "mrr")
    rows = [(name, *(f"{row[figure]:.3f}" for figure in figures)) for name, row in result["methods"].items()]
    print_rows(("method", *figures), rows, "No methods were evaluated.")


def read_question_file(path: Path) -> tuple[Question, ...]:
    """Return the questions of a JSONL file.

    Raises:
        NoQuestions: the file holds none.
        InvalidRequest: a line is not a question.
    """
    from data.formats import read_questions

    questions = tuple(read_questions(path))
    if not questions:
        raise NoQuestions("The file holds no questions", got=str(path), wanted='lines of {"id", "question", "answers"}')
    return questions


def sample_questions() -> Path:
    """Return the committed sample questions, which fit the committed sample documents."""
    import data

    return Path(data.__file__).parent / "samples" / "questions.jsonl"


def compare(
    ctx: typer.Context,
    *,
    questions: Annotated[Path | None, typer.Option(help="JSONL; the sample questions by default.", **_FILE)] = None,
    arms: Annotated[str | None, typer.Option(help="Comma-separated modes or adapters; else all that can run.")] = None,
    adapter: Annotated[
        str | None, typer.Option(help="Of tuned and combined: NAME (newest) or NAME@VERSION; else the live one.")
    ] = None,
    collection: Collection = "default",
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, max=50)] = 4,
    out: Annotated[Path | None, typer.Option(help="Folder for the report; else under the state directory.")] = None,
    max_false_answer_rate: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ask again what an earlier run has answered.")] = False,
    as_json: Json = False,
) -> None:
    """Let the arms answer the same questions and say what the scores show."""
    if max_false_answer_rate is not None:
        raise Conflict(
            "Abstention has not been calibrated on this collection",
            got=max_false_answer_rate,
            hint="Leave --max-false-answer-rate out.",
        )
    path = questions or sample_questions()
    inputs = {
        "questions": [asdict(question) for question in read_question_file(path)],
        "arms": [name.strip() for name in (arms or "").split(",") if name.strip()],
        "adapter": adapter,
        "collection": collection,
        "top_k": top_k,
        "out": str(out) if out else None,
        "fresh": fresh,
        "questions_file": str(path),
    }
    _compare(ctx, inputs, as_json)


def _compare(ctx: typer.Context, inputs: dict[str, Any], as_json: bool) -> None:
    from service.answerer import check_collection
    from service.compare.statistics import minimum_detectable_difference
    from service.compare.table import print_comparison

    n = len(inputs["questions"])
    smallest = minimum_detectable_difference(n)
    stderr().print(f"{n} questions show differences of about {smallest:.0f} F1 points or more.", markup=False)
    with session(ctx).workspace(mutates=True) as workspace:
        check_collection(workspace.store, inputs["collection"])
        result = run_here(workspace, "evaluate", inputs, title="compare")
    if as_json:
        print_json(result)
        return
    print_comparison(result, stdout())
    print_line(f"Report: {Path(result['folder']) / 'index.html'}")
