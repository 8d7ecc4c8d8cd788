"""The child process: takes orders from a socket, runs them one at a time, answers.

``python -m service.engine.worker FD`` with the number of an inherited socket. A reader thread takes
frames in, so that a cancellation is seen while the main thread decodes, and ends the process as
soon as the parent is gone. Knows nothing of restarts: it lives once.
"""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import EngineError, EngineTimeout, RagtuneError
from service.engine import llama
from service.engine.decoder import Cancelled, Decoder
from service.engine.protocol import (
    Channel,
    error_to_wire,
    messages_from_wire,
    request_from_wire,
    result_to_wire,
)

Order = dict[str, Any]


class Worker:
    """Carries out the orders of one parent."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._cancelled: set[int] = set()
        self._decoder: Decoder | None = None
        self._handlers: dict[str, Callable[[Order], None]] = {
            "start": self._start,
            "generate": self._generate,
            "score": self._score,
            "tokenize": self._tokenize,
            "add_adapter": self._add_adapter,
            "remove_adapter": self._remove_adapter,
            "inspect": self._inspect,
            "quantize": self._quantize,
        }

    def run(self) -> None:
        """Serve until the parent closes the socket, which ends the process."""
        threading.Thread(target=self._read, name="orders", daemon=True).start()
        while True:
            order = self._orders.get()
            try:
                self._handlers[order["op"]](order)
            except RagtuneError as error:
                self._channel.send({"id": order["id"], "event": "error", "error": error_to_wire(error)})
            self._cancelled.discard(order["id"])

    def _read(self) -> None:
        try:
            while True:
                order, _ = self._channel.receive()
                if order["op"] == "cancel":
                    self._cancelled.add(order["id"])
                else:
                    self._orders.put({**order, "arrived": time.monotonic()})
        except EOFError:
            os._exit(0)  # the main thread may be inside llama.cpp for long; nobody waits for what it does

    def _reply(self, order: Order, value: Any = None, binary: bytes | memoryview = b"") -> None:
        self._channel.send({"id": order["id"], "event": "reply", "value": value}, binary)

    @property
    def _ready(self) -> Decoder:
        if self._decoder is None:
            raise EngineError("The engine process has no model yet")
        return self._decoder

    def _check(self, order: Order) -> Callable[[], None]:
        timeout_s = float(order["timeout_s"])
        deadline = order["arrived"] + timeout_s

        def check() -> None:
            if order["id"] in self._cancelled:
                raise Cancelled
            if time.monotonic() > deadline:
                raise EngineTimeout(
                    "The generation took too long",
                    got=f"more than {timeout_s:g} s",
                    hint="Allow more time, ask for fewer tokens, or use a smaller model.",
                )

        return check

    def _start(self, order: Order) -> None:
        decoder = Decoder(
            Path(order["gguf"]),
            n_ctx=order["n_ctx"],
            n_threads=order["n_threads"],
            sequences=order["sequences"],
            repack=order["repack"],
        )
        self._decoder = decoder
        model = decoder.model
        self._reply(
            order,
            {
                "n_ctx": decoder.n_ctx,
                "n_ctx_train": model.n_ctx_train,
                "n_vocab": model.n_vocab,
                "n_params": model.n_params,
                "architecture": model.architecture,
                "template": decoder.template,
                "bos": model.bos,
                "eos": model.eos,
                "end_of_turn": decoder.end_of_turn,
                "add_bos": model.add_bos,
                "n_threads": order["n_threads"],
            },
        )

    def _generate(self, order: Order) -> None:
        def emit(text: str) -> None:
            if text and order["stream"]:
                self._channel.send({"id": order["id"], "event": "delta", "text": text})

        result = self._ready.generate(request_from_wire(order["request"]), self._check(order), emit)
        self._reply(order, result_to_wire(result))

    def _score(self, order: Order) -> None:
        messages = messages_from_wire(order["messages"])
        try:
            scores = self._ready.score(messages, order["completion"], order["adapter"], self._check(order))
        except Cancelled:
            self._reply(order)
            return
        value = {"prompt_ids": scores.prompt_ids, "completion_ids": scores.completion_ids}
        self._reply(order, value, np.ascontiguousarray(scores.logits, dtype="<f4").tobytes())

    def _tokenize(self, order: Order) -> None:
        self._reply(order, self._ready.model.tokenize(order["text"], parse_special=False))

    def _add_adapter(self, order: Order) -> None:
        self._reply(order, self._ready.add_adapter(order["key"], Path(order["path"])))

    def _remove_adapter(self, order: Order) -> None:
        self._ready.remove_adapter(order["key"])
        self._reply(order)

    def _inspect(self, order: Order) -> None:
        model = llama.LlamaModel(Path(order["gguf"]), vocab_only=True)
        self._reply(
            order,
            {
                "architecture": model.architecture,
                "name": model.meta("general.name"),
                "license": model.meta("general.license"),
                "file_type": model.meta("general.file_type"),
                "n_vocab": model.n_vocab,
                "n_ctx_train": model.n_ctx_train,
                "has_template": bool(model.template),
            },
        )

    def _quantize(self, order: Order) -> None:
        llama.quantize_file(Path(order["source"]), Path(order["target"]), order["type"], order["n_threads"])
        self._reply(order)


def main() -> None:
    """Serve the socket whose number is the first argument."""
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    llama.start_backend()
    Worker(channel).run()


if __name__ == "__main__":
    main()
