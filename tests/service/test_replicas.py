"""Two servers over one PostgreSQL and one state directory: real processes, killed and cut off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from data.store import KeyGrant, Store
from tests.postgres import running_server
from tests.service.parts import wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
KEY = "rt-replicas"
SERVER = """
from service.serve import serve
from service.settings import Settings
from service.workspace import Workspace
from tests.service.parts import MODEL, ScriptedGenerator

workspace = Workspace(Settings.load(), generator=ScriptedGenerator(), model=MODEL)
serve(workspace, on_ready=lambda url: print(url, flush=True))
"""


@contextmanager
def replica(state, database_url):
    """Run a server; yields its process and a client of it."""
    environment = {
        **os.environ, "RAGTUNE_STATE_DIR": str(state), "RAGTUNE_PORT": "0", "RAGTUNE_API_KEY": KEY,
        "RAGTUNE_DATABASE_URL": database_url,
    }  # fmt: skip
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
    ) as process:
        try:
            url = process.stdout.readline().strip()
            assert url, process.stderr.read()
            with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=120) as client:
                yield process, client
        finally:
            process.kill()


@pytest.fixture
def server():
    with running_server() as running:
        yield running


def upload(client, number):
    files = {"files": (f"{number}.txt", f"The answer of document {number} is number{number}.".encode())}
    response = client.post("/v1/documents", files=files)
    assert response.status_code == 202, response.text
    return response.json()["job_id"]


def status(client, job_id):
    return client.get(f"/v1/jobs/{job_id}").json()["status"]


def test_replicas_share_documents_jobs_keys_and_limits(server, tmp_path):
    url = server.url(server.create())
    with replica(tmp_path / "state", url) as (_, one), replica(tmp_path / "state", url) as (_, other):
        jobs = [upload((one, other)[number % 2], number) for number in range(2)]
        for job in jobs:
            wait_until(lambda job=job: status(other, job) == "succeeded", 300)
        for client in (one, other):
            found = client.post("/v1/search", json={"query": "number1", "method": "lexical"}).json()
            assert found["passages"][0]["source"] == "1.txt"
        with Store.open(url) as store:
            assert [store.jobs.attempts(job) for job in jobs] == [1] * 2
            assert store.documents.count() == 2
            _, secret = store.keys.create("limited", KeyGrant(requests_per_minute=12))
        started = time.monotonic()
        codes = _ask_both((one, other), secret, 15)
        elapsed_s = time.monotonic() - started
        assert set(codes) == {200, 429}
        assert 12 <= codes.count(200) <= 12 + elapsed_s * 12 / 60


def _ask_both(clients, secret, each):
    codes = []

    def ask(client):
        for _ in range(each):
            response = client.get("/v1/collections", headers={"Authorization": f"Bearer {secret}"})
            codes.append(response.status_code)

    threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return codes


def test_a_replica_that_is_killed_loses_no_acknowledged_document(server, tmp_path):
    url = server.url(server.create())
    with replica(tmp_path / "state", url) as (_, survivor):
        with replica(tmp_path / "state", url) as (process, doomed):
            jobs = [upload(doomed, number) for number in range(2)]
            process.send_signal(signal.SIGKILL)
        for job in jobs:
            # A job of the dead one waits for its lease: a minute where its child had not begun.
            wait_until(lambda job=job: status(survivor, job) == "succeeded", 400)
        for number in range(2):
            found = survivor.post("/v1/search", json={"query": f"number{number}", "method": "lexical"}).json()
            assert found["passages"][0]["source"] == f"{number}.txt"
        assert len(survivor.get("/v1/documents").json()["documents"]) == 2


def test_a_database_that_is_down_at_the_start_and_later_is_a_503_until_it_is_back(server, tmp_path):
    url = server.url(server.create())
    server.stop()
    with replica(tmp_path / "state", url) as (process, client):
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 503
        assert "ragtune_store_up 0.0" in client.get("/metrics").text
        refused = client.get("/v1/collections")
        assert (refused.status_code, refused.json()["type"]) == (503, "database-unavailable")
        assert refused.headers["Retry-After"]
        server.start()
        wait_until(lambda: client.get("/readyz").status_code == 200, 60)
        job = upload(client, 1)
        wait_until(lambda: status(client, job) == "succeeded", 300)
        server.stop(signal.SIGKILL)
        assert client.post("/v1/answers", json={"question": "number1?", "mode": "rag"}).status_code == 503
        server.start()
        wait_until(lambda: client.get("/readyz").status_code == 200, 60)
        assert client.post("/v1/search", json={"query": "number1", "method": "lexical"}).json()["passages"]
        process.terminate()
        assert process.wait(60) == 0
        assert server.password not in process.stderr.read()
