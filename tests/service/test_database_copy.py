"""`ragtune database copy`: from the file in the state directory to a real PostgreSQL server, and on from there."""

from __future__ import annotations

import hashlib

import pytest
import sqlalchemy as sa

from data.errors import JobCancelled
from data.records import Model
from data.store import Store, schema
from data.store.server import connect_to
from service.settings import Settings
from service.workspace import Workspace
from tests.postgres import free_port
from tests.service.parts import DOCUMENTS, MODEL, HashEmbedder
from tests.service.shells import Shell

pytestmark = pytest.mark.slow

QUESTION = "Who was the keeper of the lighthouse?"


@pytest.fixture
def shell(tmp_path, generator):
    """A state directory in which something of most kinds happened."""
    folder = tmp_path / "documents"
    folder.mkdir()
    for name, text in DOCUMENTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "gone.md").write_text("# Gone\n\nIt is deleted again: 灯塔, naïve, 🗼.\n", encoding="utf-8")
    shell = Shell(tmp_path / "state", generator)
    shell("ingest", folder, "--tag", "port")
    (folder / "gone.md").unlink()
    shell("ingest", folder, "--sync")
    shell("keys", "create", "reader", "--scope", "query", "--requests-per-minute", 7)
    answer = shell.json("ask", QUESTION)
    with Store.open(shell.state / "ragtune.db") as store:
        store.feedback.add(answer["id"], -1, "Somebody else.", "灯")
        store.houses.put("default", "Answer in verse.", {"temperature": 0.1 + 0.2}, "somebody")
        store.evaluations.add("e1", {"arms": {"rag": {"f1": 1 / 3, "n": None}}, "ok": True})
        store.models.add(Model("own", "/elsewhere/own.gguf", "own", "own.gguf", "0" * 64, "llama"))
        store.jobs.create("ingest", {"paths": ["a"], "collection": "default"}, "once")
        store.webhooks.add("https://example.org/hook")
    return shell


def contents(engine):
    """Return every row of every table, as text, in an order that does not depend on the database."""
    with engine.connect() as connection:
        return {
            table.name: sorted(repr(tuple(row)) for row in connection.execute(sa.select(table)))
            for table in schema.metadata.sorted_tables
        }


def of_file(shell):
    return contents(sa.create_engine(f"sqlite:///{shell.state / 'ragtune.db'}"))


def of_server(url):
    engine = connect_to(sa.make_url(url), None)
    found = contents(engine)
    engine.dispose()
    return found


def test_every_row_is_there_and_the_file_is_untouched(shell, database_url):
    before = hashlib.sha256((shell.state / "ragtune.db").read_bytes()).hexdigest()
    found = shell.json("database", "copy", "--to", database_url)
    copied = of_server(database_url)
    assert copied == of_file(shell)
    assert {row["table"]: row["rows"] for row in found["tables"]} == {name: len(rows) for name, rows in copied.items()}
    kept = ("documents", "chunks", "embeddings", "generations", "api_keys", "answers", "feedback")
    assert all(copied[name] for name in (*kept, "houses", "evaluations", "models", "jobs", "webhooks"))
    assert hashlib.sha256((shell.state / "ragtune.db").read_bytes()).hexdigest() == before


def test_the_service_goes_on_where_it_was(shell, database_url, tmp_path):
    here = shell.json("search", QUESTION)
    shell("database", "copy", "--to", database_url)
    settings = Settings.load(state_dir=shell.state, database_url=database_url)
    with Workspace(settings, embedder=HashEmbedder(), generator=shell.generator, model=MODEL) as moved:
        found = moved.retriever.search(QUESTION, top_k=len(here["passages"]))
        assert [p.chunk.document_id for p in found] == [p["document_id"] for p in here["passages"]]
        assert moved.ingestor.status("default")["up_to_date"]
        known = set(moved.store.chunks.keys("default"))
        with Store.open(shell.state / "ragtune.db") as old:
            given = (
                old._database._engine.raw_connection()
                .execute("SELECT seq FROM sqlite_sequence WHERE name = 'chunks'")
                .fetchone()[0]
            )
        (tmp_path / "new.md").write_text("# New\n\nIt came after the move.\n")
        assert moved.ingestor.ingest("default", [tmp_path / "new.md"]).indexed
        added = set(moved.store.chunks.keys("default")) - known
        assert added
        assert min(added) > given, "a key was given out twice"


def test_a_database_that_is_not_empty_is_refused(shell, database_url):
    with Store.open(database_url) as store:
        store.models.add(Model("other", "/other.gguf", "other", "other.gguf", "1" * 64, "llama"))
    before = of_server(database_url)
    said = shell("database", "copy", "--to", database_url, code=1).output
    assert "not empty" in said
    assert "models" in said
    assert of_server(database_url) == before


def test_a_second_copy_is_refused(shell, database_url):
    shell("database", "copy", "--to", database_url)
    assert "not empty" in shell("database", "copy", "--to", database_url, code=1).output


def test_a_copy_that_is_stopped_leaves_nothing(shell, database_url):
    before = of_server(database_url)

    def stop(progress):
        if progress.done > progress.total // 2:
            raise JobCancelled("asked to stop")

    with Store.open(shell.state / "ragtune.db") as source, Store.open(database_url) as target:
        with pytest.raises(JobCancelled):
            source.copy_to(target, stop)
        assert of_server(database_url) == before
        assert sum(one.rows for one in source.copy_to(target, lambda _: None)) > 20


def test_a_running_server_keeps_its_database(shell, database_url):
    with shell.open() as workspace, workspace.lock("http://127.0.0.1:8000"):
        said = shell("database", "copy", "--to", database_url, code=1).output
    assert "http://127.0.0.1:8000" in said
    assert of_server(database_url)["documents"] == []


def test_the_password_is_never_told(shell, postgres, database_url):
    down = f"postgresql://ragtune:secret-word@127.0.0.1:{free_port()}/ragtune"
    wrong = postgres.url("ragtune", "secret-word")
    for address in (down, wrong, "mysql://ragtune:secret-word@host/ragtune", "postgresql://ragtune:secret-word@[bad"):
        said = shell("--verbose", "database", "copy", "--to", address, code=1).output
        assert "error" in said
        assert "secret-word" not in said


def test_nothing_to_copy_is_said(tmp_path, generator, database_url):
    empty = Shell(tmp_path / "nowhere", generator)
    assert "no database" in empty("database", "copy", "--to", database_url, code=1).output
    assert not (tmp_path / "nowhere").exists()
