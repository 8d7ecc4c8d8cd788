"""RAGTUNE_RAY_ADDRESS: off by default, refused with the next step, and an ingest job that runs on the cluster."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from data.errors import InvalidRequest
from service import places
from service.jobs import run_job, submit
from service.settings import Settings
from service.workspace import Workspace
from tests.service.parts import DOCUMENTS, MODEL, HashEmbedder

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "cluster.md"


def test_it_is_off_by_default_and_where_it_is_empty(monkeypatch):
    assert places.open_workers(Settings.load()) is None
    monkeypatch.setenv("RAGTUNE_RAY_ADDRESS", "")
    assert places.open_workers(Settings.load()) is None


def test_without_ray_the_package_to_install_is_named(monkeypatch):
    monkeypatch.setattr(places, "find_spec", lambda name: None)
    with pytest.raises(InvalidRequest, match=r"ragtune\[cluster\]"):
        places.open_workers(Settings.load(ray_address="auto"))


@pytest.mark.slow
def test_a_job_runs_on_the_cluster(ray_cluster, tmp_path, generator):
    folder = tmp_path / "documents"
    folder.mkdir()
    for name, text in DOCUMENTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "bad.pdf").write_text("no pdf")
    settings = Settings.load(state_dir=tmp_path / "state", ray_address=ray_cluster.address)
    with Workspace(settings, embedder=HashEmbedder(), generator=generator, model=MODEL) as workspace:
        inputs = {"collection": "default", "paths": [str(folder)]}
        job = run_job(workspace, submit(workspace.store, "ingest", inputs).id)
        assert job.status == "succeeded", job.error
        assert sorted(row["source"] for row in job.outputs["indexed"]) == sorted(DOCUMENTS)
        assert [row["type"] for row in job.outputs["failed"]] == ["damaged-document"]
        assert workspace.retriever.search("lighthouse", top_k=1)
        chunks = list(workspace.store.chunks.iterate("default"))
        assert workspace.store.embeddings.count(HashEmbedder.fingerprint) == len(chunks)


@pytest.mark.slow
def test_a_job_without_its_cluster_fails_with_the_next_step(tmp_path, generator):
    (tmp_path / "a.md").write_text("# A\n\nText.\n")
    settings = Settings.load(state_dir=tmp_path / "state", ray_address="127.0.0.1:1")
    with Workspace(settings, embedder=HashEmbedder(), generator=generator, model=MODEL) as workspace:
        job = submit(workspace.store, "ingest", {"collection": "default", "paths": [str(tmp_path / "a.md")]})
        done = run_job(workspace, job.id)
        assert done.status == "failed"
        assert done.error["type"] == "cluster-unavailable"
        assert "ray start" in done.error["hint"]


@pytest.mark.slow
def test_the_commands_of_ray_in_the_documentation_are_its_own():
    from ray.scripts.scripts import cli

    lines = re.findall(r"^ray (.+?)(?:\s+#.*)?$", GUIDE.read_text(encoding="utf-8"), re.M)
    assert len(lines) == 3
    for line in lines:
        name, *options = line.split()
        assert cli.commands[name].make_context(name, options).params
