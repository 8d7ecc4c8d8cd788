"""Train the two starter adapters again from committed human questions (`make starter`).

The questions stand in ``data/starter/squad.jsonl``, further ones for the reader in ``squad-reader.jsonl``. They go
through the production path: the articles are ingested, the production retriever finds the passages (its misses
included), the rows are built and trained as a user's are. Knows nothing of how the adapters are served.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from data.prompt import answer_messages, pair_messages
from data.protocols import Report
from data.records import Chunk, Passage, QAPair, content_id
from data.state import sha256_file
from service.adapter_files import ADAPTER_GGUF
from service.commands.progress import ProgressView
from service.parity import measure_parity
from service.settings import Settings
from service.starter import PAIR_WRITER, READER, starter_folder
from service.workspace import Workspace

if TYPE_CHECKING:
    from finetune.recipe import Attention, Recipe
    from finetune.rows import Example

COLLECTION = "squad"
UNANSWERABLE_SHARE = 0.15
"""Share of the pair writer's rows that ask for a question the passage does not answer."""
MISS_SHARE = 0.1
"""Share of the reader's passage sets whose gold passage is taken out: near misses, to abstain on."""
TOP_K = (1, 2, 3, 4)
"""The reader is trained on so many passages, drawn with these weights, so that any ``top_k`` works."""
TOP_K_WEIGHTS = (2, 4, 4, 2)
ALTERED_SHARE = 0.08
"""Share of the reader's questions that it is asked once more with a detail changed, to abstain on."""
FILES = {PAIR_WRITER: ("squad.jsonl",), READER: ("squad.jsonl", "squad-reader.jsonl")}
PARAGRAPHS = {PAIR_WRITER: 0, READER: 0}
"""How many paragraphs each adapter is trained on; 0 stands for all."""
SETTLING_STEPS = 150
"""Optimizer steps of the blockwise reader's second stage."""
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
LICENCE = "CC BY-SA 4.0 (trained on SQuAD 1.0 questions and Wikipedia paragraphs)"


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One paragraph with its human questions and shortest answers."""

    title: str
    text: str
    questions: tuple[tuple[str, str], ...]


def read_paragraphs(path: Path) -> list[Paragraph]:
    """Read ``squad.jsonl``: one object a line with title, text and questions."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        Paragraph(row["title"], row["text"], tuple((q["question"], q["answer"]) for q in row["questions"]))
        for row in rows
    ]


def ingest(workspace: Workspace, paragraphs: Sequence[Paragraph], report: Report) -> None:
    """Write each article as Markdown and ingest it."""
    folder = workspace.state.tmp / COLLECTION
    folder.mkdir(parents=True, exist_ok=True)
    articles: dict[str, list[str]] = defaultdict(list)
    for paragraph in paragraphs:
        articles[paragraph.title].append(paragraph.text)
    for number, (title, texts) in enumerate(articles.items()):
        text = "\n\n".join([f"# {title}", *texts]) + "\n"
        (folder / f"{number:03d}.md").write_text(text, encoding="utf-8")
    workspace.ingestor.ingest(COLLECTION, [folder], report=report)


def chunks_by_title(workspace: Workspace) -> dict[str, list[Chunk]]:
    """Return every article's chunks in order."""
    found: dict[str, list[Chunk]] = defaultdict(list)
    for _key, chunk, title in workspace.store.chunks.iterate(COLLECTION):
        found[title].append(chunk)
    return found


def human_pairs(paragraphs: Sequence[Paragraph], chunks: dict[str, list[Chunk]]) -> Iterator[tuple[QAPair, Chunk]]:
    """Yield each human question with the chunk of its paragraph that holds the answer."""
    for paragraph in paragraphs:
        for question, answer in paragraph.questions:
            for chunk in chunks[paragraph.title]:
                if answer in chunk.text and _overlaps(paragraph.text, chunk.text):
                    pair_id = content_id(question, answer, chunk.id)
                    yield QAPair(pair_id, question, answer, (chunk.id,), "span", "human", "accepted"), chunk
                    break


def _overlaps(paragraph: str, chunk: str) -> bool:
    return chunk.strip() in paragraph or paragraph in chunk or paragraph[:80] in chunk or paragraph[-80:] in chunk


def writer_examples(pairs: Sequence[tuple[QAPair, Chunk]], seed: int) -> Iterator[Example]:
    """Yield the pair writer's examples: passage → answer and question, or a question it leaves open."""
    from finetune.rows import Example

    random = Random(seed)  # noqa: S311  (sampling, no secret)
    by_document: dict[str, list[tuple[QAPair, Chunk]]] = defaultdict(list)
    for pair, chunk in pairs:
        by_document[chunk.document_id].append((pair, chunk))
    for pair, chunk in pairs:
        passage = Passage(chunk, 0.0, 1, "gold")
        completion = {"answer": pair.answer, "question": pair.question}
        yield Example(pair_messages(passage), json.dumps(completion, ensure_ascii=False), chunk.id)
        others = [p for p, c in by_document[chunk.document_id] if c.id != chunk.id and p.answer not in chunk.text]
        if others and random.random() < UNANSWERABLE_SHARE:
            open_question = {"question": random.choice(others).question}
            messages = pair_messages(passage, answerable=False)
            yield Example(messages, json.dumps(open_question, ensure_ascii=False), f"open {chunk.id}")


def reader_examples(workspace: Workspace, pairs: Sequence[tuple[QAPair, Chunk]], seed: int) -> Iterator[Example]:
    """Yield the reader's examples: production passages and a question → cited answer, or abstention."""
    from finetune.rows import Example, answer_example
    from retrieval.examples import examples_from_pairs
    from retrieval.variants import Shares, variants

    random = Random(seed)  # noqa: S311  (sampling, no secret)
    shards: dict[int, list[QAPair]] = defaultdict(list)
    sizes: dict[str, int] = {}
    for pair, chunk in pairs:
        size = sizes.setdefault(chunk.id, random.choices(TOP_K, TOP_K_WEIGHTS)[0])
        shards[size].append(pair)
    missing = {chunk_id: random.random() < MISS_SHARE for chunk_id in sizes}
    for size, shard in sorted(shards.items()):
        found = examples_from_pairs(
            workspace.store,
            workspace.retriever,
            shard,
            top_k=size,
            seed=seed,
            collection=COLLECTION,
            abstain_share=0.06,
        )
        shares = Shares(altered_question=ALTERED_SHARE)
        found += variants(
            workspace.store, workspace.retriever, found, shares, collection=COLLECTION, top_k=size, seed=seed
        )
        for example in found:
            gold = example.gold_number
            if gold is not None and size > 1 and missing[example.chunk_id]:
                passages = [p for i, p in enumerate(example.passages, 1) if i != gold]
                if not any(example.answer and example.answer in p.chunk.text for p in passages):
                    messages = answer_messages(example.question, passages)
                    yield Example(messages, answer_example(example.question, "", passages, None).completion)
                continue
            yield answer_example(example.question, example.answer or "", example.passages, gold)


def stages(attention: Attention, init: Path | None) -> list[Recipe]:
    """Return the reader's recipes, one after the other.

    Blockwise it learns to read both ways, and then only as it is served. ``init`` leaves the first stage out: with
    full attention that gives what the second stage is compared with.
    """
    first = replace(base_recipe(attention), max_branches=8)
    settle = replace(first, learning_rate=2e-4, max_steps=SETTLING_STEPS, seed=1)
    if attention == "blockwise":
        settle = replace(settle, full_share=0.0)
    if init is not None:
        return [replace(settle, init_adapter=str(init))]
    return [first] if attention == "full" else [first, settle]


def base_recipe(attention: Attention = "full") -> Recipe:
    """Return what all recipes have in common."""
    from finetune.recipe import Recipe

    return Recipe(
        base_model="starter",
        r=8,
        lora_alpha=16,
        learning_rate=5e-4,
        gradient_accumulation_steps=4,
        attention=attention,
    )


def train_stages(
    workspace: Workspace, target: Path, examples: Sequence[Example], recipes: Sequence[Recipe], report: Report
) -> dict[str, Any]:
    """Train one adapter stage by stage, each from the last, and put it into the folder ``target``."""
    manifest: dict[str, Any] = {}
    earlier: list[dict[str, Any]] = []
    out = workspace.state.root / "trained"
    folder: Path | None = None
    for number, recipe in enumerate(recipes, 1):
        chained = recipe if folder is None else replace(recipe, init_adapter=str(folder))
        folder = out / f"{target.name}-{number}"
        manifest = train_adapter(workspace, folder, examples, chained, report)
        earlier.append({name: manifest[name] for name in ("recipe", "metrics")})
    trained_on = {f"data/starter/{file}": sha256_file(starter_folder() / file) for file in FILES[target.name]}
    manifest |= {"name": target.name, "earlier_stages": earlier[:-1], "lineage": trained_on}
    target.mkdir(parents=True, exist_ok=True)
    for file in ADAPTER_FILES:
        shutil.copyfile(out / f"{target.name}-{len(recipes)}" / file, target / file)
    (target / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return manifest


def train_adapter(
    workspace: Workspace, out: Path, examples: Sequence[Example], recipe: Recipe, report: Report
) -> dict[str, Any]:
    """Train one adapter into the folder ``out``; return its manifest."""
    from finetune.export import lora_to_gguf
    from finetune.rows import build_rows
    from finetune.train import train
    from finetune.weights import load_tokenizer

    model = workspace.model
    tokenizer = load_tokenizer(model.weights)
    rows = build_rows(
        examples, tokenizer, tokenizer.template, max_length=recipe.max_length, max_branches=recipe.max_branches
    )
    result = train(recipe, rows, model, out, report)
    lora_to_gguf(out, model.gguf, out / ADAPTER_GGUF)
    parity = measure_parity(workspace, out, examples, report, recipe.attention)
    return {
        "name": out.name,
        "base_model": "SmolLM2-135M-Instruct",
        "base_sha256": model.sha256,
        # The folder of the stage before is of this machine alone.
        "recipe": replace(recipe, init_adapter=None).to_mapping(),
        "rows_sha256": rows.sha256,
        "attention": recipe.attention,
        "metrics": {**result.metrics, "refused": dict(rows.refused), "parity": parity},
        "licence": LICENCE,
    }


def train_starter(
    name: str, state_dir: Path, limit: int, *, attention: Attention, init: Path | None, out: Path
) -> dict[str, Any]:
    """Train one starter adapter from ``limit`` paragraphs (0: all) into ``out``; return its manifest."""
    files = [starter_folder() / file for file in FILES[name]]
    paragraphs = [paragraph for file in files for paragraph in read_paragraphs(file)]
    paragraphs = Random(0).sample(paragraphs, min(limit or len(paragraphs), len(paragraphs)))  # noqa: S311
    with Workspace(Settings.load(state_dir=state_dir, model="starter", embedder="starter")) as workspace:
        with ProgressView("ingest") as report:
            ingest(workspace, paragraphs, report)
        pairs = list(human_pairs(paragraphs, chunks_by_title(workspace)))
        writes = name == PAIR_WRITER
        examples = list(writer_examples(pairs, 0) if writes else reader_examples(workspace, pairs, 0))
        recipes = [base_recipe()] if writes else stages(attention, init)
        with ProgressView(name) as report:
            return train_stages(workspace, out / name, examples, recipes, report)


def main(  # noqa: PLR0917  (typer's options)
    name: Annotated[str, typer.Argument(help="reader, pair-writer or all")] = "all",
    state_dir: Annotated[Path, typer.Option(help="Where to keep indexes and checkpoints.")] = Path("var/starter"),
    limit: Annotated[
        int | None, typer.Option(help="Use so many paragraphs (0 = all; by default as the packaged ones).")
    ] = None,
    attention: Annotated[str, typer.Option(help="The reader's: blockwise, or full to compare with.")] = "blockwise",
    init: Annotated[Path | None, typer.Option(help="An adapter that the reader continues from.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the adapters go; the package by default.")] = None,
) -> None:
    """Train the starter adapters from the questions in data/starter; checkpoints resume."""
    if name not in (*PARAGRAPHS, "all"):
        raise typer.BadParameter(f"{name} is none of {', '.join(PARAGRAPHS)}, all", param_hint="NAME")
    for wanted in PARAGRAPHS if name == "all" else (name,):
        paragraphs = PARAGRAPHS[wanted] if limit is None else limit
        folder = out or starter_folder()
        manifest = train_starter(
            wanted, state_dir / wanted, paragraphs, attention=cast("Attention", attention), init=init, out=folder
        )
        typer.echo(f"{wanted}: {json.dumps(manifest['metrics'])}")


if __name__ == "__main__":
    typer.run(main)
