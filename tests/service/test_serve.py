from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from data.errors import InvalidRequest, PortTaken, StateLocked
from service.serve import bind, check_exposure, serve
from service.settings import Settings
from tests.service.parts import wait_until

pytestmark = pytest.mark.slow  # real server processes

ROOT = Path(__file__).parents[2]


def test_beyond_this_machine_a_key_is_needed():
    public = Settings.load(host="0.0.0.0")
    with pytest.raises(InvalidRequest, match="API key"):
        check_exposure(public, lambda: False)
    check_exposure(public, lambda: True)
    check_exposure(Settings.load(host="0.0.0.0", api_key="k"), lambda: False)
    check_exposure(Settings.load(), lambda: False)


def test_a_taken_port_is_told_before_anything_starts(make_workspace):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=str(port)):
            serve(make_workspace(port=port))


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(InvalidRequest):
        bind("203.0.113.1", 0)


def test_a_state_directory_in_use_is_told(make_workspace):
    workspace = make_workspace(port=0)
    with workspace.lock("http://127.0.0.1:1"), pytest.raises(StateLocked, match=r"http://127\.0\.0\.1:1"):
        serve(workspace)


SERVER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from service.serve import serve
from service.settings import Settings
from service.workspace import Workspace
from tests.service.parts import MODEL, HashEmbedder, ScriptedGenerator

workspace = Workspace(Settings.load(), embedder=HashEmbedder(), generator=ScriptedGenerator(), model=MODEL)
serve(workspace, on_ready=lambda url: print(url, flush=True))
print("stopped", flush=True)
"""


SLOW = """
import time
from tests.service import parts

class Slow(parts.ScriptedGenerator):
    def stream(self, request):
        for delta in super().stream(request):
            time.sleep(0.05)
            yield delta

    def __init__(self):
        super().__init__(lambda request: " ".join(["word"] * 400))

parts.ScriptedGenerator = Slow
"""


@pytest.fixture
def server(tmp_path, request):
    environment = {**os.environ, "RAGTUNE_STATE_DIR": str(tmp_path / "state"), "RAGTUNE_PORT": "0"}
    command = [sys.executable, "-c", getattr(request, "param", "") + SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_in_order(server, sig):
    process, url = server
    assert httpx.get(f"{url}/healthz", timeout=30).json() == {"status": "ok"}
    process.send_signal(sig)
    assert process.wait(20) == 0
    assert process.stdout.read().strip() == "stopped"


@pytest.mark.parametrize("server", [SLOW], indirect=True, ids=["slow"])
def test_a_client_that_is_being_answered_is_told_that_the_server_stops(server):
    process, url = server
    asked = {"question": "Is it long?", "mode": "base", "max_tokens": 4096}
    with ThreadPoolExecutor(1) as aside:
        whole = aside.submit(httpx.post, f"{url}/v1/answers", json=asked, timeout=60)
        with httpx.stream("POST", f"{url}/v1/answers", json={**asked, "stream": True}, timeout=60) as answer:
            lines = []
            for line in answer.iter_lines():
                lines.append(line)
                if lines.count("event: token") == 1 and line.startswith("data"):
                    process.send_signal(signal.SIGTERM)
        assert [line for line in lines if line.startswith("event")][-1] == "event: error"
        assert json.loads(lines[-2].removeprefix("data: "))["type"] == "engine-unavailable"
        refused = whole.result()
    assert (refused.status_code, refused.json()["type"]) == (503, "engine-unavailable")
    assert "retry-after" in refused.headers
    assert process.wait(20) == 0


def test_a_killed_server_leaves_its_state_to_the_next(server, make_workspace):
    process, url = server
    job = httpx.post(f"{url}/v1/index/rebuild", json={}, timeout=30).json()
    assert "job_id" in job
    process.kill()
    process.wait()
    workspace = make_workspace()

    def lock_is_free() -> bool:
        try:
            with workspace.lock():
                return True
        except StateLocked:  # by a job's process that has not noticed yet
            return False

    wait_until(lock_is_free, 10)
    assert json.dumps(workspace.store.jobs.get(job["job_id"]).inputs) == '{"collection": "default"}'


@pytest.mark.slow
def test_no_job_outlives_its_server(server):
    """The child would write on in a state directory that nobody holds; it is loading the embedder here."""
    process, url = server
    files = [("files", ("a.md", b"# A\n\nSome text about amber.\n"))]
    job_id = httpx.post(f"{url}/v1/documents", files=files, timeout=30).json()["job_id"]
    wait_until(lambda: httpx.get(f"{url}/v1/jobs/{job_id}", timeout=30).json()["status"] != "queued")
    (child,) = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    _gone, alive = psutil.wait_procs([child], timeout=15)
    assert alive == []


def test_what_is_accepted_sends_at_once():
    """Without it the body of a reply waits for the client to acknowledge its headers, up to 40 ms."""
    with bind("127.0.0.1", 0) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
