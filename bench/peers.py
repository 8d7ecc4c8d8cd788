"""The servers that ``bench.serving`` measures the engine against; nothing of them belongs to this project."""

from __future__ import annotations

import argparse
import http.client
import json
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from bench.sides import STATE
from data.prompt import render
from data.records import Message

LOG = STATE / "bench.serving.server.log"
N_CTX, MAX_TOKENS = 2048, 32
FORBIDDEN = -1e4
START_TIMEOUT_S = TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: what was written, when, and how many tokens it took; ``cached`` None where that is not told."""

    text: str
    first_s: float
    total_s: float
    prompt: int
    cached: int | None
    new: int


class _Server:
    """A server on this machine, asked over HTTP."""

    def __init__(self, port: int) -> None:
        self._port = port

    def _events(self, path: str, order: dict[str, Any]) -> Iterator[dict[str, Any]]:
        with self._open("POST", path, order) as response:
            yield from (json.loads(line[6:]) for line in response if line.startswith(b"data: {"))

    @contextmanager
    def _open(self, method: str, path: str, order: Any = None) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, json.dumps(order), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise ConnectionError(f"the peer's {path}: {response.status} {response.read()[:500]!r}")
            yield response
        finally:
            connection.close()

    def _json(self, method: str, path: str, order: Any = None) -> Any:
        with self._open(method, path, order) as response:
            return json.loads(response.read())


class LlamaServer(_Server):
    """llama-server, or a program that takes its arguments."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._props: dict[str, Any] = self._json("GET", "/props")
        self._opening: list[int] = self._json("POST", "/tokenize", {"content": "", "add_special": True})["tokens"]

    def prepare(self, messages: tuple[Message, ...]) -> list[int]:
        """Return the engine's tokens: every segment is tokenized on its own, markup only where it is markup."""
        names = {"bos_token": self._props["bos_token"], "eos_token": self._props["eos_token"]}
        tokens: list[int] = []
        for segment in render(messages, self._props["chat_template"], **names):
            order = {"content": segment.text, "add_special": False, "parse_special": segment.markup}
            tokens += self._json("POST", "/tokenize", order)["tokens"]
        return tokens if tokens[: len(self._opening)] == self._opening else [*self._opening, *tokens]

    def ask(self, prompt: Any, max_tokens: int = MAX_TOKENS) -> Reply:
        """Stream from ``/completion``."""
        order = {"prompt": prompt, "n_predict": max_tokens, "ignore_eos": True, "temperature": 0.0, "stream": True}
        pieces: list[str] = []
        last: dict[str, Any] = {}
        started, first_s = time.perf_counter(), 0.0
        for last in self._events("/completion", order):
            if last["content"] and not pieces:
                first_s = time.perf_counter() - started
            pieces += [last["content"]] if last["content"] else []
        total_s = time.perf_counter() - started
        if not last.get("stop"):
            raise ConnectionError(f"llama-server's stream broke off: {last}")
        cached = last["timings"]["cache_n"]
        return Reply("".join(pieces), first_s or total_s, total_s, len(prompt), cached, last["tokens_predicted"])


class PythonServer(_Server):
    """``python -m llama_cpp.server``: one request at a time, and text only: it makes its own tokens of the prompt."""

    def __init__(self, port: int, setup: dict[str, Any]) -> None:
        super().__init__(port)
        self._json("GET", "/v1/models")
        self._template = setup["template"]
        self._bias = dict.fromkeys(map(str, setup["end_tokens"]), FORBIDDEN)

    def prepare(self, messages: tuple[Message, ...]) -> tuple[str, int]:
        """Return the text of the engine's prompt, and how many tokens the server makes of it."""
        text = "".join(segment.text for segment in render(messages, **self._template))
        return text, self._json("POST", "/extras/tokenize/count", {"input": text})["count"]

    def ask(self, prompt: tuple[str, int], max_tokens: int = MAX_TOKENS) -> Reply:
        """Stream from ``/v1/completions``; how much of a prompt it had already, it does not tell."""
        order = {"prompt": prompt[0], "max_tokens": max_tokens, "temperature": 0.0, "stream": True}
        pieces: list[str] = []
        reason = None
        started, first_s = time.perf_counter(), 0.0
        for event in self._events("/v1/completions", {**order, "logit_bias": self._bias}):
            if "choices" not in event:
                raise ConnectionError(f"llama_cpp.server's stream broke off: {event}")
            choice = event["choices"][0]
            if choice["text"] and not pieces:
                first_s = time.perf_counter() - started
            pieces += [choice["text"]] if choice["text"] else []
            reason = choice["finish_reason"] or reason
        total_s = time.perf_counter() - started
        if reason != "length":
            raise ConnectionError(f"llama_cpp.server's stream broke off after {''.join(pieces)!r} ({reason})")
        return Reply("".join(pieces), first_s or total_s, total_s, prompt[1], None, max_tokens)


@contextmanager
def start(setup: dict[str, Any], options: argparse.Namespace) -> Iterator[LlamaServer | PythonServer]:
    """Start the peer: llama-server with as many slots as clients, each of ``N_CTX`` tokens, or llama_cpp.server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*_command(setup, options, str(port)), *shlex.split(options.server_arguments)]
    with LOG.open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield _connect(server, port, setup, options)
    finally:
        server.terminate()
        server.wait(30)


def _command(setup: dict[str, Any], options: argparse.Namespace, port: str) -> list[str]:
    threads, slots, model = str(options.threads), options.clients, setup["model"]["gguf"]
    lora = [setup["adapter"]["gguf"]] if setup["adapter"] else []
    if options.llama_server:
        command = [options.llama_server, "-m", model, "--host", "127.0.0.1", "--port", port, "-np", str(slots)]
        return [*command, "-c", str(N_CTX * slots), "-t", threads, "-tb", threads, *(["--lora", *lora] if lora else [])]
    command = [options.llama_cpp_server, "-m", "llama_cpp.server", "--model", model, "--port", port]
    command += ["--n_ctx", str(N_CTX), "--n_threads", threads, "--n_threads_batch", threads]
    command += ["--interrupt_requests", "false"]  # a second request would break the first one off
    return [*command, *(["--lora_path", *lora] if lora else [])]


def _connect(
    server: subprocess.Popen[bytes], port: int, setup: dict[str, Any], options: argparse.Namespace
) -> LlamaServer | PythonServer:
    """Wait until the server answers."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while server.poll() is None and time.monotonic() < deadline:
        with suppress(OSError):
            return LlamaServer(port) if options.llama_server else PythonServer(port, setup)
        time.sleep(0.1)
    raise SystemExit(f"the peer did not start (exit status {server.returncode}); see {LOG}")
