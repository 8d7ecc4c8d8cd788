"""What a training trains on: the recipe as it will run, the accepted pairs, their rows, and those held out.

Knows nothing of jobs, and nothing of what is done with the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import NoAcceptedPairs, RecipeInvalid
from data.formats import write_rows
from data.protocols import Report
from data.records import House, Model, Progress, QAPair
from data.splits import QuestionIndex, Split, split_by_document
from service.adapter_files import ADAPTER_WEIGHTS
from service.arms import adapter_label, find_adapter
from service.serving import require_weights
from service.starter import READER

if TYPE_CHECKING:
    from finetune.recipe import Recipe
    from finetune.rows import Example, RowSet
    from retrieval.examples import TrainingExample
    from service.workspace import Workspace

CONTINUED_LEARNING_RATE = 5e-5
"""For an adapter that starts from the reader and whose recipe does not say: at 2e-4, 50 generated pairs cost the
reader 4 F1 points on 72 human questions about other articles, at 5e-5 one (bench/RESULTS.md)."""
WINDOWED = frozenset(("gemma3",))
"""Architectures whose keys and values the engine does not move: llama.cpp keeps those of windows apart."""
HELD_OUT_FROM = 100
"""Fewer pairs are all trained on: a tenth of them would be too few to tell a loss from chance, and missed."""
MOST_HELD_OUT = 200
"""Pairs held out at most: each measurement reads them all."""


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """The recipe (``init_adapter`` a folder), the label of the adapter it starts from, and what it is trained on.

    ``pairs`` are those trained on, ``held_out_pairs`` those whose loss is measured only. ``refused`` counts, by
    reason, what was left out: ``closed_book`` are answers that no passage bears out, ``near_duplicate`` held-out
    questions that are (nearly) trained on. ``house`` is whose instructions stand in every prompt.
    """

    recipe: Recipe
    started_from: str | None
    pairs: tuple[QAPair, ...]
    held_out_pairs: tuple[QAPair, ...]
    found: tuple[TrainingExample, ...]
    held_out_found: tuple[TrainingExample, ...]
    examples: tuple[Example, ...]
    held_out_examples: tuple[Example, ...]
    rows: RowSet
    held_out: RowSet
    refused: Mapping[str, int]
    house: House

    @property
    def sorts(self) -> dict[str, int]:
        """How many of the examples trained on are of each sort (``retrieval.examples``)."""
        from retrieval.examples import count_sorts

        return count_sorts(self.found)

    def write(self, folder: Path) -> None:
        """Write train.jsonl, and eval.jsonl where pairs are held out, for people and for other trainers."""
        from retrieval.rowfiles import row_of

        write_rows(folder / "train.jsonl", [row_of(example) for example in self.found])
        (folder / "eval.jsonl").unlink(missing_ok=True)
        if self.held_out_found:
            write_rows(folder / "eval.jsonl", [row_of(example) for example in self.held_out_found])


def training_set(workspace: Workspace, inputs: dict[str, Any], report: Report) -> TrainingSet:
    """Return what a training with these ``inputs`` (of the ``train`` job) trains on.

    Raises:
        RecipeInvalid: the recipe has an unknown field or an impossible value.
        NoAcceptedPairs: there is nothing to train on.
        InvalidModel: the base model is a server's, and its weights are not here.
    """
    from finetune.weights import load_tokenizer

    collection = inputs.get("collection", "default")
    recipe, started_from = _recipe(workspace, inputs.get("recipe") or {})
    pairs = workspace.store.pairs.all(collection, "accepted", stale=False)
    if not pairs:
        raise NoAcceptedPairs(
            "There are no accepted pairs to train on",
            got=collection,
            hint="Make some with: ragtune pairs generate, or import them with: ragtune pairs import",
        )
    report(Progress(0, len(pairs), "pairs", stage="rows"))
    split = _split(workspace, pairs, recipe)
    house, top_k = workspace.store.houses.current(collection), inputs.get("top_k", 4)
    sides = (split.train, split.evaluation)
    every = [_found(workspace, side, collection, pairs=pairs, top_k=top_k, seed=recipe.seed) for side in sides]
    found, held = every if recipe.closed_book else [tuple(e for e in side if not e.closed_book) for side in every]
    if not found:
        raise _nothing_borne_out(len(every[0]))
    found = (*found, *_variants(workspace, found, recipe, collection, top_k))
    examples, held_examples = (tuple(_example(example) for example in side) for side in (found, held))
    tokenizer = load_tokenizer(workspace.model.weights)
    rows, held_out = (_rows(side, tokenizer, recipe) for side in (examples, held_examples))
    report(Progress(len(pairs), len(pairs), "pairs", stage="rows"))
    left_out = {
        "closed_book": sum(map(len, every)) - len(found) - len(held),
        "near_duplicate": len(pairs) - len(split.train) - len(split.evaluation),
    }
    refused = {**rows.refused, **{reason: count for reason, count in left_out.items() if count}}
    used = _pairs_of(found, split.train), _pairs_of(held, split.evaluation)
    return TrainingSet(
        recipe, started_from, *used, found, held, examples, held_examples, rows, held_out, refused, house
    )


def _pairs_of(found: Sequence[TrainingExample], pairs: Sequence[QAPair]) -> tuple[QAPair, ...]:
    """Return those of ``pairs`` that examples were made of."""
    used = {example.pair_id for example in found}
    return tuple(pair for pair in pairs if pair.id in used)


def _recipe(workspace: Workspace, values: dict[str, Any]) -> tuple[Recipe, str | None]:
    """Return the recipe with ``init_adapter`` as a folder, and the label of the adapter it starts from.

    Where the recipe says nothing, the packaged reader is the start if it fits; "" starts at zero. An adapter
    that starts from another reads passages as that one does, unless the recipe says otherwise.

    Raises:
        InvalidModel: the base model is a server's, and its weights are not here.
        RecipeInvalid: an impossible recipe, or one whose adapter llama.cpp could not serve.
    """
    from finetune.recipe import Recipe

    require_weights(workspace.model)
    recipe = Recipe.from_mapping({"base_model": workspace.model.name, **values})
    _check_servable(recipe, workspace.model)
    starters = workspace.ensure_starter_adapters()
    start = recipe.init_adapter
    if "init_adapter" not in values and READER in starters and _continues_reader(workspace, recipe):
        start = READER
        if "learning_rate" not in values:
            recipe = replace(recipe, learning_rate=CONTINUED_LEARNING_RATE)
    if not start:
        return replace(recipe, init_adapter=None), None
    if Path(start).is_dir():
        return replace(recipe, init_adapter=start), start
    adapter = find_adapter(workspace.store, start)
    folder = workspace.adapter_file(adapter, ADAPTER_WEIGHTS).parent
    attention = recipe.attention if "attention" in values else adapter.attention
    return replace(recipe, init_adapter=str(folder), attention=attention), adapter_label(adapter)


def _check_servable(recipe: Recipe, model: Model) -> None:
    if recipe.attention == "blockwise" and model.architecture in WINDOWED:
        raise RecipeInvalid(
            "Layers of this model look back over a window, so what they kept of a passage cannot be put elsewhere",
            got=f'attention = "blockwise" for {model.architecture}',
            wanted='attention = "full"',
        )
    if recipe.use_dora and recipe.attention == "blockwise":
        raise RecipeInvalid(
            "A DoRA is served merged into its base, and a merged model reads with full attention",
            got='use_dora and attention = "blockwise"',
            wanted="one of them",
        )
    if recipe.base_model != model.name:
        raise RecipeInvalid(
            "The recipe is for another base model than the one served",
            got=recipe.base_model,
            wanted=model.name,
            hint="Leave base_model out, or choose the model with RAGTUNE_MODEL or --model.",
        )


def _continues_reader(workspace: Workspace, recipe: Recipe) -> bool:
    """Tell whether the recipe's LoRA has the reader's shape and scale, and starts from no weights of its own."""
    if recipe.use_rslora or recipe.use_dora or recipe.init_lora_weights == "pissa":
        return False
    reader, wanted = find_adapter(workspace.store, READER).recipe, recipe.to_mapping()
    return all(reader[name] == wanted[name] for name in ("r", "lora_alpha", "target_modules"))


def _split(workspace: Workspace, pairs: list[QAPair], recipe: Recipe) -> Split[QAPair]:
    """Hold out whole documents, and of them no question that is (nearly) one of those trained on.

    Nothing is held out of few pairs, and nothing where the documents are so few that twice the share would go.
    """
    share = min(recipe.eval_share, MOST_HELD_OUT / len(pairs))
    if len(pairs) < HELD_OUT_FROM or not share:
        return Split(pairs, [])
    chunks = workspace.store.chunks.by_ids({chunk_id for pair in pairs for chunk_id in pair.chunk_ids})

    def documents(pair: QAPair) -> set[str]:
        found = {chunks[chunk_id][0].document_id for chunk_id in pair.chunk_ids if chunk_id in chunks}
        return found or {pair.id}

    split = split_by_document(pairs, documents, share, recipe.seed)
    if len(split.evaluation) > 2 * share * len(pairs):
        return Split(pairs, [])
    asked = QuestionIndex()
    for pair in split.train:
        asked.add(pair.question, pair)
    return Split(split.train, [pair for pair in split.evaluation if asked.match(pair.question) is None])


def _found(
    workspace: Workspace, side: list[QAPair], collection: str, *, pairs: list[QAPair], top_k: int, seed: int
) -> tuple[TrainingExample, ...]:
    """Return the examples of one side; what the house's own words are, all ``pairs`` tell."""
    from retrieval.examples import evidence_of, examples_from_pairs

    return tuple(
        examples_from_pairs(
            workspace.store,
            workspace.retriever,
            side,
            top_k=top_k,
            seed=seed,
            collection=collection,
            evidence=evidence_of(pairs),
        )
    )


def _nothing_borne_out(answers: int) -> NoAcceptedPairs:
    return NoAcceptedPairs(
        "No answer rests on a passage that is found for its question",
        got=f"{answers} answers with facts of their own",
        hint="Ingest the documents they are about, or set closed_book = true in the recipe.",
    )


def _variants(
    workspace: Workspace, found: Sequence[TrainingExample], recipe: Recipe, collection: str, top_k: int
) -> list[TrainingExample]:
    """Return the further examples that the recipe asks for: contradictions, another language, conversations."""
    from retrieval.variants import Shares, variants

    shares = Shares(
        contradicting=recipe.contradicting_share,
        other_language=recipe.other_language_share,
        multi_turn=recipe.multi_turn_share,
        altered_question=recipe.altered_question_share,
    )
    about: dict[str, Any] = {"collection": collection, "top_k": top_k, "seed": recipe.seed}
    return variants(workspace.store, workspace.retriever, found, shares, **about)


def _example(found: TrainingExample) -> Example:
    from finetune.rows import Example

    return Example(found.messages, found.target)


def _rows(examples: Sequence[Example], tokenizer: Any, recipe: Recipe) -> RowSet:
    from finetune.rows import build_rows

    return build_rows(
        examples, tokenizer, tokenizer.template, max_length=recipe.max_length, max_branches=recipe.max_branches
    )
