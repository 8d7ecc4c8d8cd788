"""The train job with the real starter: pairs in, a served adapter out."""

from __future__ import annotations

import pytest

from data.records import content_id
from service.answerer import AskRequest
from service.jobs import run_job, submit
from tests.service.trainable import ASKED, trainable

pytestmark = [
    pytest.mark.slow,
    # peft asks transformers for a name that transformers is about to change.
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning"),
]

RECIPE = {"r": 4, "lora_alpha": 8, "max_steps": 2, "warmup_steps": 0, "init_adapter": ""}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    with trainable(tmp_path_factory.mktemp("train")) as workspace:
        yield workspace


@pytest.fixture(scope="module")
def job(workspace):
    inputs = {"name": "house", "collection": "default", "recipe": RECIPE, "promote": True}
    return run_job(workspace, submit(workspace.store, "train", inputs).id)


def test_the_job_registers_an_adapter_with_all_it_came_from(workspace, job):
    assert job.status == "succeeded", job.error
    adapter = workspace.store.adapters.get("house", 1)
    assert (adapter.stage, adapter.base_sha256) == ("live", workspace.model.sha256)
    assert adapter.metrics["steps"] == 2
    assert adapter.lineage["pairs"] == 4
    assert len(adapter.lineage["documents"]) == 2
    assert adapter.recipe["r"] == 4
    for file in ("adapter_model.safetensors", "adapter.gguf", "manifest.json", "train_log.jsonl", "train.jsonl"):
        assert workspace.adapter_file(adapter, file).stat().st_size > 0
    assert not (workspace.state.adapters("house") / "training").exists()


def test_the_gguf_answers_like_what_was_trained(job):
    assert job.outputs["parity"]["greedy_agreement"] > 0.9
    assert job.outputs["parity"]["kl"] < 0.05


def test_what_it_forgot_is_measured(job):
    found = job.outputs["metrics"]["forgetting"]
    assert found["items"] == 80
    assert found["passed"], "two steps cannot make a model forget"
    assert found["ci"][0] <= found["drop"] <= found["ci"][1]
    assert found["accuracy"]["before"] > 0.4, "chance is a third"


def test_the_trained_adapter_serves(workspace, job):
    answer = workspace.answerer.answer(AskRequest(ASKED[0][0], max_tokens=16))
    assert (answer.mode, answer.adapter) == ("combined", "house@1")
    assert answer.text


def test_the_adapter_is_linked_with_its_rows_and_they_with_their_pairs(workspace, job):
    found = workspace.store.lineage.trace("adapter", "house@1")
    assert set(found.made_from["pair"].ids) == {content_id(question) for question, _answer in ASKED}
    assert found.made_from["row"].total >= len(ASKED)
    assert found.made_from["document"].total == 2
    assert workspace.store.adapters.get("house", 1).lineage["weights_sha256"]


def test_an_edited_document_makes_it_stale(workspace, job, tmp_path):
    from service.lineage import is_stale

    adapter = workspace.store.adapters.get("house", 1)
    assert not is_stale(workspace.store, adapter)
    (tmp_path / "garden.md").write_text("# Garden\n\nThe garden of Tolm is closed.\n")
    workspace.ingestor.ingest("default", [tmp_path / "garden.md"])
    assert is_stale(workspace.store, adapter)


def test_a_dora_is_trained_and_served_merged(workspace, job, tmp_path):
    from service.export import export_adapter

    recipe = {**RECIPE, "use_dora": True, "max_steps": 1}
    inputs = {"name": "dora", "collection": "default", "recipe": recipe, "promote": True}
    trained = run_job(workspace, submit(workspace.store, "train", inputs).id)
    assert trained.status == "succeeded", trained.error
    assert trained.outputs["not_promoted"]["type"] == "parity-failed"
    adapter = workspace.store.adapters.get("dora", 1)
    assert "adapter.gguf" not in adapter.files
    done = export_adapter(
        workspace, adapter, tmp_path / "dora.gguf", merge=True, quantize="q8_0", report=lambda _: None
    )
    assert done["parity"]["greedy_agreement"] >= 0.98
    assert (tmp_path / "dora.gguf").stat().st_size == done["bytes"]


def test_an_estimate_says_time_and_memory_and_registers_nothing(workspace, job):
    known = workspace.store.adapters.list()
    inputs = {"name": "house", "collection": "default", "recipe": RECIPE}
    found = run_job(workspace, submit(workspace.store, "estimate", inputs).id)
    assert found.status == "succeeded", found.error
    assert found.outputs["steps"] == 2
    assert found.outputs["seconds"] > found.outputs["load_seconds"] > 0
    assert found.outputs["peak_memory_bytes"] > 0
    assert found.outputs["fits"] is (found.outputs["peak_memory_bytes"] <= found.outputs["available_bytes"])
    assert workspace.store.adapters.list() == known
