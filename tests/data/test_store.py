import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import data
from data.errors import InsufficientStorage, InvalidRequest, StateNotWritable, StorageCorrupt, UnknownCollection
from data.store import Store, schema
from data.store.database import HEAD, JOURNAL, Database
from data.store.migrate import MIGRATIONS, config, head

ROOT = Path(data.__file__).parents[1]


def python(code: str, *arguments: object, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def migrate(path: Path, revision: str) -> sa.Engine:
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        run = config()
        run.attributes["connection"] = connection
        command.upgrade(run, revision)
    return engine


def test_migrations_make_the_tables_that_the_schema_describes(tmp_path):
    engine = migrate(tmp_path / "migrated.db", "head")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()


def described(path: Path) -> dict[str, object]:
    """What a SQLite file says of its own tables, and the rows that a new one has."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        ask = lambda query: connection.execute(query).fetchall()  # noqa: E731
        found: dict[str, object] = {}
        for (table,) in ask("SELECT name FROM sqlite_master WHERE type = 'table'"):
            # By name: a migration adds its columns behind those that were there.
            found[table] = sorted(row[1:] for row in ask(f"PRAGMA table_info({table})"))
            found[table, "foreign"] = sorted(row[2:] for row in ask(f"PRAGMA foreign_key_list({table})"))
            own = ask(f"SELECT name, origin, \"unique\" FROM pragma_index_list('{table}')")
            found[table, "indexes"] = sorted(
                ("" if origin != "c" else name, origin, unique, [row[2] for row in ask(f"PRAGMA index_info({name})")])
                for name, origin, unique in own
            )
        found["own words"] = ask("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name")
        found["counted"] = sorted(
            name
            for name, sql in ask("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
            if "AUTOINCREMENT" in sql
        )
        found["rows"] = ask("SELECT name, current_generation, last_generation FROM collections")
        found["revision"] = ask("SELECT version_num FROM alembic_version")
    return found


def test_a_new_file_is_what_the_migrations_make(tmp_path, migrated):
    migrate(tmp_path / "migrated.db", "head").dispose()
    new, stepwise = described(migrated), described(tmp_path / "migrated.db")
    assert new.keys() == stepwise.keys()
    for name, what in stepwise.items():
        assert new[name] == what, name
    assert len(new["own words"]) == 2
    assert len(new["counted"]) > 5


def test_a_new_file_needs_no_alembic(tmp_path):
    code = "import sys; from data.store import Store; Store.open(sys.argv[1]).close(); print('alembic' in sys.modules)"
    with python(code, tmp_path / "new.db", cwd=tmp_path) as process:
        assert process.communicate()[0].strip() == "False"


def test_the_revision_that_skips_alembic_is_the_newest_one():
    assert head() == HEAD
    assert (MIGRATIONS / "env.py").is_file()


def test_an_older_database_is_migrated_with_its_documents(tmp_path):
    path = tmp_path / "old.db"
    engine = migrate(path, "0001")
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO documents (id, collection, source, title, media_type, sha256, size, chunks,"
                " settings_fingerprint, created_at, meta, text) VALUES ('d1', 'default', 'a.txt', 'A', 'text/plain',"
                " 's', 5, 1, 'f', 1.0, '{}', 'Alpha')"
            )
        )
        connection.execute(
            sa.text(
                'INSERT INTO chunks (id, document_id, collection, start, "end", page, heading, text)'
                " VALUES ('c1', 'd1', 'default', 0, 5, NULL, 'A', 'Alpha')"
            )
        )
    engine.dispose()
    with Store.open(path) as store:
        assert store.documents.get("d1").text == "Alpha"
        row = store.documents.row("d1")
        assert (row.tags, row.modified_at) == ((), 0.0)
        assert [chunk.id for chunk in store.chunks.of_document("d1")] == ["c1"]


def test_an_older_database_keeps_its_vectors(tmp_path):
    path = tmp_path / "old.db"
    engine = migrate(path, "0010")
    vectors = {f"{n:064x}": n.to_bytes(8, "big") for n in range(2500)}
    with engine.begin() as connection:
        insert = sa.text("INSERT INTO embeddings (fingerprint, text_hash, vector) VALUES (:f, :h, :v)")
        connection.execute(insert, [{"f": f, "h": h, "v": v} for f in "ab" for h, v in vectors.items()])
    engine.dispose()
    with Store.open(path) as store:
        assert store.embeddings.get_many("a", vectors) == vectors == store.embeddings.get_many("b", vectors)
        store.embeddings.put_many("b", {**dict.fromkeys(vectors, b"another"), "new": b"1"})
        assert store.embeddings.count("b") == 2501
        assert store.embeddings.get_many("b", vectors) == vectors


def test_new_store_has_the_default_collection(store):
    assert store.collections.names() == ["default"]
    assert store.collections.current_generation("default") is None


def test_unknown_collection_is_named(store):
    with pytest.raises(UnknownCollection, match="nowhere"):
        store.collections.current_generation("nowhere")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "-x", "a" * 65, "a\x00b"])
def test_collection_names_that_are_no_folder_are_refused(store, name):
    with pytest.raises(InvalidRequest):
        store.collections.ensure(name)
    assert store.collections.names() == ["default"]


def test_chinese_collection_name(store):
    store.collections.ensure("知识库")
    store.collections.ensure("知识库")
    assert store.collections.names() == ["default", "知识库"]


def test_opening_makes_the_folder(tmp_path):
    with Store.open(tmp_path / "new" / "folder" / "ragtune.db") as opened:
        assert opened.collections.names() == ["default"]


def test_address_may_be_a_url(tmp_path, migrated):
    with Store.open(f"sqlite:///{migrated}") as opened:
        assert opened.collections.names() == ["default"]
    with pytest.raises(InvalidRequest):
        Store.open("nosuch://host/database")


def test_file_that_is_no_database_is_reported_and_left_alone(tmp_path):
    path = tmp_path / "ragtune.db"
    path.write_bytes(b"this is not a database, whatever its name says" * 50)
    before = path.read_bytes()
    with pytest.raises(StorageCorrupt):
        Store.open(path)
    assert path.read_bytes() == before


def test_damaged_page_is_found(database_path):
    with Store.open(database_path) as opened:
        opened.check()
    content = bytearray(database_path.read_bytes())
    content[4096 * 3 : 4096 * 9] = b"\xa5" * (4096 * 6)
    database_path.write_bytes(content)
    with pytest.raises(StorageCorrupt), Store.open(database_path) as opened:
        opened.check()


def test_database_of_a_newer_version_is_refused(database_path):
    connection = sqlite3.connect(database_path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    with pytest.raises(StorageCorrupt, match="9999"):
        Store.open(database_path)


def test_tables_that_are_not_those_of_their_revision_are_told_and_stay(database_path):
    """As a migration leaves them that was stopped half-way by something that knows no transactions."""
    with sqlite3.connect(database_path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0010'")
    before = sqlite3.connect(database_path).execute("SELECT name, sql FROM sqlite_master").fetchall()
    with pytest.raises(StorageCorrupt, match="0010") as raised:
        Store.open(database_path)
    assert "already exists" in str(raised.value.got)
    assert "backup" in raised.value.hint
    assert sqlite3.connect(database_path).execute("SELECT name, sql FROM sqlite_master").fetchall() == before


def test_path_that_is_a_folder_is_reported(tmp_path):
    with pytest.raises(StateNotWritable):
        Store.open(tmp_path)


def test_parent_that_is_a_file_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateNotWritable):
        Store.open(tmp_path / "file" / "ragtune.db")


def test_full_disk_is_reported_and_nothing_is_half_written(database_path):
    database = Database(database_path)
    insert = sa.insert(schema.embeddings)

    def fill():
        with database.write() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")
            connection.execute(insert.values(fingerprint="f", text_hash="small", vector=b"1"))
            connection.execute(insert.values(fingerprint="f", text_hash="large", vector=bytes(10**7)))

    with pytest.raises(InsufficientStorage):
        fill()
    database.close()
    with Store.open(database_path) as opened:
        assert opened.embeddings.count("f") == 0


def test_half_a_surrogate_pair_is_refused(store):
    with pytest.raises(InvalidRequest, match="surrogate"):
        store.jobs.create("ingest", {}, idempotency_key="\ud800")


def test_number_beyond_64_bits_is_refused(store):
    with pytest.raises(InvalidRequest, match="64-bit"):
        store.adapters.get("style", 10**30)


def test_commits_are_synced_and_foreign_keys_hold(database_path):
    database = Database(database_path)
    with database.read() as connection:
        values = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    database.close()
    assert values == [JOURNAL.lower(), 2, 1]


def test_only_a_write_that_says_so_is_not_synced(database_path):
    database = Database(database_path)

    def level(**how):
        with database.write(**how) as connection:
            return connection.exec_driver_sql("PRAGMA synchronous").scalar_one()

    found = [level(), level(synced=False), level()]
    database.close()
    assert found == [2, 1 if JOURNAL == "WAL" else 2, 2]


def test_threads_write_at_once(store):
    failures = []

    def work(number):
        try:
            for item in range(5):
                store.embeddings.put_many("f", {f"{number}-{item}": b"v", f"shared-{item}": b"v"})
                store.embeddings.get_many("f", [f"{number}-{item}"])
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.embeddings.count("f") == 8 * 5 + 5


CLAIM_ALL = """
import sys
from data.store import Store
with Store.open(sys.argv[1]) as store:
    while job := store.jobs.claim("worker " + sys.argv[2], 60):
        store.jobs.finish(job.id, "succeeded", {"by": sys.argv[2]})
        print(job.id)
"""


@pytest.mark.skipif(JOURNAL != "WAL", reason="under a rollback journal a writer waits for readers")
def test_reads_that_belong_together_are_of_one_moment(tmp_path):
    path = tmp_path / "ragtune.db"
    with contextlib.closing(Store.open(path)) as store, contextlib.closing(Store.open(path)) as other:
        store.collections.ensure("first")
        with store.reading():
            before = store.collections.names()
            other.collections.ensure("second")
            with store.reading():
                assert store.collections.names() == before == ["default", "first"]
            assert store.collections.names() == before
            elsewhere: list[list[str]] = []
            thread = threading.Thread(target=lambda: elsewhere.append(store.collections.names()))
            thread.start()
            thread.join()
            assert elsewhere == [["default", "first", "second"]], "another thread's reads are its own"
        assert store.collections.names() == ["default", "first", "second"]
        with pytest.raises(UnknownCollection), store.reading():
            store.collections.current_generation("nothing")
        store.collections.ensure("third")
        assert "third" in store.collections.names(), "an error within leaves nothing held"


@pytest.mark.slow
def test_processes_that_open_a_new_store_at_once_share_its_jobs(tmp_path):
    # Nobody has made the database yet: both children race to migrate it.
    path = tmp_path / "elsewhere" / "ragtune.db"
    path.parent.mkdir()
    code = "import sys; from data.store import Store; Store.open(sys.argv[1]).jobs.create('ingest', {})"
    makers = [python(code, path, cwd=tmp_path) for _ in range(2)]
    assert [maker.wait() for maker in makers] == [0, 0]
    with Store.open(path) as opened:
        created = [opened.jobs.create("ingest", {"n": n}).id for n in range(10)]
        workers = [python(CLAIM_ALL, path, n, cwd=tmp_path) for n in range(2)]
        claimed = [worker.communicate()[0].split() for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0]
        both = claimed[0] + claimed[1]
        assert len(both) == 12
        assert len(set(both)) == 12
        assert set(created) <= set(both)
        assert {job.status for job in opened.jobs.list()} == {"succeeded"}
    for process in (*makers, *workers):
        process.communicate()


PUT_FOREVER = """
import sys
from itertools import count
from data.records import Chunk, Document
from data.store import Store
store = Store.open(sys.argv[1])
for n in count():
    text = f"document {n} " * 200
    pieces = [Chunk(f"{n}-{i}", str(n), text[i : i + 10], i, i + 10) for i in range(0, 1000, 10)]
    store.documents.put("default", Document(str(n), f"{n}.txt", "", text, "text/plain"), "0", pieces)
    print(n, flush=True)
"""


def test_acknowledged_documents_survive_a_killed_writer(database_path, tmp_path):
    process = python(PUT_FOREVER, database_path, cwd=tmp_path)
    acknowledged = [process.stdout.readline().strip() for _ in range(5)]
    process.kill()
    acknowledged += process.communicate()[0].split()
    with Store.open(database_path) as opened:
        opened.check()
        rows = opened.documents.by_source("default").values()
        assert {row.id for row in rows} >= set(acknowledged)
        for row in rows:
            assert len(opened.chunks.of_document(row.id)) == row.chunks == 100


@pytest.mark.parametrize("word", [b"CREATE TABLE documents", b"CREATE INDEX ix_documents_filter"])
def test_a_schema_that_is_no_text_is_damage(sqlite_store, database_path, word):
    """SQLite puts the broken text into its own message, which then is no UTF-8."""
    sqlite_store.close()
    content = database_path.read_bytes()
    assert word in content
    database_path.write_bytes(content.replace(word, word[:-5] + b"\x89" + word[-4:]))
    with pytest.raises(StorageCorrupt), Store.open(database_path) as damaged:
        damaged.check()


def test_a_row_that_is_no_text_is_damage(sqlite_store, database_path):
    sqlite_store.keys.create("laptop of Ada")
    sqlite_store.close()
    database_path.write_bytes(database_path.read_bytes().replace(b"laptop of Ada", b"laptop \xff\xfe Ada"))
    with pytest.raises(StorageCorrupt), Store.open(database_path) as damaged:
        damaged.keys.list()


def test_a_column_that_is_no_json_is_damage(sqlite_store, database_path):
    sqlite_store.keys.create("laptop")
    sqlite_store.close()
    database_path.write_bytes(database_path.read_bytes().replace(b'["admin"]', b'["admin"}'))
    with pytest.raises(StorageCorrupt), Store.open(database_path) as damaged:
        damaged.keys.list()
