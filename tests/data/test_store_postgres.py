"""What only a server shows: several stores at once, a server that goes and comes back, and its schema."""

from __future__ import annotations

import logging
import signal
import threading
import time

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from data.errors import Conflict, DatabaseUnavailable, InvalidRequest, JobCancelled, StorageCorrupt
from data.store import Store, schema
from data.store.database import Database
from data.store.migrate import config
from data.store.server import connect_to
from tests.postgres import running_server

pytestmark = pytest.mark.slow

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010")


def engine_of(url):
    return sa.create_engine(url) if str(url).startswith("sqlite") else connect_to(sa.make_url(url), None)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request, tmp_path):
    """The address of a database without tables."""
    return (
        f"sqlite:///{tmp_path / 'old.db'}" if request.param == "sqlite" else request.getfixturevalue("new_database_url")
    )


def together(work, count=8):
    """Run ``work(number)`` in threads at once and return what it returned or raised."""
    results = [None] * count
    start = threading.Barrier(count)

    def run(number):
        start.wait()
        try:
            results[number] = work(number)
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture
def stores(database_url):
    """Four stores with connections of their own, as four servers have them."""
    opened = [Store.open(database_url) for _ in range(4)]
    yield opened
    for store in opened:
        store.close()


@pytest.mark.parametrize("revision", [None, *REVISIONS])
def test_every_older_schema_becomes_the_present_one_with_its_documents(empty_url, revision):
    engine = engine_of(empty_url)
    with engine.begin() as connection:
        if revision is not None:
            run = config()
            run.attributes["connection"] = connection
            command.upgrade(run, revision)
            values = "('d1', 'default', 'a.txt', 'A', 'text/plain', 's', 5, 1, 'f', 1.0, '{}', 'Alpha')"
            columns = "id, collection, source, title, media_type, sha256, size, chunks, settings_fingerprint"
            connection.execute(sa.text(f"INSERT INTO documents ({columns}, created_at, meta, text) VALUES {values}"))
            names = ("id", "collection", "question", "created_at")
            answers = sa.table("answers", *map(sa.column, names), sa.column("answer", sa.JSON))
            answer = {"passages": [], "citations": [], "adapters": ["a@1"]}
            connection.execute(sa.insert(answers).values(("x", "default", "q", 1.0, answer)))
            vectors = "INSERT INTO embeddings (fingerprint, text_hash, vector) VALUES ('f', 'h', :vector)"
            connection.execute(sa.text(vectors), {"vector": b"v"})
    with Store.open(empty_url) as store:
        assert store.collections.names() == ["default"]
        assert store.documents.count() == (0 if revision is None else 1)
        if revision is not None:
            assert store.documents.get("d1").text == "Alpha"
            assert store.embeddings.get_many("f", ["h", "i"]) == {"h": b"v"}
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()


def test_stores_that_open_an_empty_database_at_once_migrate_it_once(new_database_url):
    def use(_number):
        with Store.open(new_database_url) as store:
            return store.collections.names()

    assert together(use) == [["default"]] * 8


def test_a_database_of_a_newer_version_is_refused_until_it_is_ours(postgres, new_database_url):
    Database(new_database_url).close()
    with Store.open(new_database_url) as store:
        assert store.collections.names() == ["default"]
    engine = engine_of(new_database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with Store.open(new_database_url) as store:
        with pytest.raises(StorageCorrupt, match="9999"):
            store.collections.names()
        with engine.begin() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = '0011'"))
        assert store.collections.names() == ["default"]
    engine.dispose()


def test_tables_that_are_not_those_of_their_revision_are_told(new_database_url):
    with Store.open(new_database_url) as store:
        assert store.collections.names() == ["default"]
    engine = engine_of(new_database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0010'"))
    engine.dispose()
    with Store.open(new_database_url) as store, pytest.raises(StorageCorrupt, match="0010") as raised:
        store.collections.names()
    assert "already exists" in str(raised.value.got)


def test_a_job_is_taken_by_one_of_many_stores(stores):
    created = [stores[0].jobs.create("ingest", {"n": n}).id for n in range(40)]

    def work(number):
        taken = []
        while job := stores[number % 4].jobs.claim(f"w{number}", 60):
            taken.append(job.id)
        return taken

    taken = [job for mine in together(work) for job in mine]
    assert sorted(taken) == sorted(created)
    assert {job.status for job in stores[0].jobs.list(limit=100)} == {"running"}


def test_a_named_job_starts_once(stores):
    job = stores[0].jobs.create("ingest", {})
    results = together(lambda number: stores[number % 4].jobs.claim_one(job.id, f"w{number}", 60).status)
    assert results.count("running") == 1
    assert sum(isinstance(result, Conflict) for result in results) == 7


def test_a_claim_does_not_wait_for_another_one_that_is_under_way(stores, database_url):
    first, second = (stores[0].jobs.create("ingest", {"n": n}).id for n in range(2))
    other = Database(database_url)
    with other.write(alone=False) as connection:
        connection.execute(sa.select(schema.jobs).where(schema.jobs.c.id == first).with_for_update())
        assert stores[1].jobs.claim("w", 60).id == second
        assert stores[1].jobs.claim("w", 60) is None
    other.close()
    assert stores[1].jobs.claim("w", 60).id == first


def test_a_worker_that_died_is_noticed_by_another_store_and_cannot_end_the_job_after_all(stores):
    job = stores[0].jobs.create("ingest", {})
    assert stores[0].jobs.claim("dead", 0.05).id == job.id
    time.sleep(0.1)
    assert together(lambda number: stores[number % 4].jobs.interrupt_expired()).count([job.id]) == 1
    stores[1].jobs.requeue(job.id)
    assert stores[2].jobs.claim("alive", 60).id == job.id
    with pytest.raises(JobCancelled):
        stores[0].jobs.heartbeat(job.id, worker="dead")
    with pytest.raises(Conflict):
        stores[0].jobs.finish(job.id, "succeeded", {}, worker="dead")
    assert stores[3].jobs.finish(job.id, "succeeded", {}, worker="alive").status == "succeeded"


def test_a_notice_is_delivered_by_one_of_many_stores(stores):
    stores[0].webhooks.add("https://example.com/hook")
    for _ in range(3):
        job = stores[0].jobs.create("ingest", {})
        stores[0].jobs.claim("w", 60)
        stores[0].jobs.finish(job.id, "succeeded", {})
    now = time.time() + 1
    taken = [due.notice.id for found in together(lambda n: stores[n % 4].webhooks.due(now)) for due in found]
    assert len(taken) == len(set(taken)) == 3
    assert stores[1].webhooks.due(now) == []
    assert len(stores[1].webhooks.due(now + 120)) == 3  # whoever took them may have died


def test_one_idempotency_key_makes_one_job(stores):
    made = together(lambda number: stores[number % 4].jobs.create("ingest", {"a": 1}, "key").id)
    assert len(set(made)) == 1
    assert len(stores[0].jobs.list()) == 1


def test_events_of_a_job_are_numbered_without_gap(stores):
    from data.records import Progress

    job = stores[0].jobs.create("ingest", {})
    stores[0].jobs.claim("w", 60)
    together(lambda n: [stores[n % 4].jobs.heartbeat(job.id, Progress(n * 10 + i, 100), "w") for i in range(5)])
    assert [number for number, _ in stores[0].jobs.events(job.id)] == list(range(1, 43))


def test_generations_get_numbers_of_their_own(stores):
    numbers = together(lambda number: stores[number % 4].generations.begin("default", {}))
    assert sorted(numbers) == list(range(1, 9))


def test_a_limit_is_exact_over_all_stores(stores):
    started = time.monotonic()

    def ask(number):
        held = (
            stores[number % 4].buckets.draw("k", {"requests": 30, "tokens": 5}, {"requests": 1.0}, 1.0)
            for _ in range(10)
        )
        return sum(left["requests"] >= 1 for left in held)

    admitted = sum(together(ask))
    refilled = (time.monotonic() - started) * 30 / 60
    assert 30 <= admitted <= 30 + refilled
    stores[0].buckets.draw("k", {"tokens": 5}, {"tokens": 12.0})
    assert stores[1].buckets.draw("k", {"tokens": 5}, {})["tokens"] < -5
    lowered = stores[2].buckets.draw("new", {"requests": 100}, {"requests": 1.0})
    assert lowered == {"requests": 100.0}
    assert stores[3].buckets.draw("new", {"requests": 10}, {})["requests"] == 10


def test_the_log_of_stages_cannot_be_rewritten(stores, database_url):
    stores[0].generations.fail("default", stores[0].generations.begin("default", {}), "broken")
    assert len(stores[0].stages.list()) == 1
    database = Database(database_url)
    for statement in ("DELETE FROM stage_log", "UPDATE stage_log SET actor = 'nobody'", "TRUNCATE stage_log"):
        with pytest.raises(Conflict, match="append-only"), database.write() as connection:
            connection.execute(sa.text(statement))
    database.close()
    assert len(stores[0].stages.list()) == 1


def test_a_reader_sees_one_moment(stores, database_url):
    database = Database(database_url)
    query = sa.select(sa.func.count()).select_from(schema.collections)
    with database.read() as connection:
        before = connection.execute(query).scalar_one()
        stores[0].collections.ensure("later")
        assert connection.execute(query).scalar_one() == before
    database.close()


def test_a_character_that_postgresql_has_not_is_refused_by_name(stores):
    with pytest.raises(InvalidRequest, match="NUL"):
        stores[0].keys.create("a\x00b")


def test_backups_of_a_server_are_its_own_matter(stores, tmp_path):
    with pytest.raises(InvalidRequest, match="pg_dump"):
        stores[0].snapshot(tmp_path / "copy.db")
    stores[0].check()
    stores[0].compact()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_server_that_is_down_is_said_and_recovers_alone(how, caplog):
    with running_server() as server:
        url = server.url(server.create())
        server.stop()
        with Store.open(url) as store:  # nothing is connected to yet
            with pytest.raises(DatabaseUnavailable, match="refused"):
                store.collections.names()
            server.start()
            assert store.collections.names() == ["default"]
            kept = store.jobs.create("ingest", {}).id
            server.stop(how)
            with pytest.raises(DatabaseUnavailable):
                store.jobs.create("ingest", {})
            server.start()
            assert [job.id for job in store.jobs.list()] == [kept]
        assert server.password not in caplog.text


def test_a_server_that_goes_in_the_middle_of_a_transaction_leaves_nothing_of_it(caplog):
    with running_server() as server:
        database = Database(server.url(server.create()))

        def write():
            with database.write() as connection:
                connection.execute(sa.insert(schema.embeddings).values(fingerprint="f", text_hash="h", vector=b"v"))
                server.stop(signal.SIGKILL)
                connection.execute(sa.insert(schema.embeddings).values(fingerprint="f", text_hash="i", vector=b"v"))

        with database.read():
            pass
        with pytest.raises(DatabaseUnavailable):
            write()
        server.start()
        with database.read() as connection:
            assert connection.execute(sa.select(sa.func.count()).select_from(schema.embeddings)).scalar_one() == 0
        database.close()


def test_credentials_are_never_told(postgres, migrated_database, caplog):
    caplog.set_level(logging.DEBUG)
    store = Store.open(postgres.url(migrated_database, "wrong-secret"))
    with store, pytest.raises(DatabaseUnavailable, match="authentication") as refused:
        store.collections.names()
    with pytest.raises(InvalidRequest) as bad_port:
        Store.open("postgresql://ragtune:wrong-secret@host:port/db")
    with pytest.raises(InvalidRequest) as bad_driver:
        Store.open("postgresql+nosuch://ragtune:wrong-secret@host/db")
    for error in (refused.value, bad_port.value, bad_driver.value):
        assert "wrong-secret" not in f"{error} {error.got} {error.__cause__}"
    assert "wrong-secret" not in caplog.text
