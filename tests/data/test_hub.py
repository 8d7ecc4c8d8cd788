"""Fetching from a hub: a small fake one on this machine, through the real client library."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # a fresh process for each fetch

COMMIT = "a" * 40
FILES = {
    "org/whole": {
        "config.json": b'{"architectures": ["Qwen2ForCausalLM"]}',
        "tokenizer.json": b"{}",
        "model.safetensors": b"weights",
        "pytorch_model.bin": b"pickle",
        "modeling_evil.py": b"import os",
    },
    "org/pickled": {"config.json": b"{}", "pytorch_model.bin": b"pickle"},
    "org/some-GGUF": {
        "some-Q4_K_M.gguf": b"GGUF four",
        "some-Q8_0.gguf": b"GGUF eight",
        "some-q4_k_s.gguf": b"GGUF small",
        "README.md": b"# some",
    },
}
ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, sys
from data.errors import RagtuneError
from data.hub import fetch
try:
    path = fetch(sys.argv[1])
    files = {f.name: f.read_text() for f in ([path] if path.is_file() else path.iterdir())}
    print(json.dumps({"files": files}))
except RagtuneError as error:
    print(json.dumps({"error": error.type, "text": str(error)}))
"""


class Handler(BaseHTTPRequestHandler):
    """The few endpoints that a snapshot download needs."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        repo = next((name for name in FILES if f"/{name}/" in f"{path}/"), None)
        if path.startswith("/api/models/org/gated"):
            self.reply(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        elif repo is None:
            self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif path.startswith(f"/api/models/{repo}/tree/"):
            self.reply_json([self.entry(name, content) for name, content in FILES[repo].items()])
        elif path.startswith("/api/models/"):
            self.reply_json({"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES[repo]]})
        else:
            content = FILES[repo][path.rpartition("/")[2]]
            etag = hashlib.sha1(content).hexdigest()
            self.reply(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    @staticmethod
    def entry(name: str, content: bytes) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def reply_json(self, value: object) -> None:
        self.reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(hub_id: str, endpoint: str, home: Path, **environment: str) -> dict[str, Any]:
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, hub_id],
        cwd=ROOT,
        env={**os.environ, **settings, "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return answer


def test_a_folder_comes_without_pickles_and_code_and_is_kept(endpoint: str, tmp_path: Path) -> None:
    expected = {
        name: FILES["org/whole"][name].decode() for name in ("config.json", "tokenizer.json", "model.safetensors")
    }
    assert fetch("org/whole", endpoint, tmp_path) == {"files": expected}
    assert fetch("org/whole", endpoint, tmp_path, HF_HUB_OFFLINE="1") == {"files": expected}
    assert fetch("org/whole", "http://127.0.0.1:9", tmp_path) == {"files": expected}


@pytest.mark.parametrize("kind", ["q4_k_m", "Q4_K_M"])
def test_the_one_gguf_of_a_type_comes(endpoint: str, tmp_path: Path, kind: str) -> None:
    assert fetch(f"org/some-GGUF:{kind}", endpoint, tmp_path) == {"files": {"some-Q4_K_M.gguf": "GGUF four"}}


@pytest.mark.parametrize(
    ("hub_id", "error", "says"),
    [
        ("org/none", "hub-error", "org/none"),
        ("org/gated", "hub-error", "licence"),
        ("org/pickled", "invalid-model", "safetensors"),
        ("org/some-GGUF", "invalid-model", "name the type"),
        ("org/some-GGUF:q2_k", "invalid-model", "q2_k"),
    ],
)
def test_what_cannot_be_had_is_explained(endpoint: str, tmp_path: Path, hub_id: str, error: str, says: str) -> None:
    answer = fetch(hub_id, endpoint, tmp_path)
    assert answer["error"] == error
    assert says in answer["text"]


def test_no_hub_and_no_copy_is_explained(endpoint: str, tmp_path: Path) -> None:
    for answer in (
        fetch("org/whole", "http://127.0.0.1:9", tmp_path),
        fetch("org/whole", endpoint, tmp_path, HF_HUB_OFFLINE="1"),
    ):
        assert answer["error"] == "hub-error"
        assert "HF_HUB_OFFLINE" in answer["text"]
