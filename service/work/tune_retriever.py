"""The ``tune_retriever`` job: accepted pairs tune the configured embedder; gain and loss are measured.

Inputs: ``name``, ``collection``, ``epochs``, ``seed``, ``second_corpus`` (a folder; the packaged
articles by default). The work happens in one folder for each name, so that a job that was stopped goes
on after its last whole epoch. What comes out is a candidate: ``promote_retriever`` puts it to use.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import InvalidModel
from data.protocols import Embedder, Report
from data.records import Progress
from service.answerer import check_collection
from service.retrievers import check_new_name, retriever_view

if TYPE_CHECKING:
    from retrieval.negatives import Asked
    from service.workspace import Workspace

HELD_OUT = 0.3
"""Share of the questions that measure the gain; whole documents."""


def run(workspace: Workspace, inputs: dict[str, Any], report: Report) -> dict[str, Any]:
    """Tune on the collection's accepted pairs; return the candidate with its figures.

    Raises:
        NoAcceptedPairs: there are none, or all are about one document.
        InvalidModel: the configured embedder cannot be tuned.
        InvalidRequest: a bad name, or the second corpus is none.
    """
    from retrieval.gain import Labelled
    from retrieval.negatives import mine, split_asked
    from retrieval.tune import TuneRecipe, data_id
    from retrieval.tuned import TRAINING

    name, collection = check_new_name(inputs["name"]), inputs.get("collection", "default")
    check_collection(workspace.store, collection)
    if inputs.get("second_corpus"):
        Labelled.of(Path(inputs["second_corpus"]))
    recipe = TuneRecipe(epochs=inputs.get("epochs") or TuneRecipe().epochs, seed=inputs.get("seed", 0))
    train, held = split_asked(workspace.store, collection, held_out=HELD_OUT, seed=recipe.seed)
    live = workspace.embedders.of(collection)
    contrasts = mine(workspace.store, workspace.retriever, live, train, report, collection=collection)
    folder = workspace.state.embedders(name) / TRAINING
    trained = _tune(workspace, contrasts, recipe, folder, report)
    after = workspace.tuned.load(folder)
    metrics = {"train": trained, **_measure(workspace, inputs, held, (live, after), report)}
    made = workspace.tuned.add(
        name,
        folder,
        fingerprint=after.fingerprint,
        base=workspace.embedder.fingerprint,
        compared_with=live.fingerprint,
        collection=collection,
        recipe=asdict(recipe),
        data={
            "train": len(train),
            "held_out": len(held),
            "hard_negatives": sum(len(each.negatives) for each in contrasts),
            "documents": len({chunk.document_id for each in train for chunk in each.gold}),
            "sha256": data_id(contrasts),
        },
        metrics=metrics,
    )
    return retriever_view(workspace.tuned, made)


def _tune(workspace: Workspace, contrasts: Any, recipe: Any, folder: Path, report: Report) -> dict[str, Any]:
    """Tune and save the model; its memory is free again afterwards."""
    from retrieval.tune import tune
    from retrieval.tuned import MODEL

    load = getattr(workspace.embedder, "trainable", None)
    if load is None:
        raise InvalidModel("This embedder cannot be tuned.", got=type(workspace.embedder).__name__)
    model = load()
    base = workspace.embedder.fingerprint
    trained = tune(model, contrasts, recipe, folder, report, base=base)
    shutil.rmtree(folder / MODEL, ignore_errors=True)
    model.save(folder / MODEL)
    return trained


def _measure(
    workspace: Workspace, inputs: dict[str, Any], held: list[Asked], both: tuple[Embedder, Embedder], report: Report
) -> dict[str, Any]:
    """Return the gain on held-out questions and the change on a second corpus, None if there is no second."""
    from retrieval.gain import Labelled, holds_samples, measure_corpus, measure_held_out, write_samples

    collection, size = inputs.get("collection", "default"), workspace.settings.chunk_size
    found: dict[str, Any] = {
        "held_out": measure_held_out(workspace.store, collection, held, both, report),
        "second_corpus": None,
    }
    report(Progress(stage="second corpus"))
    if inputs.get("second_corpus"):
        given = Path(inputs["second_corpus"])
        figures = measure_corpus(Labelled.of(given), both, size, report)
        found["second_corpus"] = {"corpus": given.name, **figures}
    elif not holds_samples(workspace.store, collection):
        with tempfile.TemporaryDirectory(prefix="ragtune-") as scratch:
            figures = measure_corpus(write_samples(Path(scratch)), both, size, report)
        found["second_corpus"] = {"corpus": "samples", **figures}
    return found
