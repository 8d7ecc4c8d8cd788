"""Any server of OpenAI's protocol as a ``Generator``: llama-server, vLLM, Ollama, ragtune, a hosted one.

Which it is, is asked once, at the first use. It loads or finds adapters as an engine does, and shows no logits.
Knows nothing of local models.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2

from data.errors import BaseModelMismatch, EngineError, InvalidRequest
from data.protocols import Delta, GenerationRequest, GenerationResult
from service.engine.completion import read_completion
from service.engine.dialects import Found, detect, request_body
from service.engine.remote import RemoteServer, too_late
from service.engine.remote_adapters import RemoteAdapters, adapters_of

log = logging.getLogger(__name__)


class OpenAIGenerator:
    """Generates through ``POST {base_url}/chat/completions``. Thread-safe.

    Args:
        base_url: with its version, such as http://127.0.0.1:8080/v1.
        api_key: sent as a bearer token unless it is "".
        model: the name the server knows; "" takes the only one it lists.
        base_sha256: of the base model that it serves; "" takes adapters of any.
        transport: for tests; the network by default.

    Raises:
        InvalidRequest: the address or the key cannot be one.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str = "",
        model: str = "",
        *,
        base_sha256: str = "",
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._server = RemoteServer(base_url, api_key, transport=transport)
        self._model = model
        self._base_sha256 = base_sha256
        self._asking = threading.Lock()
        self._known: tuple[Found, RemoteAdapters] | None = None

    def __enter__(self) -> OpenAIGenerator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._server.close()

    @property
    def url(self) -> str:
        """The server's address, without a password."""
        return self._server.url

    @property
    def model(self) -> str:
        """Name of the base model.

        Raises:
            InvalidRequest: none was given, and the server has not just one.
        """
        return self._model or self._only_model()

    @property
    def takes_grammars(self) -> bool:
        """Whether the server holds a text to a grammar."""
        return "grammar" in self._found()[0].dialect.honours

    def check(self) -> Found:
        """Ask the server (again) what it is.

        Raises:
            Unauthorized: it refuses the key.
            EngineUnavailable, EngineBusy, EngineTimeout: it does not answer (now).
        """
        found = detect(self._server)
        with self._asking:
            if self._known is None or self._known[0].dialect != found.dialect:
                self._known = found, adapters_of(found.dialect.loras, self._server, found.dialect.name)
        return found

    def generate(self, request: GenerationRequest) -> GenerationResult:
        """Generate to the end.

        Raises:
            As ``Generator.generate``, and
            InvalidRequest: the server has no way to do what is asked.
            Unauthorized, UnknownModel, UnknownAdapter: it refuses the key, or has no such model or adapter.
            EngineError: its answer cannot be read.
        """
        result: GenerationResult | None = None
        for delta in self.stream(request):
            result = delta.result or result
        if result is None:
            raise EngineError("The server ended the stream without a result", got=self.url)
        return result

    def stream(self, request: GenerationRequest) -> Iterator[Delta]:
        """Yield text as it comes; closing the iterator hangs up, which cancels. Raises as ``generate``."""
        deadline = time.monotonic() + request.timeout_s
        if request.timeout_s <= 0:
            raise too_late(request.timeout_s)
        body = self._body(request)
        left = deadline - time.monotonic()
        if left <= 0:
            raise too_late(request.timeout_s)
        with self._server.lines("/chat/completions", body, left) as lines:
            yield from read_completion(lines, request)

    def add_adapter(self, key: str, gguf_path: str | Path, base_sha256: str, attention: str = "full") -> float:
        """Make ``key`` usable: find it on the server, or have it loaded from its folder; return NaN.

        How much it changes the logits cannot be seen from here. A server reads passages with full attention: an
        adapter that was trained blockwise is served all the same, with a warning in the log, and may answer badly.

        Raises:
            BaseModelMismatch: it was trained for another model than the one that is said to be served.
            UnknownAdapter: the server does not have it and cannot load it.
            InvalidModel: the server refuses to load it.
        """
        if self._base_sha256 and base_sha256 != self._base_sha256:
            raise BaseModelMismatch(
                f"The adapter {key} was trained for another base model",
                got=base_sha256,
                wanted=self._base_sha256,
                hint="Say with RAGTUNE_MODEL which model the server has, or train it again.",
            )
        self._found()[1].add(key, Path(gguf_path).absolute())
        if attention == "blockwise":
            said = "%s was trained with blockwise attention, and %s reads with full attention: it may answer badly"
            log.warning(said + " unless some of its rows were trained so (full_share)", key, self.url)
        return math.nan

    def remove_adapter(self, key: str) -> None:
        """Forget ``key``, and unload it where it was loaded from here."""
        self._found()[1].remove(key)

    def _body(self, request: GenerationRequest) -> dict[str, Any]:
        found, adapters = self._found()
        body = request_body(request, found.dialect)
        return {"model": self.model, **body, **adapters.fields(request)}

    def _found(self) -> tuple[Found, RemoteAdapters]:
        """Return what the server is, asking it once; a server that did not answer is asked again."""
        with self._asking:
            known = self._known
        if known is None:
            self.check()
            with self._asking:
                known = self._known
        assert known is not None
        return known

    def _only_model(self) -> str:
        models = self._found()[0].models
        if len(models) != 1:
            raise InvalidRequest(
                f"The server at {self.url} has {len(models) or 'no list of'} models, and none was chosen",
                wanted=", ".join(models[:20]) or "a name that it knows",
                hint="Choose one with RAGTUNE_ENGINE_MODEL.",
            )
        return models[0]
