"""Milvus Lite as a server on a port of its own: pymilvus talks to it as to a cluster."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def milvus(tmp_path_factory):
    """A connection to Milvus Lite, shared by the tests of a run: starting it takes seconds."""
    pytest.importorskip("milvus_lite", reason="no Milvus Lite: pip install milvus-lite")
    from retrieval.milvus import MilvusServer

    server = MilvusServer(str(tmp_path_factory.mktemp("milvus") / "milvus.db"))
    yield server
    server.close()
