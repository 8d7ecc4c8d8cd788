"""Signals to a real command: what a terminal, a supervisor and ``kill`` send."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data.store import Store
from tests.service.parts import DOCUMENTS, wait_until

pytestmark = pytest.mark.slow  # a real command that loads the embedder

ROOT = Path(__file__).parents[2]
COMMAND = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import service.cli as c; c.main()"
"""A background process of a shell ignores Ctrl-C; one in a terminal does not."""


def running_jobs(database: Path) -> list[str]:
    """Return the ids of the jobs that run."""
    if not database.exists():
        return []
    with Store.open(database) as store:
        return [job.id for job in store.jobs.list("running", 1)]


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_job_of_a_command_too(tmp_path: Path, sig: signal.Signals) -> None:
    """A row that stayed "running" would be taken up by the next server, uninvited."""
    documents = tmp_path / "documents"
    documents.mkdir()
    for name, text in DOCUMENTS.items():
        (documents / name).write_text(text, encoding="utf-8")
    database = tmp_path / "state" / "ragtune.db"
    environment = {**os.environ, "RAGTUNE_STATE_DIR": str(tmp_path / "state")}
    command = [sys.executable, "-c", COMMAND, "ingest", str(documents)]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: process.poll() is not None or running_jobs(database), 60)
        (job_id,) = running_jobs(database)
        process.send_signal(sig)
        _, shown = process.communicate(timeout=60)
    with Store.open(database) as store:
        assert store.jobs.get(job_id).status == "cancelled"
    assert process.returncode == 130
    assert f"run again: ragtune ingest {documents}" in shown.replace("\n", "")


def test_the_command_line_is_also_a_module() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "service.cli", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert shown.stdout.startswith("ragtune ")
