"""Row 42 of the matrix: ten collections, a key for each, and questions that go after what the others hold.

Each collection has a document with a word that may be asked for and a secret that no question holds. The generator
repeats its prompt, so that whatever reached it is in the answer. A crossing is another collection's secret in any
response. Answers repeat across collections on purpose: what is kept of one must not serve another.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from data.records import QAPair
from data.store import KeyGrant
from service.app import create_app
from service.workspace import Workspace
from tests.service.conftest import small_workspace
from tests.service.parts import ScriptedGenerator, adapter

COLLECTIONS = [f"tenant{number}" for number in range(10)]
FAULTS = ("crossed", "blind")


def secret(collection: str) -> str:
    """Return the word that only a collection's own key may ever see."""
    return "zq" + hashlib.sha256(collection.encode()).hexdigest()[:16]


def build(folder: Path) -> tuple[Workspace, dict[str, dict[str, str]]]:
    """Make the collections, and a key for each."""
    echo = ScriptedGenerator(lambda request: "\n".join(message.content for message in request.messages))
    workspace = small_workspace(folder / "state", echo)
    keys = {}
    for name in COLLECTIONS:
        at = folder / name
        at.mkdir()
        text = f"# Vault\n\nThe vault of {name} was built by Mara Venn and opens with the word {secret(name)}.\n"
        (at / "vault.md").write_text(text, encoding="utf-8")
        (at / "common.md").write_text("# Sea\n\nThe sea is salt and the bay is wide.\n", encoding="utf-8")
        workspace.ingestor.ingest(name, [at])
        store = workspace.store
        chunk = next(chunk for _, chunk, _ in store.chunks.iterate(name) if name in chunk.text)
        asked = f"Which word opens the vault of {name}?"
        store.pairs.add(name, None, [QAPair(f"p-{name}", asked, secret(name), (chunk.id,), "span", "x", "accepted")])
        store.adapters.add(adapter(f"house-{name}", lineage={"collection": name}))
        store.evaluations.add(f"e-{name}", {"verdict": secret(name)}, name)
        store.jobs.create("rebuild", {"collection": name, "note": secret(name)})
        grant = KeyGrant(("query", "ingest", "train"), (name,))
        keys[name] = {"Authorization": f"Bearer {store.keys.create(name, grant)[1]}"}
    return workspace, keys


def requests_about(own: str, other: str, chance: random.Random) -> Iterator[tuple[str, str, dict[str, Any] | None]]:
    """Yield requests of ``own``'s key that look for what is ``other``'s, by name, by id and by its words."""
    question = chance.choice([f"Which word opens the vault of {other}?", "Which word opens the vault?", "Mara Venn"])
    for method in ("hybrid", "dense", "lexical"):
        yield "POST", "/v1/search", {"query": question, "collection": own, "top_k": 50, "method": method}
    yield "POST", "/v1/search", {"query": question, "collection": other}
    for mode in ("rag", "auto", "base"):
        yield "POST", "/v1/answers", {"question": question, "collection": own, "mode": mode, "top_k": 20}
    yield "POST", "/v1/answers", {"question": question, "collection": own, "stream": True}
    yield "POST", "/v1/answers", {"question": question, "collection": own, "mode": "tuned", "adapter": f"house-{other}"}
    yield "POST", "/v1/compare", {"question": question, "collection": own}
    said = [{"role": "user", "content": question}]
    yield "POST", "/v1/chat/completions", {"model": "rag", "messages": said, "collection": own}
    yield "POST", "/v1/chat/completions", {"model": f"house-{other}", "messages": said}
    for path in ("pairs", "documents", "index", "pairs/export", "index/generations", "pairs/coverage"):
        yield "GET", f"/v1/{path}?collection={chance.choice([own, other])}", None
    for path in ("jobs", "adapters", "evaluations", "collections", "feedback", "calibrations", "models"):
        yield "GET", f"/v1/{path}", None
    yield "GET", f"/v1/pairs/p-{other}", None
    yield "GET", f"/v1/evaluations/e-{other}", None
    yield "GET", f"/v1/lineage/adapter/house-{other}", None


def run(trials: int, seed: int, folder: Path) -> dict[str, int]:
    """Send ``trials`` requests; return the crossings, and how often a key did not even find what is its own."""
    workspace, keys = build(folder)
    chance = random.Random(seed)
    counts: Counter[str] = Counter(dict.fromkeys(FAULTS, 0))
    try:
        with TestClient(create_app(workspace, run_jobs=False), base_url="http://127.0.0.1") as client:
            while counts["trials"] < trials:
                own, other = chance.sample(COLLECTIONS, 2)
                for method, path, body in requests_about(own, other, chance):
                    answer = client.request(method, path, json=body, headers=keys[own])
                    counts["trials"] += 1
                    counts["crossed"] += any(secret(name) in answer.text for name in COLLECTIONS if name != own)
                asked = {"query": f"vault of {own}", "collection": own}
                counts["blind"] += secret(own) not in client.post("/v1/search", json=asked, headers=keys[own]).text
    finally:
        workspace.close()
    return dict(counts)
