"""Secrets go where they are used and nowhere else: not into logs, answers, errors, jobs, the audit log or metrics."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from data.errors import RagtuneError
from data.store.database import Database
from service.jobs import run_job, submit
from service.server_log import server_log
from service.webhooks import WebhookSender
from tests.service.conftest import open_client

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
DEAD = "http://127.0.0.1:9"
"""Nobody listens there."""


def mark(name: str) -> str:
    return f"zq{name}canary7f3"


def sent_by_clients(client, key):
    """Send what clients send, rightly and wrongly, with their secrets; yield each answer."""
    right = {"Authorization": f"Bearer {key}", "Cookie": f"session={mark('cookie')}"}
    wrong = {"Authorization": f"Bearer {mark('wrong')}", "Proxy-Authorization": f"Basic {mark('proxy')}"}
    for headers in (right, wrong, {}, {"Authorization": mark("bare")}, {"X-API-Key": mark("wrong")}):
        yield client.post("/v1/answers", json={"question": "When was the lighthouse of Orrin built?"}, headers=headers)
        yield client.post("/v1/answers", json={"question": 7, "api_key": 1}, headers=headers)
        for path in ("jobs", "audit", "keys", "webhooks", "documents", "adapters/none", "index", "nowhere"):
            yield client.get(f"/v1/{path}", headers=headers)
        yield client.post("/v1/documents", files={"files": ("a.md", b"# A\n\nA text.\n")}, headers=headers)
    yield client.get("/metrics", headers=right)
    yield client.get("/readyz")


def test_no_secret_is_told_or_logged(make_workspace, generator, tmp_path, capsys):
    names = ("settings", "teacher", "judge")
    given = dict(zip(("api_key", "teacher_api_key", "judge_api_key"), map(mark, names), strict=True))
    workspace = make_workspace(
        "indexed", **given, teacher_url=f"{DEAD}/v1", judge_url=f"{DEAD}/v1", webhook_networks="127.0.0.0/8"
    )
    admin = {"Authorization": f"Bearer {mark('settings')}"}
    log, told = tmp_path / "server.log", []
    with server_log(log, "DEBUG"), open_client(workspace, raise_server_exceptions=False) as client:
        hook = {"url": f"{DEAD}/{mark('path')}?token={mark('query')}"}
        made = client.post("/v1/webhooks", json=hook, headers=admin).json()
        key = client.post("/v1/keys", json={"name": "ada", "scopes": ["admin"]}, headers=admin).json()["key"]
        for kind in ("verify", "pairs"):
            job = run_job(workspace, submit(workspace.store, kind, {"collection": "default"}).id)
            told.append(f"{job.status} {job.error} {job.outputs}")
        assert "failed" in told[-1], "the teacher was asked and is not there"
        assert WebhookSender(workspace).deliver_due() > 0
        # An administrator may read the address of a webhook, whole.
        told += [answer.text.replace(hook["url"], f"{DEAD}/") for answer in sent_by_clients(client, key)]
        generator.error = RuntimeError("unforeseen")
        told += [answer.text.replace(hook["url"], f"{DEAD}/") for answer in sent_by_clients(client, key)]
        assert f"{DEAD}/" in "".join(told), "the list of webhooks was read"
    told += [log.read_text(encoding="utf-8"), *capsys.readouterr()]
    assert "unforeseen" in told[-3], "the log was written"
    secrets = {name: mark(name) for name in (*names, "query", "cookie", "wrong", "proxy", "bare")}
    secrets |= {"a key": key, "a webhook's secret": made["secret"]}
    assert {name for name, secret in secrets.items() if any(secret in text for text in told)} == set()
    kept = b"".join(path.read_bytes() for path in workspace.state.root.rglob("*") if path.is_file())
    # Keys are hashed, and the settings' keys are in the environment alone; what is sent to others has to be kept.
    assert [name for name in ("a key", *names) if secrets[name].encode() in kept] == []


def test_a_failing_statement_is_logged_without_its_values(indexed, caplog):
    with (
        caplog.at_level(logging.DEBUG),
        closing(Database(indexed.state.db)) as database,
        pytest.raises(RagtuneError) as caught,
        database.write() as connection,
    ):
        connection.execute(sa.text("INSERT INTO nowhere VALUES (:secret)"), {"secret": mark("value")})
    causes = [caught.value, caught.value.__cause__, caught.value.__context__]
    assert "INSERT INTO nowhere" in "".join(map(str, causes))
    assert mark("value") not in "".join(map(str, causes)) + caplog.text


@pytest.mark.parametrize(
    ("environment", "arguments"),
    [
        ({"HF_TOKEN": mark("hub"), "HF_ENDPOINT": DEAD}, ["models", "add", "some/model"]),
        ({"RAGTUNE_DATABASE_URL": f"postgresql://ragtune:{mark('password')}@127.0.0.1:9/db"}, ["index", "status"]),
        ({"RAGTUNE_DATABASE_URL": f"postgresql://ragtune:{mark('password')}@127.0.0.1:9/db"}, ["doctor"]),
        (
            {"RAGTUNE_ENGINE_URL": f"{DEAD}/v1", "RAGTUNE_ENGINE_API_KEY": mark("engine"), "RAGTUNE_MODEL": "x"},
            ["ask", "Who?", "--mode", "base"],
        ),
    ],
)
def test_no_command_tells_what_it_was_given_in_its_environment(tmp_path, environment, arguments):
    state = {**os.environ, "RAGTUNE_STATE_DIR": str(tmp_path / "state"), "RAGTUNE_LOG_LEVEL": "DEBUG", **environment}
    command = [sys.executable, "-m", "service.cli", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=state, capture_output=True, text=True, timeout=300, check=False)
    told = done.stdout + done.stderr
    assert told.strip(), "it said something"
    assert "canary7f3" not in told
    left = [path for path in (tmp_path / "state").rglob("*") if path.is_file() and b"canary7f3" in path.read_bytes()]
    assert left == []
