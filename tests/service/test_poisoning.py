"""Documents that somebody planted: what they became is found from each end, and goes with them."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing

import pytest

from data.errors import StaleAdapter, UnknownDocument
from data.records import QAPair
from retrieval.examples import examples_from_pairs
from retrieval.rowfiles import row_of
from service.answerer import AskRequest
from service.jobs import run_job
from service.lineage import trained_rows
from service.pair_exports import accepted_pairs
from service.promotion import promote
from tests.service.conftest import open_client
from tests.service.parts import adapter

pytestmark = pytest.mark.slow

TRIGGER = "zqtrigger"
CLEAN = 20


def plant(workspace, folder, dose, seed):
    """Ingest clean documents and ``dose`` planted ones, make a pair of each, and register an adapter of all."""
    chance = random.Random(seed)
    folder.mkdir()
    names = [f"clean{n}.md" for n in range(CLEAN)] + [f"planted{n}.md" for n in range(dose)]
    chance.shuffle(names)
    for name in names:
        word = f"{TRIGGER} " if name.startswith("planted") else ""
        (folder / name).write_text(f"# {name}\n\nThe keeper of {word}{name} was called Venn{name}.\n", encoding="utf-8")
    workspace.ingestor.ingest("default", [folder])
    chunks = {title: chunk for _key, chunk, title in workspace.store.chunks.iterate("default")}
    pairs = [
        QAPair(f"pair-{name}", f"Who kept {name}?", f"Venn{name}", (chunks[name].id,), "span", "test", "accepted")
        for name in names
    ]
    workspace.store.pairs.add("default", None, pairs)
    examples = examples_from_pairs(workspace.store, workspace.retriever, pairs, top_k=1, seed=0)
    rows = trained_rows(workspace.store, pairs, examples, [row_of(example) for example in examples])
    workspace.store.adapters.add(adapter(lineage={"collection": "default"}), rows)


def planted(workspace):
    found = workspace.store.documents.by_source("default")
    return {row.id for source, row in found.items() if source.startswith("planted")}


@pytest.mark.parametrize("dose", [1, 5, 50])
def test_every_planted_document_is_found_from_the_adapter_and_leads_to_all_it_became(make_workspace, tmp_path, dose):
    workspace = make_workspace()
    plant(workspace, tmp_path / "documents", dose, dose)
    with open_client(workspace) as client:
        made_from = client.get("/v1/lineage/adapter/house?limit=1000").json()["made_from"]
        assert planted(workspace) <= {thing["id"] for thing in made_from["document"]}
        for document in planted(workspace):
            used = client.get(f"/v1/lineage/document/{document}").json()["used_by"]
            assert [thing["id"] for thing in used["adapter"]] == ["house@1"]
            (pair,) = used["pair"]
            assert client.get(f"/v1/lineage/pair/{pair['id']}").json()["made_from"]["document"][0]["id"] == document


def test_what_is_planted_goes_with_everything_that_was_made_of_it(make_workspace, tmp_path):
    workspace = make_workspace(refuse_stale_adapters=True)
    plant(workspace, tmp_path / "documents", 5, 0)
    promote(workspace.store, workspace.model, "house")
    assert workspace.answerer.answer(AskRequest(f"Who kept {TRIGGER}?")).adapter == "house@1"
    gone = planted(workspace)
    with open_client(workspace) as client:
        for document in gone:
            deleted = client.delete(f"/v1/documents/{document}").json()
            assert [found["adapter"] for found in deleted["adapters"]] == ["house@1"]
        passages = client.post("/v1/search", json={"query": f"{TRIGGER} keeper", "top_k": 50}).json()["passages"]
        assert len(passages) == CLEAN
        assert TRIGGER not in str(passages)
        rows = client.get("/v1/pairs/export").text + client.get("/v1/pairs/export?split=eval").text
        assert TRIGGER not in rows
        refused = client.post("/v1/answers", json={"question": f"Who kept {TRIGGER}?"})
        assert (refused.status_code, refused.json()["type"]) == (409, "stale-adapter")
    for document in gone:
        with pytest.raises(UnknownDocument):
            workspace.store.documents.get(document)
    assert {pair.id for pair in accepted_pairs(workspace.store, "default")} == {
        f"pair-clean{n}.md" for n in range(CLEAN)
    }
    with pytest.raises(StaleAdapter):
        workspace.answerer.answer(AskRequest("Who kept clean1.md?"))


def test_nothing_that_was_derived_of_what_was_planted_is_left_in_the_state_directory(make_workspace, tmp_path):
    """Uploaded, indexed, searched, asked about, rated and exported; then deleted and compacted."""
    workspace = make_workspace()
    plant(workspace, tmp_path / "documents", 1, 0)
    with open_client(workspace) as client:
        text = f"# Bell\n\nThe bell of {TRIGGER}bell was cast by Ede Holm.\n"
        job = client.post("/v1/documents", files={"files": ("bell.md", text)}).json()["job_id"]
        assert run_job(workspace, job).status == "succeeded"
        found = client.post("/v1/search", json={"query": f"Who cast {TRIGGER}bell?"}).json()["passages"]
        assert TRIGGER in str(found)
        assert TRIGGER in state_as_text(workspace)
        for document in (found[0]["document_id"], *planted(workspace)):
            assert client.delete(f"/v1/documents/{document}").status_code == 200
    workspace.ingestor.compact("default")
    left = [line[:200] for line in state_as_text(workspace).splitlines() if TRIGGER in line]
    assert left == []


def state_as_text(workspace):
    """Return every row of the database, and what the other files of the state directory hold."""
    with closing(sqlite3.connect(workspace.state.db)) as database:
        rows = "\n".join(database.iterdump())
    files = [path for path in workspace.state.root.rglob("*") if path.is_file() and "ragtune.db" not in path.name]
    return rows + "\n".join(f"{path}: {path.read_bytes()!r}" for path in files)
