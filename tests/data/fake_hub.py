"""A hub on a socket: Hugging Face's and ModelScope's endpoints that a download needs, with ranges and with faults."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

COMMIT = "a" * 40
OLD = "b" * 40
WEIGHTS = bytes(range(256)) * 12_000  # 3 MB
FILES: dict[str, dict[str, bytes]] = {
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
    "org/large-GGUF": {"large-q4_k_m.gguf": WEIGHTS},
    "org/split-GGUF": {
        "q4/split-q4_k_m-00001-of-00002.gguf": b"GGUF one",
        "q4/split-q4_k_m-00002-of-00002.gguf": b"GGUF two",
        "q8/split-q8_0.gguf": b"GGUF eight",
    },
}
OLDER = {"org/whole": {**FILES["org/whole"], "model.safetensors": b"older weights"}}


class FakeHub:
    """What the server does wrong, and what it was asked."""

    def __init__(self) -> None:
        self.breaks_after: list[int] = []  # bytes after which the next answers close
        self.ranges = True
        self.wrong_bytes = False
        self.size_factor = 1
        self.asked: list[tuple[str, str]] = []  # path, range
        self.busy = 0
        self.url = ""

    def files(self, repo: str, revision: str) -> dict[str, bytes]:
        return OLDER[repo] if revision in (OLD, "v1") and repo in OLDER else FILES[repo]


def _git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _is_large(name: str) -> bool:
    return name.endswith((".gguf", ".safetensors"))


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.hub.asked.append((parts.path, self.headers.get("Range", "")))
        if parts.path.startswith("/api/v1/models/"):
            self.modelscope(parts.path.removeprefix("/api/v1/models/"), query)
        elif found := re.fullmatch(r"/api/models/(org/[\w-]+)(?:/revision/(\w+))?", parts.path):
            self.hugging_face(found[1], found[2] or COMMIT)
        elif found := re.fullmatch(r"/api/models/(org/[\w-]+)/tree/(\w+)", parts.path):
            self.tree(found[1], found[2])
        elif found := re.fullmatch(r"/(org/[\w-]+)/resolve/(\w+)/(.+)", parts.path):
            self.content(found[1], found[2], found[3])
        else:
            self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def hugging_face(self, repo: str, revision: str) -> None:
        if repo == "org/gated":
            self.reply(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        elif repo not in FILES:
            self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif revision not in (COMMIT, OLD, "main", "v1"):
            self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            entries = []
            for name, content in self.hub.files(repo, revision).items():
                size = len(content) * self.hub.size_factor
                entry: dict[str, Any] = {"rfilename": name, "size": size, "blobId": _git(content)}
                if _is_large(name):
                    digest = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"size": size, "sha256": digest, "pointerSize": 1}
                entries.append(entry)
            sha = OLD if revision in (OLD, "v1") else COMMIT
            self.reply_json({"id": repo, "sha": sha, "cardData": {"license": "apache-2.0"}, "siblings": entries})

    def tree(self, repo: str, revision: str) -> None:
        entries = []
        for name, content in self.hub.files(repo, revision).items():
            entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": _git(content)}
            if _is_large(name):
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 1}
            entries.append(entry)
        self.reply_json(entries)

    def modelscope(self, path: str, query: dict[str, str]) -> None:
        repo = "/".join(path.split("/")[:2])
        if repo not in FILES:
            self.reply(404, json.dumps({"Code": 404, "Message": "not found"}).encode(), {})
        elif path.endswith("/repo/files"):
            entries = [{"Path": "q4", "Type": "tree", "Size": 0}]
            for name, content in FILES[repo].items():
                digest = hashlib.sha256(content).hexdigest()
                entries.append({"Path": name, "Type": "blob", "Size": len(content), "Sha256": digest})
            self.reply_json({"Code": 200, "Data": {"Files": entries}})
        elif path.endswith("/repo"):
            self.content(repo, query["Revision"], query["FilePath"])
        else:
            self.reply_json({"Code": 200, "Data": {"License": "Apache License 2.0"}})

    def content(self, repo: str, revision: str, name: str) -> None:
        whole = self.hub.files(repo, revision)[name]
        etag = hashlib.sha256(whole).hexdigest() if _is_large(name) else _git(whole)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": OLD if revision in (OLD, "v1") else COMMIT}
        if self.command == "HEAD":
            self.reply(200, whole, headers)
            return
        if self.hub.busy:
            self.hub.busy -= 1
            self.reply(503, b"", {})
            return
        if self.hub.wrong_bytes:
            whole = whole[:-1] + b"?"
        start, status = 0, 200
        if self.hub.ranges and (found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            start, status = int(found[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(whole) - 1}/{len(whole)}"
        self.reply(status, whole[start:], headers, cut=self.hub.breaks_after.pop(0) if self.hub.breaks_after else None)

    def reply_json(self, value: object) -> None:
        self.reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def reply(self, status: int, content: bytes, headers: dict[str, str], *, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[:cut])
            self.close_connection = cut is not None

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a client that was killed
            super().handle()

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
