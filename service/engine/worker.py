"""The child process: takes orders from a socket, serves them together, answers.

``python -m service.engine.worker FD`` with the number of an inherited socket. A reader thread takes frames in, says
that the process is alive, and ends it as soon as the parent is gone; the main thread carries orders out between two
steps of the scheduler. Knows nothing of restarts: it lives once.
"""

from __future__ import annotations

import os
import queue
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from data.confine import confine
from data.errors import EngineError, InvalidRequest, RagtuneError
from data.protocols import GenerationResult, TokenScores, WrittenToken
from service.engine.decoder import Decoder, DecoderOptions
from service.engine.llama import ContextOptions, LlamaGrammar, LlamaModel, quantize_file, start_backend
from service.engine.probe import probe
from service.engine.protocol import (
    Channel,
    error_to_wire,
    messages_from_wire,
    request_from_wire,
    result_to_wire,
    tokens_to_wire,
)

Order = dict[str, Any]

_DEVICES = Path("/dev")
"""A GPU's driver is talked to through files in it, which are opened for writing."""
_GRAMMAR_S = 8.0
"""How long a grammar may take for one token before the process gives itself up: milliseconds are usual."""


@dataclass(frozen=True, slots=True)
class _Reply:
    """Sends the outcome of one order."""

    channel: Channel
    order: int
    stream: bool = False

    def text(self, text: str, tokens: Sequence[WrittenToken] = ()) -> None:
        if self.stream:
            extra = {"tokens": tokens_to_wire(tokens)} if tokens else {}
            self.channel.send({"id": self.order, "event": "delta", "text": text, **extra})

    def done(self, value: object) -> None:
        if isinstance(value, TokenScores):
            ids = {"prompt_ids": value.prompt_ids, "completion_ids": value.completion_ids}
            self._send(ids, np.ascontiguousarray(value.logits, dtype="<f4").tobytes())
        else:
            self._send(result_to_wire(value) if isinstance(value, GenerationResult) else value)

    def fail(self, error: Exception) -> None:
        self.channel.send({"id": self.order, "event": "error", "error": error_to_wire(cast("RagtuneError", error))})

    def _send(self, value: object, binary: bytes = b"") -> None:
        self.channel.send({"id": self.order, "event": "reply", "value": value}, binary)


class Worker:
    """Carries out the orders of one parent."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._decoder: Decoder | None = None
        self._taken: int | None = None
        self._handlers: dict[str, Callable[[Order, _Reply], None]] = {
            "start": self._start,
            "generate": self._generate,
            "score": self._score,
            "cancel": self._cancel,
            "tokenize": lambda order, reply: reply.done(self._ready.model.tokenize(order["text"], parse_special=False)),
            "add_adapter": self._add_adapter,
            "remove_adapter": self._remove_adapter,
            "statistics": lambda _order, reply: reply.done(self._ready.scheduler.report()),
            "inspect": _inspect,
            "quantize": _quantize,
            "probe": lambda order, reply: reply.done(probe(order)),
        }

    def run(self) -> None:
        """Serve until the parent closes the socket, which ends the process."""
        threading.Thread(target=self._read, name="orders", daemon=True).start()
        while True:
            scheduler = self._decoder.scheduler if self._decoder is not None else None
            idle = scheduler is None or scheduler.idle
            try:
                self._carry_out(self._orders.get(block=idle))
            except queue.Empty:
                if scheduler is not None:
                    scheduler.step()

    def _carry_out(self, order: Order) -> None:
        reply = _Reply(self._channel, order["id"], bool(order.get("stream")))
        self._taken = order["id"]
        try:
            self._handlers[order["op"]](order, reply)
        except RagtuneError as error:
            reply.fail(error)
        finally:
            self._taken = None

    def _read(self) -> None:
        try:
            while True:
                order, _ = self._channel.receive()
                if order["op"] == "ping":
                    self._give_up_a_grammar()
                    self._channel.send({"id": order["id"], "event": "pong"})
                else:
                    self._orders.put({**order, "arrived": time.monotonic()})
        except EOFError:
            os._exit(0)  # the main thread may be inside llama.cpp for long; nobody waits for what it does

    def _give_up_a_grammar(self) -> None:
        """End the process if a grammar keeps the main thread from everyone: it cannot be interrupted."""
        work = LlamaGrammar.at_work
        if work is None or time.monotonic() - work[1] < _GRAMMAR_S:
            return
        error = InvalidRequest(
            "The grammar is too ambiguous: llama.cpp cannot follow all that it allows",
            got=f"more than {_GRAMMAR_S:g} s for one token",
            hint="Write it with fewer optional and repeated parts inside each other.",
        )
        whose = self._taken if self._taken is not None else self._ready.scheduler.owner(work[0])
        if whose is not None:
            _Reply(self._channel, whose).fail(error)
        sys.stderr.write(f"{error.detail}\n")
        sys.stderr.flush()
        os._exit(1)

    @property
    def _ready(self) -> Decoder:
        if self._decoder is None:
            raise EngineError("The engine process has no model yet")
        return self._decoder

    def _start(self, order: Order, reply: _Reply) -> None:
        folder = order["kv_folder"]
        self._decoder = Decoder(
            DecoderOptions(
                gguf=Path(order["gguf"]),
                identity=order["identity"],
                context=ContextOptions(**order["context"]),
                repack=order["repack"],
                adapters=order["adapters"],
                drafts=order["drafts"],
                kv_memory=order["kv_memory"],
                kv_folder=None if folder is None else Path(folder),
                kv_disk=order["kv_disk"],
            )
        )
        reply.done(self._decoder.info())

    def _generate(self, order: Order, reply: _Reply) -> None:
        self._ready.generate(order["id"], request_from_wire(order["request"]), reply, order["arrived"])

    def _score(self, order: Order, reply: _Reply) -> None:
        self._ready.score(
            order["id"],
            messages_from_wire(order["messages"]),
            order["completion"],
            order["adapter"],
            reply,
            arrived=order["arrived"],
            timeout_s=float(order["timeout_s"]),
        )

    def _cancel(self, order: Order, _reply: _Reply) -> None:
        self._ready.scheduler.cancel(order["id"])

    def _add_adapter(self, order: Order, reply: _Reply) -> None:
        reply.done(self._ready.add_adapter(order["key"], Path(order["path"]), order["attention"]))

    def _remove_adapter(self, order: Order, reply: _Reply) -> None:
        self._ready.remove_adapter(order["key"])
        reply.done(None)


def _inspect(order: Order, reply: _Reply) -> None:
    model = LlamaModel(Path(order["gguf"]), vocab_only=True)
    reply.done(
        {
            "architecture": model.architecture,
            "name": model.meta("general.name"),
            "license": model.meta("general.license"),
            "file_type": model.meta("general.file_type"),
            "n_vocab": model.n_vocab,
            # llama.cpp knows 0 where only the vocabulary is loaded.
            "n_ctx_train": int(model.meta(f"{model.architecture}.context_length") or model.n_ctx_train),
            "kv_width": model.kv_width,
            "heads": model.heads,
            "has_template": bool(model.template),
        }
    )


def _quantize(order: Order, reply: _Reply) -> None:
    importance = order["importance"]
    matrix = None if importance is None else Path(importance)
    quantize_file(Path(order["source"]), Path(order["target"]), order["type"], order["n_threads"], matrix)
    reply.done(None)


def main() -> None:
    """Serve the socket whose number is the first argument; the others are the folders that may be written.

    A model file or an adapter that takes this process over can so neither send what it sees away nor change a file.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    confine([_DEVICES, *map(Path, sys.argv[2:])], unix_sockets=True)
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    start_backend()
    Worker(channel).run()


if __name__ == "__main__":
    main()
