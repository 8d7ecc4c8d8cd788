"""A service with two collections, one of them secret, and keys to it."""

from __future__ import annotations

import pytest

from data.records import Adapter, QAPair
from data.store import KeyGrant
from tests.service.parts import MODEL


@pytest.fixture
def shared(indexed):
    """Return a workspace with documents in two collections, pairs and an adapter of ``secret``."""
    folder = indexed.state.root.parent / "more"
    folder.mkdir()
    (folder / "vault.md").write_text("# Vault\n\nThe vault of Karn opens with the word heron.\n", encoding="utf-8")
    indexed.ingestor.ingest("secret", [folder])
    chunk = next(chunk for _, chunk, _ in indexed.store.chunks.iterate("secret"))
    pair = QAPair("p1", "Which word opens the vault?", "heron", (chunk.id,), "span", "human", "accepted")
    indexed.store.pairs.add("secret", None, [pair])
    about = {"recipe": {}, "rows_sha256": "0" * 64, "attention": "full", "files": {}, "metrics": {}}
    adapter = Adapter(
        "vaulted", 1, MODEL.name, stage="candidate", base_sha256=MODEL.sha256, lineage={"collection": "secret"}, **about
    )
    indexed.store.adapters.add(adapter)
    indexed.store.evaluations.add("e1", {"verdict": "none"}, "secret")
    return indexed


@pytest.fixture
def service(shared):
    from tests.service.conftest import open_client

    with open_client(shared) as client:
        yield client


def key(workspace, *scopes, collections=(), **limits):
    """Return the header of a new key."""
    _, plaintext = workspace.store.keys.create("somebody", KeyGrant(scopes, tuple(collections), **limits))
    return {"Authorization": f"Bearer {plaintext}"}
