"""How the base model is served: with which options here, or from which server instead.

Knows nothing of llama.cpp, nor of the protocol that a server speaks.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from data.errors import InvalidModel
from data.protocols import TokenScores
from data.records import Message, Model, content_id
from service.settings import Settings

if TYPE_CHECKING:
    from service.engine import EngineOptions
    from service.engine.fleet import Fleet
    from service.engine.openai import OpenAIGenerator
    from service.engine.tuning import Tuning

_ARCHITECTURE = "served by URL"


@runtime_checkable
class AdapterHost(Protocol):
    """A generator that adapters are given to: the local engine loads them, a server finds or loads them."""

    def add_adapter(self, key: str, gguf_path: str, base_sha256: str, attention: str = "full") -> float:
        """Make ``key`` usable in requests; return how much it changes the logits (NaN where they are not seen)."""

    def remove_adapter(self, key: str) -> None:
        """Forget ``key``."""


@runtime_checkable
class ScoringEngine(AdapterHost, Protocol):
    """An engine that also shows logits; a server does not."""

    def score(self, messages: tuple[Message, ...], completion: str, adapter: str | None = None) -> TokenScores:
        """Return the logits of ``completion`` after ``messages``."""


def local_options(settings: Settings, tuning: Tuning | None, kv_folder: Path) -> EngineOptions:
    """Return how the local engine serves a model: as set, else as measured, else by default.

    Args:
        settings: what was set wins.
        tuning: what was measured for it on this machine, None if nothing was.
        kv_folder: where passages that were read are kept.
    """
    from service.engine import EngineOptions

    options = EngineOptions(
        n_ctx=settings.n_ctx,
        n_threads=settings.n_threads,
        sequences=settings.sequences,
        queue_size=settings.queue_size,
        kv_memory_mb=settings.kv_memory_mb,
        kv_folder=kv_folder,
        kv_disk_mb=settings.kv_disk_mb,
    )
    names = ("n_threads", "n_batch", "flash_attention", "kv_type", "drafts")
    given = {name: getattr(settings, name) for name in names if name in settings.model_fields_set}
    measured = {} if tuning is None else {name: getattr(tuning, name) for name in names}
    options = replace(options, **(measured | {name: value for name, value in given.items() if value is not None}))
    if "drafts" not in given and not options.flash_attention:
        options = replace(options, drafts=0)  # guesses are exact with it alone
    return options


def open_server(settings: Settings, local: Model | None) -> OpenAIGenerator | Fleet:
    """Return the configured server, or several of them, as a generator, without asking it anything.

    Args:
        settings: with ``engine_url``.
        local: the model that it is said to serve, None where nothing is said.

    Raises:
        InvalidRequest: its address or key cannot be one.
    """
    from service.engine.openai import OpenAIGenerator

    assert settings.engine_url is not None
    key = settings.engine_api_key
    secret, sha256 = key.get_secret_value() if key else "", _sha256(settings) if local is None else local.sha256
    urls = list(dict.fromkeys(filter(None, map(str.strip, settings.engine_url.split(",")))))
    servers = [OpenAIGenerator(url, secret, settings.engine_model or "", base_sha256=sha256) for url in urls or [""]]
    if len(servers) == 1:
        return servers[0]
    from service.engine.fleet import Fleet

    return Fleet(servers)


def server_model(settings: Settings, name: str, url: str) -> Model:
    """Return what is known of a server's model: its name. No file of it is here, and no adapter names it."""
    return Model(name, url, "", "", _sha256(settings), _ARCHITECTURE)


def _sha256(settings: Settings) -> str:
    """Return what stands in for the hash of weights that nobody has seen; no file has it."""
    return f"server-{content_id(settings.engine_url or '', settings.engine_model or '')}"


def require_weights(model: Model) -> Model:
    """Return ``model`` if its files are here.

    Raises:
        InvalidModel: it is known by the name it has on a server alone.
    """
    if model.architecture != _ARCHITECTURE:
        return model
    raise InvalidModel(
        f"The weights of {model.name} are not here: it is served at {model.source}",
        got=model.name,
        wanted="a base model with weights, to train and to check adapters",
        hint="Say with RAGTUNE_MODEL (a file, a folder or a hub id) which model the server has, "
        "or take RAGTUNE_ENGINE_URL away to serve from here.",
    )
