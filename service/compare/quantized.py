"""Answers for a comparison whose arms are served in different quantizations: one further engine at a time.

The base model's weights are in the type that the arm names, an adapter lies on them as it does on what serves; all
else is the same. An engine is started when the first question needs it and closed when another one does, so that
memory holds the one that serves and one more. Knows nothing of scores.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, cast

from data.errors import InvalidRequest
from data.model_files import FILE_TYPES, file_type
from data.records import Answer
from service.answerer import AskRequest
from service.compare.sharing import SharingAnswerer
from service.other_generator import OtherGenerator
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


class QuantizedAnswers:
    """Answers through the engine that an arm's quantization wants; closes what it opened.

    Threads may share it where arms name no quantization.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._served = SharingAnswerer(workspace)
        self._kind = ""
        self._parts: OtherGenerator | None = None
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
            self._parts = OtherGenerator(self._workspace, self._workspace.new_engine(kind))
            self._kind = kind
            self._answerer = SharingAnswerer(cast("Workspace", self._parts))
        return self._answerer.answer(ask)

    def _close(self) -> None:
        if self._parts is not None:
            self._parts.generator.close()
        self._parts, self._kind = None, ""
