"""Answers for a comparison whose arms are served in different quantizations: one further engine at a time.

The base model's weights are in the type that the arm names, an adapter lies on them as it does on what serves; all
else is the same. An engine is started when the first question needs it and closed when another one does, so that
memory holds the one that serves and one more. Knows nothing of scores.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from data.errors import InvalidRequest
from data.model_files import FILE_TYPES, file_type
from data.records import Adapter, Answer
from service.answerer import AskRequest
from service.arms import adapter_label
from service.compare.sharing import SharingAnswerer
from service.serving import require_weights

if TYPE_CHECKING:
    from service.workspace import Workspace

MOST_QUANTIZATIONS = 4


def quantizations(workspace: Workspace, wanted: tuple[str, ...]) -> dict[str, str]:
    """Return what arms are called in each quantization, and the quantization they then have.

    ``{":Q4_K_M": "q4_k_m", "": ""}``: what is served keeps the arm's name, and is asked of the engine that serves.
    {"": ""} where none is wanted.

    Raises:
        InvalidRequest: no such type, one twice, too many, or another server or generator serves.
        InvalidModel: the model's weights are not here.
    """
    if not wanted:
        return {"": ""}
    kinds = [kind.lower() for kind in wanted]
    if set(kinds) - set(FILE_TYPES) or len(set(kinds)) < len(kinds) or len(kinds) > MOST_QUANTIZATIONS:
        raise InvalidRequest(
            "These are no quantizations to compare",
            got=", ".join(wanted),
            wanted=f"up to {MOST_QUANTIZATIONS} of {', '.join(FILE_TYPES)}, each once",
        )
    if not workspace.serves_here:
        raise InvalidRequest(
            "Quantizations are compared on the local engine, and another one serves here",
            got=workspace.settings.engine_url,
            hint="Take RAGTUNE_ENGINE_URL away, or compare without quantizations.",
        )
    served = file_type(require_weights(workspace.model).meta)
    return {"" if kind == served else f":{kind.upper()}": "" if kind == served else kind for kind in kinds}


class _Parts:
    """A workspace with an engine of its own in another quantization."""

    def __init__(self, workspace: Workspace, quantization: str) -> None:
        self._workspace = workspace
        self._loaded: set[str] = set()
        self.generator = workspace.new_engine(quantization)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._workspace, name)

    def adapter_key(self, adapter: Adapter) -> str:
        """Return the engine's key of an adapter, loading it on first use."""
        key = adapter_label(adapter)
        if key not in self._loaded:
            gguf = str(self._workspace.adapter_gguf(adapter))
            self.generator.add_adapter(key, gguf, adapter.base_sha256, adapter.attention)
            self._loaded.add(key)
        return key


class QuantizedAnswers:
    """Answers through the engine that an arm's quantization wants. For one thread; closes what it opened."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._served = SharingAnswerer(workspace)
        self._kind = ""
        self._parts: _Parts | None = None
        self._answerer = self._served

    def __enter__(self) -> QuantizedAnswers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def answer(self, ask: AskRequest) -> Answer:
        """Answer to the end.

        Raises:
            As ``Answerer.answer`` and ``Workspace.new_engine``.
        """
        kind = ask.arm.quantization if ask.arm is not None else ""
        if not kind:
            return self._served.answer(ask)
        if kind != self._kind or self._parts is None:
            self._close()
            self._parts, self._kind = _Parts(self._workspace, kind), kind
            self._answerer = SharingAnswerer(cast("Workspace", self._parts))
        return self._answerer.answer(ask)

    def _close(self) -> None:
        if self._parts is not None:
            self._parts.generator.close()
        self._parts, self._kind = None, ""
