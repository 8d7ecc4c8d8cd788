"""The local engine: satisfies ``Generator`` with llama.cpp in a supervised child process.

Any number of threads may call it: the child decodes up to ``sequences`` requests together, each with its own
adapters, and the others wait in a bounded queue. When the child dies or hangs, the requests in flight fail with
EngineUnavailable and the next one starts a new child with the same adapters. Knows nothing of llama.cpp itself.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from data.errors import (
    BaseModelMismatch,
    EngineUnavailable,
    InvalidModel,
    InvalidRequest,
    RagtuneError,
    UnknownAdapter,
)
from data.protocols import GenerationRequest, GenerationResult, TokenScores
from data.records import Message, Model
from service.engine.protocol import messages_to_wire, request_to_wire, result_from_wire
from service.engine.session import GRACE_S, Session, Stream

START_TIMEOUT_S = 300.0
ADAPTER_TIMEOUT_S = 120.0
STATISTICS_TIMEOUT_S = 5.0
"""Half of what Prometheus waits for an answer unless it is told otherwise."""
_CRASHES, _CRASH_WINDOW_S = 3, 60.0
"""So many crashes in such a time, and the request that finds the last of them is told so; the next one tries again."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How a model is served.

    Attributes:
        n_ctx: longest prompt plus generation, in tokens; each sequence has that much memory.
        n_threads: threads of llama.cpp; all CPUs by default.
        sequences: requests that are decoded together.
        queue_size: requests that may wait beside those.
        n_batch: most tokens decoded at a time, so how long a new prompt can delay a text that is being written.
        kv_type: of keys and values: f16, f32, bf16 or q8_0; passages are kept for f16 alone.
        flash_attention: reads a prompt faster, and on some CPUs writes slower: measured, see ``tuning``.
        adapters: how many stay loaded.
        drafts: most tokens guessed ahead of a text that is written alone, where such guesses have paid. Without flash
            attention the logits of guessed tokens differ in the last bits from those of tokens decoded one by one.
        kv_memory_mb: memory for keys and values of prompts and passages that were read before.
        kv_folder: where those of passages are kept as files; None keeps none.
        kv_disk_mb: how large that folder may become.
    """

    n_ctx: int = 4096
    n_threads: int | None = None
    sequences: int = 8
    queue_size: int = 16
    n_batch: int = 128
    kv_type: str = "f16"
    flash_attention: bool = False
    adapters: int = 8
    drafts: int = 0
    kv_memory_mb: int = 512
    kv_folder: Path | None = None
    kv_disk_mb: int = 2048

    def order(self) -> dict[str, Any]:
        """Return them as the child's order to start has them."""
        names = ("n_ctx", "sequences", "n_batch", "kv_type", "flash_attention")
        context = {name: getattr(self, name) for name in names} | {"n_threads": self.n_threads or os.cpu_count() or 1}
        context["n_batch"] = max(self.n_batch, self.sequences, self.drafts + 1)  # one step writes in all sequences
        return {
            "context": context,
            "adapters": self.adapters,
            "drafts": self.drafts,
            "kv_memory": self.kv_memory_mb * 2**20,
            "kv_folder": None if self.kv_folder is None else str(self.kv_folder.resolve()),
            "kv_disk": self.kv_disk_mb * 2**20,
        }


@dataclass(slots=True)
class _Adapter:
    path: Path
    attention: str
    broken: RagtuneError | None = None


class Engine:
    """Serves one model; a ``Generator`` and a context manager that starts and closes it."""

    def __init__(self, model: Model, options: EngineOptions | None = None, **changes: Any) -> None:
        """Prepare to serve ``model``; ``changes`` are fields of ``options``."""
        self._model = model
        self._options = replace(options or EngineOptions(), **changes)
        self._repack = True
        self._limit = self._options.queue_size + self._options.sequences
        self._adapters: dict[str, _Adapter] = {}
        self._numbers = itertools.count(1)
        self._starting = threading.RLock()
        self._session: Session | None = None
        self._crashes: deque[float] = deque(maxlen=_CRASHES)
        self._restarts = 0
        self._closed = False

    def __enter__(self) -> Engine:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def model(self) -> str:
        """Name of the base model."""
        return self._model.name

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        session = self._session
        return None if session is None or session.dead is not None else session.child.pid

    def start(self) -> None:
        """Start the child and load the model; does nothing if it runs.

        Raises:
            InvalidModel: the file is damaged, or llama.cpp crashes on it.
            UnsupportedArchitecture: llama.cpp does not know the model.
            EngineUnavailable: it crashed too often lately.
        """
        with self._starting:
            self._closed = False
            self._ensure()

    def close(self) -> None:
        """Stop the child; requests in flight fail with EngineUnavailable. A later ``start`` reopens it."""
        with self._starting:
            self._closed = True
            session, self._session = self._session, None
        if session is not None:
            session.child.close()

    def info(self) -> dict[str, Any]:
        """Return what the model and its context are (see ``Decoder.info``)."""
        return dict(self._ensure().info)

    def generate(self, request: GenerationRequest) -> GenerationResult:
        """Generate to the end; raises as ``Generator.generate``."""
        value, _ = self._call(
            {"op": "generate", "request": self._wire(request), "stream": False, "timeout_s": request.timeout_s},
            request.timeout_s,
        )
        return result_from_wire(value)

    def stream(self, request: GenerationRequest) -> Stream:
        """Yield text as it comes; closing the iterator cancels. Full queues and unknown adapters raise at once."""
        order = {"op": "generate", "request": self._wire(request), "stream": True, "timeout_s": request.timeout_s}
        session, number = self._submit(order)
        return Stream(session, number, request.timeout_s)

    def score(
        self, messages: tuple[Message, ...], completion: str, adapter: str | None = None, *, timeout_s: float = 300.0
    ) -> TokenScores:
        """Return the logits of each token of ``completion`` and the end of turn, given what precedes it.

        Raises:
            As ``Generator.generate``.
        """
        self._known(adapter)
        value, binary = self._call(
            {
                "op": "score",
                "messages": messages_to_wire(messages),
                "completion": completion,
                "adapter": adapter,
                "timeout_s": timeout_s,
            },
            timeout_s,
        )
        ids = tuple(value["completion_ids"])
        logits = np.frombuffer(binary, dtype="<f4").astype(np.float32).reshape(len(ids), -1)
        return TokenScores(tuple(value["prompt_ids"]), ids, logits)

    def statistics(self) -> dict[str, Any]:
        """Return what the child is doing and has done (see ``Scheduler.report``), and how many died before it.

        While there is no child, only ``restarts``: to ask starts none.

        Raises:
            EngineTimeout: it is within a step that takes longer than ``STATISTICS_TIMEOUT_S``.
            EngineUnavailable: it died just now.
        """
        own = {"restarts": self._restarts}
        session, number = self._session, next(self._numbers)
        if session is None or session.dead is not None:
            return own
        session.submit(number, {"op": "statistics"}, self._limit)
        try:
            message, _ = session.next(number, STATISTICS_TIMEOUT_S, hangs=False)
        finally:
            session.forget(number)
        return {**own, **message["value"]}

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of plain text: no special tokens, nothing added."""
        value, _ = self._call({"op": "tokenize", "text": text}, START_TIMEOUT_S)
        return list(value)

    def add_adapter(self, key: str, gguf_path: str | Path, base_sha256: str, attention: str = "full") -> float:
        """Load a LoRA under ``key``, in place of the one of that key; return the largest change of a logit.

        ``attention`` is what it was trained with: under "blockwise" passages are read apart from each other.

        Raises:
            BaseModelMismatch: it was trained for another model.
            InvalidModel: the file is no LoRA of this model, or llama.cpp crashes on it.
            AdapterInert: it changes nothing.
        """
        if base_sha256 != self._model.sha256:
            raise BaseModelMismatch(
                f"The adapter {key} was trained for another base model",
                got=base_sha256,
                wanted=f"{self._model.sha256} ({self._model.name})",
                hint="Serve the model it was trained for, or train it again.",
            )
        adapter = _Adapter(Path(gguf_path).resolve(), attention)
        session = self._ensure()
        if attention == "blockwise" and not session.info["blockwise"]:
            raise InvalidRequest(
                f"The adapter {key} was trained with blockwise attention, which this model cannot be served with",
                got=session.info["blockwise_refusal"],
                hint="Train it with full attention.",
            )
        try:
            change = self._load(session, key, adapter)
        except EngineUnavailable as error:
            raise InvalidModel(f"llama.cpp crashed on the adapter {adapter.path.name}", got=session.dead) from error
        self._adapters[key] = adapter
        return change

    def remove_adapter(self, key: str) -> None:
        """Unload a LoRA; an unknown key is ignored."""
        if self._adapters.pop(key, None) is not None:
            self._call({"op": "remove_adapter", "key": key}, ADAPTER_TIMEOUT_S)

    def _wire(self, request: GenerationRequest) -> dict[str, Any]:
        for key, _ in request.adapters:
            self._known(key)
        return request_to_wire(request)

    def _known(self, adapter: str | None) -> None:
        if adapter is None:
            return
        self._ensure()
        known = self._adapters.get(adapter)
        if known is None:
            raise UnknownAdapter("The engine has no such adapter", got=adapter, wanted=", ".join(self._adapters))
        if known.broken is not None:
            raise known.broken

    def _call(self, order: Mapping[str, Any], timeout_s: float) -> tuple[Any, bytes]:
        session, number = self._submit(order)
        try:
            message, binary = session.next(number, timeout_s + GRACE_S)
        finally:
            session.abandon(number)
        return message["value"], binary

    def _submit(self, order: Mapping[str, Any]) -> tuple[Session, int]:
        session, number = self._ensure(), next(self._numbers)
        session.submit(number, order, self._limit)
        return session, number

    def _ensure(self) -> Session:
        """Return a live session, starting one where the last has died."""
        with self._starting:
            if self._session is not None and self._session.dead is None:
                return self._session
            if self._closed:
                raise EngineUnavailable("The engine is closed")
            if self._session is not None:
                self._bury(self._session)
            self._session = self._begin()
            return self._session

    def _bury(self, session: Session) -> None:
        session.child.close()
        self._session = None
        self._restarts += 1
        self._crashes.append(time.monotonic())
        recent = [at for at in self._crashes if time.monotonic() - at < _CRASH_WINDOW_S]
        if len(recent) == _CRASHES:
            raise EngineUnavailable(
                f"The engine crashed {_CRASHES} times within {_CRASH_WINDOW_S:g} s",
                got=session.dead,
                hint="It will be tried again by the next request; if it keeps failing, see ragtune doctor.",
            )

    def _begin(self) -> Session:
        folder = self._options.kv_folder
        session = Session(() if folder is None else (folder.resolve(),))
        try:
            return self._open(session)
        except EngineUnavailable as error:
            session.child.close()
            if self._repack:
                # Weights repacked for AMX crash a llama.cpp built by gcc 11 or 12 without the flags of our Makefile:
                # the compiler drops the stores that fill the tile configuration (ggml-org/llama.cpp#20824, #26954).
                self._repack = False
                return self._begin()
            name = Path(self._model.gguf).name
            raise InvalidModel(
                f"llama.cpp crashed while loading {name}",
                got=session.dead,
                hint="The file is damaged, or memory ran out.",
            ) from error
        except BaseException:
            session.child.close()
            raise

    def _open(self, session: Session) -> Session:
        number = next(self._numbers)
        gguf = Path(self._model.gguf).resolve()
        # The hash is of the weights that the file was made from, in one of several quantizations.
        identity = f"{self._model.sha256} {gguf.name} {gguf.stat().st_size if gguf.exists() else 0}"
        order = {"op": "start", "gguf": str(gguf), "identity": identity, "repack": self._repack}
        session.submit(number, {**order, **self._options.order()}, self._limit)
        message, _ = session.next(number, START_TIMEOUT_S)
        session.forget(number)
        session.info = message["value"]
        for key, adapter in list(self._adapters.items()):
            try:
                self._load(session, key, adapter)
                adapter.broken = None
            except EngineUnavailable:
                raise
            except RagtuneError as error:  # its own requests get it; the others are served
                adapter.broken = error
        return session

    def _load(self, session: Session, key: str, adapter: _Adapter) -> float:
        number = next(self._numbers)
        order = {"op": "add_adapter", "key": key, "path": str(adapter.path), "attention": adapter.attention}
        session.submit(number, order, self._limit)
        try:
            message, _ = session.next(number, ADAPTER_TIMEOUT_S)
        finally:
            session.forget(number)
        return float(message["value"])
