"""The adapters of a server: found there, loaded where it can load, and named in a request as it wants them named.

A server may be restarted, with other adapters in another order, so each request that uses adapters looks them
up again: one question that costs the server nothing. Knows nothing of the rest of a request.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Protocol

from data.errors import EngineError, InvalidModel, InvalidRequest, UnknownAdapter
from data.protocols import GenerationRequest
from service.engine.dialects import Loras, list_models
from service.engine.remote import RemoteServer, Reply, refusal

_CONFIG = "adapter_config.json"
"""Stands in a folder that peft wrote, which is what vLLM loads."""


class RemoteAdapters(Protocol):
    """The adapters of one server."""

    def add(self, key: str, gguf: Path) -> None:
        """Make ``key`` usable; ``gguf`` lies in the adapter's folder.

        Raises:
            UnknownAdapter: the server does not have it and cannot load it.
            InvalidModel: the server refuses to load it.
        """

    def remove(self, key: str) -> None:
        """Forget ``key``, and unload it where this process had it loaded."""

    def fields(self, request: GenerationRequest) -> dict[str, Any]:
        """Return what a request's body has to say of its adapters.

        Raises:
            UnknownAdapter: the server does not have one of them.
            InvalidRequest: it has no way to scale or sum them.
        """


def adapters_of(kind: Loras, server: RemoteServer, software: str) -> RemoteAdapters:
    """Return the adapters of ``server``, which is of the kind and software that were detected."""
    if kind == "scaled":
        return ScaledAdapters(server)
    return LoadedAdapters(server, software) if kind == "loaded" else ModelAdapters(server, software)


class ScaledAdapters:
    """llama-server's: given with ``--lora`` at its start, known by their files, scaled by each request."""

    def __init__(self, server: RemoteServer) -> None:
        self._server = server
        self._files: dict[str, Path] = {}

    def add(self, key: str, gguf: Path) -> None:
        """Find the adapter on the server."""
        self._find(key, gguf, self._list())
        self._files[key] = gguf

    def remove(self, key: str) -> None:
        """Forget it; the server keeps it until it is started without."""
        self._files.pop(key, None)

    def fields(self, request: GenerationRequest) -> dict[str, Any]:
        """Scale every adapter that the server has: those that are not asked for are 1 by default, not 0."""
        listed = self._list()
        scales = {int(one["id"]): 0.0 for one in listed}
        for key, scale in request.adapters:
            scales[self._find(key, self._files.get(key), listed)] += scale
        return {"lora": [{"id": number, "scale": scale} for number, scale in scales.items()]} if scales else {}

    def _list(self) -> list[dict[str, Any]]:
        reply = self._server.get("/lora-adapters", root=True)
        if reply.status in (404, 501):
            return []
        if not reply.ok:
            raise refusal(reply)
        listed = reply.json()
        return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []

    def _find(self, key: str, gguf: Path | None, listed: Sequence[dict[str, Any]]) -> int:
        for one in listed:
            if _same_file(str(one.get("path", "")), key, gguf):
                return int(one["id"])
        file = "ADAPTER.gguf" if gguf is None else str(gguf)
        raise UnknownAdapter(
            "llama-server was started without this adapter",
            got=key,
            wanted=", ".join(str(one.get("path")) for one in listed) or "it has none",
            hint=f"Start it with --lora {file} (several are separated by commas).",
        )


def _same_file(path: str, key: str, gguf: Path | None) -> bool:
    """Tell whether the file that a server names is an adapter's.

    It is if it is the same file, if its path ends in the same name/version/file (the state directory may be mounted
    elsewhere), or if it is called after the adapter: house@1.gguf, house-1.gguf.
    """
    there = PurePath(path)
    if gguf is not None and (there == gguf or there.parts[-3:] == gguf.parts[-3:]):
        return True
    return there.suffix == ".gguf" and there.stem in _names(key)


def _names(key: str) -> tuple[str, ...]:
    """Return the names under which a server may have ``key``: house@1, house-1, and house:1 as Ollama has tags."""
    name, _, version = key.partition("@")
    return (key, f"{name}-{version}", f"{name}:{version}") if version else (key,)


@dataclass(slots=True)
class ModelAdapters:
    """Those of a server whose adapters are models of their own: Ollama, ragtune, and servers of no known kind."""

    server: RemoteServer
    software: str

    def add(self, key: str, gguf: Path) -> None:
        """Find the model that is named for the adapter."""
        self._model(key, self._models(), gguf)

    def remove(self, key: str) -> None:
        """Do nothing: the model is the server's."""

    def fields(self, request: GenerationRequest) -> dict[str, Any]:
        """Name the adapter's model."""
        key = single(request, self.software)
        return {} if key is None else {"model": self._model(key, self._models(), None)}

    def _models(self) -> tuple[str, ...]:
        return model_names(self.server)

    def _model(self, key: str, models: Iterable[str], gguf: Path | None) -> str:
        models = tuple(models)
        found = named(key, models)
        if found is not None:
            return found
        file = "its GGUF (ragtune export)" if gguf is None else str(gguf)
        ollama = (
            f"Make it there: a Modelfile with FROM its base and ADAPTER {file}, then ollama create {_names(key)[-1]}."
        )
        raise UnknownAdapter(
            f"The server ({self.software}) has no model that is named for this adapter",
            got=key,
            wanted=f"one of {', '.join(_names(key))} among {', '.join(models) or 'its models (it lists none)'}",
            hint=ollama if self.software == "Ollama" else "Serve it there under that name, or on the local engine.",
        )


class LoadedAdapters:
    """vLLM's: models by name, loaded from a peft folder at its start or, where it allows that, at run time."""

    def __init__(self, server: RemoteServer, software: str) -> None:
        self._server = server
        self._software = software
        self._folders: dict[str, Path] = {}
        self._loaded: set[str] = set()

    def add(self, key: str, gguf: Path) -> None:
        """Find the adapter on the server, or have it loaded."""
        self._folders[key] = gguf.parent
        try:
            self._name(key)
        except BaseException:
            self._folders.pop(key)
            raise

    def remove(self, key: str) -> None:
        """Forget it, and unload it if it was loaded for this process."""
        self._folders.pop(key, None)
        if key in self._loaded:
            self._loaded.discard(key)
            try:
                self._server.post("/unload_lora_adapter", {"lora_name": key})
            except EngineError:
                return  # a server that is gone has unloaded it

    def fields(self, request: GenerationRequest) -> dict[str, Any]:
        """Name the adapter as the model."""
        key = single(request, self._software)
        return {} if key is None else {"model": self._name(key)}

    def _name(self, key: str) -> str:
        models = model_names(self._server)
        found = named(key, models)
        if found is not None:
            return found
        folder = self._folders.get(key)
        if folder is None or not (folder / _CONFIG).is_file():
            raise UnknownAdapter(
                f"The server ({self._software}) has no such adapter",
                got=key,
                wanted=", ".join(models) or "it lists none",
                hint=f"Start it with --enable-lora --lora-modules {key}=FOLDER (the folder that peft wrote).",
            )
        reply = self._server.post("/load_lora_adapter", {"lora_name": key, "lora_path": str(folder)})
        if not reply.ok and "already been loaded" not in reply.text:  # by another request of ours, just now
            raise _not_loaded(key, folder, reply)
        self._loaded.add(key)
        return key


def _not_loaded(key: str, folder: Path, reply: Reply) -> Exception:
    if reply.status in (404, 405):
        return UnknownAdapter(
            "vLLM was started without this adapter, and loads none at run time",
            got=key,
            hint="Start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, or with --lora-modules "
            f"{key}={folder}.",
        )
    said = refusal(reply)
    if reply.status in (401, 403, 429):
        return said
    return InvalidModel(
        f"vLLM does not load the adapter {key}",
        got=said.got,
        wanted=f"that it can read {folder}, and fits --max-lora-rank",
        hint="The folder has to be at the same path where vLLM runs.",
    )


def single(request: GenerationRequest, software: str) -> str | None:
    """Return the one adapter of a request, unscaled; None without one.

    Raises:
        InvalidRequest: there are several, or it is scaled.
    """
    adapters = request.adapters
    if len(adapters) > 1 or any(scale != 1.0 for _, scale in adapters):
        raise InvalidRequest(
            f"The server ({software}) neither scales nor sums adapters",
            got=", ".join(f"{key}*{scale:g}" for key, scale in adapters),
            wanted="one adapter at scale 1",
            hint="llama-server and the local engine do both.",
        )
    return adapters[0][0] if adapters else None


def named(key: str, models: Iterable[str]) -> str | None:
    """Return the model that is named for the adapter ``key``; Ollama adds :latest to a name without a tag."""
    names = _names(key)
    return next((model for model in models if model.removesuffix(":latest") in names), None)


def model_names(server: RemoteServer) -> tuple[str, ...]:
    """Return the names of a server's models, its adapters among them."""
    reply = server.get("/models")
    if not reply.ok:
        raise refusal(reply)
    return tuple(str(card.get("id")) for card in list_models(reply))
