"""``ragtune doctor`` and the servers that a cluster brings: there, not there, and never with a password."""

from __future__ import annotations

import socket

import pytest

from service import doctor, places
from service.doctor import check_cluster, check_store, check_vectors
from service.settings import Settings
from service.workspace import Workspace

HIDDEN = "pass-word"


def workspace(tmp_path, **given):
    return Workspace(Settings.load(state_dir=tmp_path / "state", **given))


def test_a_database_that_is_not_there_is_told_without_its_password(tmp_path):
    with workspace(tmp_path, database_url=f"postgresql://me:{HIDDEN}@127.0.0.1:1/ragtune") as opened:
        found = check_store(opened)
    assert found.verdict == "failed"
    assert "RAGTUNE_DATABASE_URL" in found.hint
    assert HIDDEN not in str(found)


def test_ray_that_is_not_installed_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "find_spec", lambda name: None)
    with workspace(tmp_path, ray_address="127.0.0.1:1") as opened:
        found = check_cluster(opened)
    assert found.verdict == "failed"
    assert "ragtune[cluster]" in found.hint


@pytest.mark.slow
def test_a_cluster_that_is_there_is_counted(tmp_path, ray_cluster):
    with workspace(tmp_path, ray_address=ray_cluster.address) as opened:
        found = check_cluster(opened)
    assert found.verdict == "ok", found
    assert "2 nodes with 2 processors and 0 GPUs" in found.found
    assert socket.gethostname() in found.found


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_told_in_time(tmp_path):
    with workspace(tmp_path, ray_address="127.0.0.1:1") as opened:
        found = check_cluster(opened)
    assert found.verdict == "failed"
    assert "127.0.0.1:1" in found.found
    assert "ray start" in found.hint


@pytest.mark.slow
def test_one_that_is_silent_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "CLUSTER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with workspace(tmp_path, ray_address=address) as opened:
            found = check_cluster(opened)
    assert (found.verdict, found.found) == ("failed", f"No answer from {address} in 0.5 s.")


@pytest.mark.slow
def test_milvus_is_asked(tmp_path):
    pytest.importorskip("milvus_lite", reason="no Milvus Lite: pip install milvus-lite")
    with workspace(tmp_path, milvus_uri=str(tmp_path / "milvus.db")) as opened:
        assert check_vectors(opened).found == "Milvus: 0 collections"


@pytest.mark.slow
def test_milvus_that_is_not_there_is_told_without_its_token(tmp_path):
    with workspace(tmp_path, milvus_uri="http://127.0.0.1:1", milvus_token=f"root:{HIDDEN}") as opened:
        found = check_vectors(opened)
    assert found.verdict == "failed"
    assert "RAGTUNE_MILVUS_URI" in found.hint
    assert HIDDEN not in str(found)
