"""The tuning job with the real starter embedder on a few packaged articles."""

from __future__ import annotations

import json
import shutil

import pytest

from data.errors import InvalidRequest
from retrieval.gain import SAMPLES, Labelled
from retrieval.rowfiles import import_pairs
from service.jobs import run_job, submit
from service.settings import Settings
from service.workspace import Workspace

pytestmark = pytest.mark.slow

ARTICLES = ("00-super-bowl-50.md", "16-amazon-rainforest.md", "40-prime-number.md")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    root = tmp_path_factory.mktemp("tune")
    (root / "documents").mkdir()
    for name in ARTICLES:
        shutil.copy(SAMPLES / "corpus" / name, root / "documents")
    rows = [json.loads(line) for line in (SAMPLES / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = [row for row in rows if row["document"] in ARTICLES and row["answerable"]]
    (root / "questions.jsonl").write_text("\n".join(map(json.dumps, asked)), encoding="utf-8")
    second = root / "second"
    second.mkdir()
    texts = {"a": "The otter swims in the river.", "b": "A glacier moves a metre each day."}
    (second / "corpus.jsonl").write_text("\n".join(json.dumps({"id": k, "text": v}) for k, v in texts.items()))
    (second / "queries.jsonl").write_text('{"id": "1", "text": "How fast is a glacier?"}\n')
    (second / "qrels.tsv").write_text("query\tdocument\trelevance\n1\tb\t1\n")
    with Workspace(Settings.load(state_dir=root / "state")) as workspace:
        workspace.ingestor.ingest("default", [root / "documents"])
        import_pairs(workspace.store, "default", root / "questions.jsonl", retriever=workspace.retriever)
        for pair in workspace.store.pairs.all("default"):
            workspace.store.pairs.update(pair.id, status="accepted")
        yield workspace


@pytest.fixture(scope="module")
def job(workspace):
    second = workspace.state.root.parent / "second"
    inputs = {"name": "house", "epochs": 1, "second_corpus": str(second)}
    return run_job(workspace, submit(workspace.store, "tune_retriever", inputs).id)


def test_the_job_registers_a_candidate_with_its_figures(workspace, job):
    assert job.status == "succeeded", job.error
    (made,) = workspace.tuned.all()
    assert (made.label, workspace.tuned.stage(made)) == ("house@1", "candidate")
    assert made.base == made.compared_with == workspace.embedder.fingerprint != made.fingerprint
    assert made.metrics["train"]["tuned_parameters"] > 20_000_000
    assert made.data["train"] > 0 < made.data["held_out"]
    held = made.metrics["held_out"]
    assert held["chunks"] == workspace.store.chunks.count("default")
    for method in ("dense", "hybrid"):
        gain = held[method]["gain"]["ndcg@10"]
        change = held[method]["after"]["ndcg@10"] - held[method]["before"]["ndcg@10"]
        assert gain["difference"] == pytest.approx(change, abs=2e-4)
        assert gain["ci"][0] <= gain["difference"] <= gain["ci"][1]
    assert made.metrics["second_corpus"]["corpus"] == "second"
    assert made.metrics["second_corpus"]["dense"]["after"]["ndcg@10"] == 1.0


def test_the_tuned_model_is_one_that_the_lean_encoder_computes(workspace, job):
    tuned = workspace.tuned.find(job.outputs["fingerprint"])
    texts = ["The Amazon covers most of South America.", "Two is the only even prime."]
    own, base = tuned.embed_documents(texts), workspace.embedder.embed_documents(texts)
    assert own.shape == base.shape
    cosines = (own * base).sum(axis=1)
    assert (cosines > 0.7).all()
    assert (cosines < 0.99999).any()
    assert tuned.count_tokens(texts[0]) == workspace.embedder.count_tokens(texts[0])


def test_promoted_it_is_searched_with(workspace, job):
    inputs = {"name": "house", "force": True}
    promoted = run_job(workspace, submit(workspace.store, "promote_retriever", inputs).id)
    assert promoted.status == "succeeded", promoted.error
    assert workspace.ingestor.status("default")["embedder"] == job.outputs["fingerprint"]
    found = workspace.retriever.search("What is a prime number?", method="dense")
    assert found[0].source.endswith("40-prime-number.md")


def test_a_folder_that_is_no_corpus_is_refused(tmp_path):
    with pytest.raises(InvalidRequest, match="no labelled corpus"):
        Labelled.of(tmp_path)
