from __future__ import annotations

import json
from hashlib import sha256

import numpy as np
import pytest

from data.errors import InvalidModel, NoAcceptedPairs, ParityFailed
from data.records import Progress, QAPair
from finetune.cloud.archive import pack
from service.jobs import HEAVY, RESUMABLE, run_job
from service.settings import Settings
from service.starter import register_starter_adapters, suggested_adapter
from service.workspace import Workspace
from tests.service.parts import MODEL, HashEmbedder, adapter


@pytest.fixture
def adapters(workspace):
    return workspace.store.adapters


def lora_files(**manifest: object) -> list[tuple[str, tuple[str, bytes]]]:
    from safetensors.numpy import save

    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    sides = {"A": np.ones((2, 8), np.float32), "B": np.ones((8, 2), np.float32)}
    weights = save({f"{prefix}.lora_{side}.weight": values for side, values in sides.items()})
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none"}
    files = {"adapter_model.safetensors": weights, "adapter_config.json": json.dumps(config).encode()}
    if manifest:
        files["manifest.json"] = json.dumps(manifest).encode()
    return [("files", item) for item in files.items()]


def test_adapters_are_listed_and_shown(client, adapters):
    adapters.add(adapter())
    (listed,) = client.get("/v1/adapters").json()["adapters"]
    assert {"name", "version", "stage", "base_model", "recipe", "parity", "metrics", "lineage", "stale"} <= set(listed)
    assert listed["parity"] == {"greedy_agreement": 1.0, "kl": 0.0, "passed": True}
    shown = client.get("/v1/adapters/house@1").json()
    assert [event["event"] for event in shown["history"]] == ["added"]
    response = client.get("/v1/adapters/huose")
    assert (response.status_code, response.json()["hint"]) == (404, "Did you mean house?")


def test_promote_and_roll_back(client, adapters):
    adapters.add(adapter())
    adapters.add(adapter(version=2))
    assert client.post("/v1/adapters/house/promote", json={"version": 1}).json()["before"] is None
    assert client.get("/v1/adapters/house").json()["version"] == 2, "what promote would take"
    body = client.post("/v1/adapters/house/promote").json()
    assert (body["version"], body["stage"], body["before"]) == (2, "live", "house@1")
    assert client.post("/v1/adapters/rollback").json()["version"] == 1
    assert adapters.live(MODEL.sha256).version == 1
    response = client.post("/v1/adapters/rollback")
    assert (response.status_code, response.json()["type"]) == (409, "no-live-adapter")


@pytest.mark.parametrize(
    ("changes", "kind"),
    [({"base": "f" * 64}, "base-model-mismatch"), ({"metrics": {}}, "parity-failed")],
)
def test_what_may_not_serve_is_not_promoted(client, adapters, changes, kind):
    adapters.add(adapter(**changes))
    response = client.post("/v1/adapters/house/promote")
    assert (response.status_code, response.json()["type"]) == (409, kind)
    assert client.post("/v1/adapters/none/promote").status_code == 404


def test_an_adapter_that_forgets_is_promoted_by_force_only(client, adapters):
    adapters.add(adapter(metrics={"parity": PARITY, "forgetting": FORGOT}))
    response = client.post("/v1/adapters/house/promote")
    assert (response.status_code, response.json()["type"]) == (409, "forgetting-exceeded")
    assert "0.300 to 0.700" in response.json()["got"]
    assert adapters.live(MODEL.sha256) is None
    assert client.post("/v1/adapters/house/promote", json={"force": True}).json()["stage"] == "live"


def test_delete_takes_the_files_along(client, workspace, adapters):
    for version in (1, 2):
        adapters.add(adapter(version=version))
        workspace.state.adapters("house", version).mkdir(parents=True)
    assert client.delete("/v1/adapters/house", params={"version": 1}).json() == {"deleted": ["house@1"]}
    assert not workspace.state.adapters("house", 1).exists()
    assert workspace.state.adapters("house", 2).exists()
    assert client.delete("/v1/adapters/house@2").json() == {"deleted": ["house@2"]}
    assert client.delete("/v1/adapters/house").status_code == 404


@pytest.mark.parametrize(
    ("files", "status", "kind"),
    [
        (lora_files()[:1], 422, "invalid-model"),
        ([("files", ("weights.bin", b"x"))], 422, "invalid-model"),
        ([*lora_files()[:1], ("files", ("adapter_config.json", b"{"))], 422, "invalid-model"),
        ([*lora_files()[:1], ("files", ("adapter_config.json", b"[" * 200_000))], 422, "invalid-model"),
        ([*lora_files(), ("files", ("manifest.json", b'{"sha256":' * 200_000))], 422, "invalid-model"),
        (lora_files(attention="some"), 422, "invalid-model"),
        (lora_files(metrics={"loss": float("nan")}), 422, "invalid-model"),
        ([*lora_files(), ("files", ("manifest.json", b'{"base_model": "\\ud800"}'))], 422, "invalid-model"),
        (lora_files(base_sha256="f" * 64, base_model="other"), 409, "base-model-mismatch"),
    ],
)
def test_imports_that_are_refused_leave_nothing(client, workspace, adapters, files, status, kind):
    response = client.post("/v1/adapters/import", files=files, data={"name": "house"})
    assert (response.status_code, response.json()["type"]) == (status, kind)
    assert adapters.list() == []
    assert not workspace.state.adapters("house", 1).exists()
    assert client.post("/v1/adapters/import", files=lora_files(), data={"name": "../x"}).status_code == 422
    twice = client.post("/v1/adapters/import", files=[*lora_files(), *lora_files()], data={"name": "house"})
    assert twice.json()["type"] == "invalid-model"
    assert list(workspace.state.uploads.iterdir()) == []
    assert client.get("/v1/jobs").json()["jobs"] == []


PARITY = {"greedy_agreement": 1.0, "kl": 0.0, "passed": True}
FORGETTING = {
    "accuracy": {"before": 0.9, "after": 0.9}, "drop": 0.01, "ci": [-0.01, 0.03], "margin": 0.1, "passed": True
}  # fmt: skip
FORGOT = {**FORGETTING, "drop": 0.5, "ci": [0.3, 0.7], "passed": False}


@pytest.fixture
def measured(monkeypatch):
    """Convert and compare without a base model; return what the comparison says next (an error is raised)."""
    verdicts = []

    def measure(_workspace, folder, examples, report, attention):
        assert attention == "full"
        assert (folder / "adapter.gguf").read_bytes() == (folder / "adapter_model.safetensors").read_bytes()
        assert examples
        report(Progress(1, 1, "examples", stage="parity"))
        verdict = verdicts.pop(0) if verdicts else PARITY
        if isinstance(verdict, BaseException):
            raise verdict
        return verdict

    def convert(folder, _base, out, *, pad_rank=True):
        out.write_bytes((folder / "adapter_model.safetensors").read_bytes() + (b"" if pad_rank else b"narrow"))
        return out

    monkeypatch.setattr("service.adapters.measure_parity", measure)
    monkeypatch.setattr("service.adapters.measure_forgetting", lambda *_: FORGETTING)
    monkeypatch.setattr("finetune.export.lora_to_gguf", convert)
    return verdicts


def run_import(client, workspace, files=None):
    response = client.post("/v1/adapters/import", files=files or lora_files(), data={"name": "house"})
    assert response.status_code == 202, response.text
    return run_job(workspace, response.json()["job_id"])


@pytest.mark.usefixtures("measured")
def test_an_imported_adapter_is_measured_and_can_be_promoted(client, indexed, adapters):
    job = run_import(client, indexed)
    assert (job.kind, job.status) == ("import_adapter", "succeeded"), job.error
    assert (job.outputs["name"], job.outputs["version"], job.outputs["stage"]) == ("house", 1, "candidate")
    assert job.outputs["parity"] == PARITY
    assert {"import_adapter"} <= HEAVY & RESUMABLE
    assert list(indexed.state.uploads.iterdir()) == []
    assert (indexed.state.adapters("house", 1) / "adapter_config.json").exists()
    assert client.post("/v1/adapters/house/promote").json()["stage"] == "live"


@pytest.mark.usefixtures("measured")
def test_importing_the_same_files_again_gives_the_same_version(client, indexed, adapters):
    first, again = run_import(client, indexed), run_import(client, indexed)
    assert again.outputs == first.outputs
    other = run_import(client, indexed, lora_files(metrics={"loss": 1, "parity": {"passed": True}}))
    assert (other.outputs["version"], other.outputs["metrics"]) == (2, {"loss": 1, "forgetting": FORGETTING})
    assert [a.version for a in adapters.list("house")] == [1, 2]


def archive(folder, **manifest):
    folder.mkdir()
    for _field, (name, content) in lora_files():
        (folder / name).write_bytes(content)
    packed = pack(folder, folder / "house.zip", {"base_sha256": MODEL.sha256, **manifest})
    return [("files", ("house.zip", packed.read_bytes()))]


@pytest.mark.usefixtures("measured")
def test_the_archive_of_a_training_elsewhere_is_imported(client, indexed, tmp_path):
    job = run_import(client, indexed, archive(tmp_path / "trained", lineage={"bundle": "b1"}))
    assert job.status == "succeeded", job.error
    assert job.outputs["lineage"]["elsewhere"] == {"bundle": "b1"}
    assert list(indexed.state.uploads.iterdir()) == []
    assert list(indexed.state.tmp.iterdir()) == []


@pytest.mark.usefixtures("measured")
def test_an_adapter_of_a_gguf_s_twin_comes_home(client, indexed, tmp_path):
    """The twin has other weights; the bundle named the model that is served."""
    files = archive(tmp_path / "twin", base_sha256="7" * 64, served={"name": "x", "sha256": MODEL.sha256})
    assert run_import(client, indexed, files).status == "succeeded"


def test_changed_and_foreign_archives_are_refused(client, workspace, adapters, tmp_path):
    def post(files):
        response = client.post("/v1/adapters/import", files=files, data={"name": "house"})
        return response.status_code, response.json()["type"]

    foreign = archive(tmp_path / "foreign", base_sha256="7" * 64, served={"sha256": "8" * 64})
    assert post(foreign) == (409, "base-model-mismatch")
    content = archive(tmp_path / "changed")[0][1][1]
    assert post([("files", ("house.zip", content[:-40]))]) == (422, "invalid-model")
    folder = tmp_path / "changed"
    (folder / "adapter_config.json").write_text("{}")
    names = ("adapter_model.safetensors", "adapter_config.json", "manifest.json")
    assert post([("files", (name, (folder / name).read_bytes())) for name in names]) == (422, "invalid-model")
    assert adapters.list() == []
    assert list(workspace.state.uploads.iterdir()) == []


def test_an_adapter_whose_parity_fails_is_not_registered(client, indexed, adapters, measured):
    measured.append(ParityFailed("They differ", got="greedy agreement 0.2"))
    job = run_import(client, indexed)
    assert (job.status, job.error["type"]) == ("failed", "parity-failed")
    assert adapters.list() == []
    assert not indexed.state.adapters("house", 1).exists()
    assert list(indexed.state.uploads.iterdir()) == []


def test_an_interrupted_import_of_an_adapter_goes_on(client, indexed, adapters, measured):
    measured.append(KeyboardInterrupt())
    job_id = client.post("/v1/adapters/import", files=lora_files(), data={"name": "house"}).json()["job_id"]
    with pytest.raises(KeyboardInterrupt):
        run_job(indexed, job_id)
    assert adapters.list() == []
    stale = indexed.state.adapters("house", 1) / "adapter.gguf"  # as a kill would leave it
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of other weights")
    assert run_job(indexed, job_id).status == "succeeded"
    assert [a.version for a in adapters.list()] == [1]


def test_training_needs_accepted_pairs(client):
    response = client.post("/v1/adapters", json={"name": "house"})
    assert (response.status_code, response.json()["type"]) == (409, "no-accepted-pairs")
    assert "pairs generate" in response.json()["hint"]
    assert client.post("/v1/adapters", json={"name": "../x"}).status_code == 422
    assert client.post("/v1/adapters", json={"collection": "no"}).status_code == 404


def test_training_is_a_job_and_a_bad_recipe_its_failure(client, indexed):
    pair = QAPair("p1", "When?", "1842", (), "span", "test", "accepted")
    indexed.store.pairs.add("default", None, [pair])
    response = client.post("/v1/adapters", json={"name": "house", "recipe": {"base_model": "another"}})
    assert response.status_code == 202
    job = run_job(indexed, response.json()["job_id"])
    assert (job.status, job.error["type"]) == ("failed", "recipe-invalid")


def test_packaged_recipes_are_listed_and_trained_by_name(client, indexed):
    found = {recipe["name"]: recipe for recipe in client.get("/v1/recipes").json()["recipes"]}
    assert {"domain", "reader", "style"} <= set(found)
    assert found["reader"]["values"]["attention"] == "blockwise"
    assert "passages" in found["reader"]["about"]
    indexed.store.pairs.add("default", None, [QAPair("p1", "When?", "1842", (), "span", "test", "accepted")])
    job_id = client.post("/v1/adapters", json={"name": "house", "recipe": "domain"}).json()["job_id"]
    assert indexed.store.jobs.get(job_id).inputs["recipe"] == found["domain"]["values"]
    for unknown in ("domian", "../../etc/passwd"):
        refused = client.post("/v1/adapters", json={"name": "house", "recipe": unknown})
        assert (refused.status_code, refused.json()["type"]) == (422, "recipe-invalid")


def test_an_estimate_is_a_job_that_trains_nothing(client, indexed, monkeypatch):
    assert client.post("/v1/adapters/estimate", json={}).json()["type"] == "no-accepted-pairs"
    indexed.store.pairs.add("default", None, [QAPair("p1", "When?", "1842", (), "span", "test", "accepted")])
    assert client.post("/v1/adapters/estimate", json={"recipe": {"r": 0}}).status_code == 422
    response = client.post("/v1/adapters/estimate", json={"recipe": {"base_model": "another"}})
    assert response.status_code == 202
    job = run_job(indexed, response.json()["job_id"])
    assert (job.kind, job.status, job.error["type"]) == ("estimate", "failed", "recipe-invalid")
    assert not indexed.store.adapters.list()
    assert {"estimate"} <= HEAVY & RESUMABLE


def test_the_train_job_without_pairs_fails_too(indexed):
    from service.work.train import run

    with pytest.raises(NoAcceptedPairs):
        run(indexed, {"name": "house"}, lambda _: None)


def starter(tmp_path, weights: bytes, base: str = MODEL.sha256):
    folder = tmp_path / "starter" / "reader"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "manifest.json").write_text(json.dumps({"base_sha256": base, "recipe": {"r": 8}, "metrics": {"loss": 1}}))
    return folder.parent


def test_packaged_adapters_are_registered_once_as_candidates(workspace, adapters, tmp_path):
    folder = starter(tmp_path, b"one")
    for _ in range(2):
        assert register_starter_adapters(workspace.store, workspace.state, MODEL, folder) == ("reader",)
    (found,) = adapters.list()
    assert (found.name, found.version, found.stage, found.recipe) == ("reader", 1, "candidate", {"r": 8})
    assert workspace.adapter_file(found, "adapter_model.safetensors").read_bytes() == b"one"
    starter(tmp_path, b"two")
    register_starter_adapters(workspace.store, workspace.state, MODEL, folder)
    assert [a.version for a in adapters.list()] == [1, 2]


def test_the_packaged_reader_is_suggested_while_nothing_else_reads(tmp_path):
    def opened(**settings):
        chosen = Settings.load(state_dir=tmp_path / "state", **settings)
        return Workspace(chosen, embedder=HashEmbedder(), model=MODEL)

    with opened() as workspace:
        assert suggested_adapter(workspace, "default") is None
        register_starter_adapters(workspace.store, workspace.state, MODEL, starter(tmp_path, b"one"))
        assert suggested_adapter(workspace, "default") == "reader"
        assert workspace.store.adapters.live(MODEL.sha256) is None, "it is named, not made live"
        with opened(kv_type="q8_0") as eight_bits, opened(engine_url="http://127.0.0.1:1") as elsewhere:
            assert suggested_adapter(eight_bits, "default") is None, "passages cannot be read apart from each other"
            assert suggested_adapter(elsewhere, "default") is None
        workspace.store.collections.ensure("measured")
        workspace.store.evaluations.add("e0", {"recommendation": None}, "measured")
        assert suggested_adapter(workspace, "measured") == "reader", "too few questions recommend nothing"
        workspace.store.evaluations.add("e1", {"recommendation": "rag"}, "measured")
        assert suggested_adapter(workspace, "measured") is None, "auto follows what was measured"
        workspace.store.adapters.promote("reader")
        assert suggested_adapter(workspace, "default") is None


def test_packaged_adapters_of_another_base_are_left_alone(workspace, adapters, tmp_path):
    folder = starter(tmp_path, b"one", base="f" * 64)
    assert register_starter_adapters(workspace.store, workspace.state, MODEL, folder) == ()
    assert register_starter_adapters(workspace.store, workspace.state, MODEL, tmp_path / "none") == ()
    assert adapters.list() == []


@pytest.mark.parametrize("recipe", [{"nonsense": 1}, {"r": 0}, {"init_adapter": "/etc"}, {"init_adapter": "../x"}])
def test_a_bad_recipe_is_refused_at_once(client, recipe):
    refused = client.post("/v1/adapters", json={"name": "house", "recipe": recipe})
    assert (refused.status_code, refused.json()["type"]) == (422, "recipe-invalid")


@pytest.mark.usefixtures("measured")
def test_a_gguf_that_was_changed_is_made_again_or_refused(client, indexed, adapters):
    run_import(client, indexed)
    house = adapters.get("house", 1)
    folder = indexed.state.adapters("house", 1)
    whole = (folder / "adapter.gguf").read_bytes()
    for change in (lambda path: path.write_bytes(whole[:-1] + b"?"), lambda path: path.unlink()):
        change(folder / "adapter.gguf")
        assert indexed.adapter_gguf(house).read_bytes() == whole
    (folder / "adapter.gguf").write_bytes(b"?")
    (folder / "adapter_model.safetensors").write_bytes(b"??")
    with pytest.raises(InvalidModel, match="not those that were registered"):
        indexed.adapter_gguf(house)
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter.gguf",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


@pytest.mark.usefixtures("measured")
def test_a_gguf_from_before_ranks_were_padded_is_made_again_as_it_was(client, indexed, adapters):
    run_import(client, indexed)
    path = indexed.state.adapters("house", 1) / "adapter.gguf"
    narrow = path.read_bytes() + b"narrow"
    adapters.update("house", 1, lineage={**adapters.get("house", 1).lineage, "gguf_sha256": sha256(narrow).hexdigest()})
    path.unlink()
    assert indexed.adapter_gguf(adapters.get("house", 1)).read_bytes() == narrow


@pytest.mark.usefixtures("measured")
def test_the_hash_of_a_gguf_that_came_without_is_kept_from_its_first_use(indexed, adapters, tmp_path):
    register_starter_adapters(indexed.store, indexed.state, MODEL, starter(tmp_path, b"one"))
    made = indexed.adapter_gguf(adapters.get("reader", 1))
    assert adapters.get("reader", 1).lineage["gguf_sha256"] == sha256(b"one").hexdigest()
    made.write_bytes(b"two")
    assert indexed.adapter_gguf(adapters.get("reader", 1)).read_bytes() == b"one"
