"""The composition root: puts the parts together over one state directory, each on first use.

The one place that chooses implementations; everything else is handed the parts it needs. Heavy
libraries are imported when their part is first used. Knows nothing of HTTP or of the command line.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import EngineUnavailable, UnknownAdapter
from data.prompt import answer_messages
from data.protocols import Embedder, GenerationRequest, Generator
from data.records import Adapter, Model
from data.state import StateDirectory
from service.adapter_files import adapter_gguf
from service.answerer import Answerer
from service.arms import adapter_label
from service.places import open_legs, open_store, open_workers
from service.reranking import cross_encoder, likelihood_reranker
from service.serving import AdapterHost, ScoringEngine, local_options, open_server, require_weights, server_model
from service.settings import Rerank, Settings
from service.spans import traced_reranker

if TYPE_CHECKING:
    from data.store import Store
    from retrieval.embedders import Embedders
    from retrieval.ingest import Ingestor
    from retrieval.legs import DenseLegs
    from retrieval.rerank import Reranker
    from retrieval.retriever import Retriever
    from retrieval.tuned import TunedEmbedders
    from retrieval.workers import Workers
    from service.engine import EngineOptions
    from service.engine.fleet import Fleet
    from service.engine.models import ModelRegistry
    from service.engine.openai import OpenAIGenerator
    from service.engine.tuning import Tuning


class Workspace:
    """The parts of ragtune over one state directory; a context manager that closes what was opened.

    Args:
        settings: where the state is and what to serve.
        embedder: used instead of the configured one.
        generator: used instead of the local engine or the configured server.
        model: the base model, where ``generator`` is given or a server serves.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        embedder: Embedder | None = None,
        generator: Generator | None = None,
        model: Model | None = None,
    ) -> None:
        self.settings = settings
        self._embedder = embedder
        self._generator = generator
        self.serves_here = generator is None and not settings.engine_url
        self._model = model
        self._loaded: set[str] = set()
        self._mutex = threading.RLock()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def lock(self, url: str = "") -> AbstractContextManager[None]:
        """Return the lock on the state directory, held by one server or one command at a time.

        Where the store is on a server they share the directory: leases and the database's own locks keep them apart.

        Raises:
            StateLocked: another process holds it.
            StateNotWritable: the state directory cannot be made or written.
        """
        return self.state.lock(url, shared=self.shares_state)

    @property
    def shares_state(self) -> bool:
        """Whether other servers may work on the same store and state directory at the same time."""
        return self.settings.database_url is not None

    @cached_property
    def state(self) -> StateDirectory:
        """The state directory, created where it was missing."""
        state = StateDirectory(self.settings.state_dir)
        state.create()
        return state

    @cached_property
    def store(self) -> Store:
        """The SQL store, migrated."""
        with self._mutex:
            return open_store(self.settings, self.state)

    @cached_property
    def embedder(self) -> Embedder:
        """The embedding model that is configured; an index built with a tuned one is searched with that."""
        if self._embedder is not None:
            return self._embedder
        from retrieval.embed import SentenceTransformerEmbedder, starter_embedder_path

        name = self.settings.embedder
        source = str(starter_embedder_path()) if name == "starter" else name
        return SentenceTransformerEmbedder(source, batch_size=self.settings.embed_batch_size)

    @cached_property
    def tuned(self) -> TunedEmbedders:
        """The tuned embedders."""
        from retrieval.embed import SentenceTransformerEmbedder
        from retrieval.tuned import TunedEmbedders

        size = self.settings.embed_batch_size
        return TunedEmbedders(
            self.state, self.store, lambda folder: SentenceTransformerEmbedder(folder, batch_size=size)
        )

    @cached_property
    def embedders(self) -> Embedders:
        """Which embedder each collection is searched with."""
        from retrieval.embedders import Embedders

        return Embedders(self.store, self.embedder, self.tuned.find)

    @cached_property
    def legs(self) -> DenseLegs:
        """Where the vectors of index generations are."""
        return open_legs(self.settings, self.state)

    @cached_property
    def workers(self) -> Workers | None:
        """Who parses, chunks and embeds; None for this process."""
        return open_workers(self.settings)

    @cached_property
    def retriever(self) -> Retriever:
        """The production retriever."""
        from retrieval.retriever import Retriever

        return Retriever(self.store, self.state, self.embedder, self.tuned.find, self.legs)

    def reranker(self, kind: Rerank | None = None) -> Reranker | None:
        """Return what reads the best passages again, None if nothing does; ``kind`` None takes the configured one.

        Raises:
            InvalidRequest: what ``kind`` needs is not configured.
        """
        wanted = kind or self.settings.rerank
        if wanted == "off":
            return None
        chosen = self._cross_encoder if wanted == "cross-encoder" else likelihood_reranker(self.generator)
        return traced_reranker(chosen)

    @cached_property
    def _cross_encoder(self) -> Reranker:
        return cross_encoder(self.settings.cross_encoder)

    @cached_property
    def ingestor(self) -> Ingestor:
        """What turns files into documents, chunks and index generations."""
        from retrieval.ingest import Ingestor

        find, legs, workers = self.tuned.find, self.legs, self.workers
        return Ingestor(self.store, self.state, self.embedder, self.settings, find=find, legs=legs, workers=workers)

    @cached_property
    def models(self) -> ModelRegistry:
        """The base models known here."""
        from service.engine.models import ModelRegistry

        return ModelRegistry(self.store, self.state, self.settings)

    @cached_property
    def model(self) -> Model:
        """The base model served: the one set, else the store's default, else the starter.

        A server's is the one set, which says what it serves; else one that is known by its name alone: nothing can
        be trained for it, and it has no adapters.
        """
        if self._model is not None:
            return self._model
        with self._mutex, self._alone("model"):
            if "model" in self.settings.model_fields_set:
                return self.models.resolve(self.settings.model)
            if self.settings.engine_url:
                generator = self.generator
                return server_model(self.settings, generator.model, getattr(generator, "url", ""))
            return self.store.models.default() or self.models.resolve(self.settings.model)

    @property
    def generator(self) -> Generator:
        """The engine, started on first use, or the server that is configured in its place."""
        with self._mutex:
            if self._generator is None:
                self._generator = self._server() if self.settings.engine_url else self.new_engine()
            return self._generator

    def _server(self) -> OpenAIGenerator | Fleet:
        said = self._model is not None or "model" in self.settings.model_fields_set
        return open_server(self.settings, self.model if said else None)

    def check_engine(self) -> str:
        """Start the engine, or ask the server in its place what it is; return a line about it.

        Raises:
            EngineError: it cannot be started, or does not answer.
            Unauthorized: the server refuses the key.
        """
        from service.engine.fleet import Fleet
        from service.engine.openai import OpenAIGenerator

        generator = self.generator
        if not isinstance(generator, OpenAIGenerator | Fleet):
            return f"{self.model.name} ({self.model.architecture})"
        found = generator.check()
        return f"{generator.url} ({found.dialect.name}) with {', '.join(found.models) or 'no list of models'}"

    @contextmanager
    def scoring_engine(self) -> Iterator[ScoringEngine]:
        """Give an engine that shows logits: the one that serves, else a local one for as long as it is needed.

        Raises:
            InvalidModel: a server serves, and the model's weights are not here.
            EngineUnavailable: a generator that was passed in shows none.
        """
        generator = self.generator
        if isinstance(generator, ScoringEngine):
            yield generator
        elif self.settings.engine_url:
            require_weights(self.model)
            with self.new_engine() as engine:
                yield engine
        else:
            raise EngineUnavailable("A trained adapter is checked on the local engine, and another one serves here")

    @property
    def started_generator(self) -> Generator | None:
        """The engine if it was started, None before: to look at it starts nothing and waits for nothing."""
        return self._generator

    def new_engine(self, quantization: str = "") -> Any:
        """Return a started engine of one's own (the caller closes it); in another quantization only weights differ."""
        from service.engine import Engine
        from service.engine.memory import check_memory, demand

        options = self.engine_options(self.model)
        model = self.models.quantized(self.model, quantization) if quantization else self.model
        check_memory(model.name, demand(model, options))
        engine = Engine(model, options)
        engine.start()
        return engine

    def engine_options(self, model: Model) -> EngineOptions:
        """Return how ``model`` is served: as set, else as measured on this machine, else by default."""
        return local_options(self.settings, self.models.tuning(model), self.state.kv)

    def teacher_at(self, url: str) -> Generator:
        """Return the OpenAI-compatible server at ``url`` as a generator."""
        from service.engine.openai import OpenAIGenerator

        # The operator's key is for the operator's teacher, not for any URL that is named.
        key = self.settings.teacher_api_key if url == self.settings.teacher_url else None
        return OpenAIGenerator(url, key.get_secret_value() if key else "", self.settings.teacher_model)

    @cached_property
    def answerer(self) -> Answerer:
        """What answers questions."""
        return Answerer(self)

    def adapter_file(self, adapter: Adapter, name: str) -> Path:
        """Return the path of one of an adapter's files (kept relative to the state directory).

        Raises:
            UnknownAdapter: the adapter has no such file.
        """
        relative = adapter.files.get(name)
        if relative is None:
            raise UnknownAdapter(f"The adapter {adapter_label(adapter)} has no file {name}", got=name)
        return self.state.root / relative

    def adapter_key(self, adapter: Adapter) -> str:
        """Return the key under which the generator knows ``adapter``, loading it on first use.

        Raises:
            BaseModelMismatch: trained for another base model.
            AdapterInert: it does not change the logits.
        """
        key = adapter_label(adapter)
        generator = self.generator
        with self._mutex:
            if key not in self._loaded and isinstance(generator, AdapterHost):
                gguf = str(self.adapter_gguf(adapter))
                generator.add_adapter(key, gguf, adapter.base_sha256, adapter.attention)
                self._loaded.add(key)
        return key

    def forget_adapter(self, adapter: Adapter) -> None:
        """Unload an adapter that is about to be deleted."""
        key = adapter_label(adapter)
        with self._mutex:
            generator: object = self._generator
            if key in self._loaded and isinstance(generator, AdapterHost):
                generator.remove_adapter(key)
                self._loaded.discard(key)

    def adapter_gguf(self, adapter: Adapter) -> Path:
        """Return the GGUF of ``adapter``; as ``service.adapter_files.adapter_gguf``."""
        return adapter_gguf(self, adapter)

    def ensure_starter_adapters(self) -> tuple[str, ...]:
        """Register the packaged adapters where the base model is the starter; return their names."""
        from service.starter import register_starter_adapters

        model = self.model
        with self._alone("starter"):
            return register_starter_adapters(self.store, self.state, model)

    def _alone(self, what: str) -> AbstractContextManager[None]:
        """Keep other servers of the same state directory from making the same files at the same time."""
        return self.state.turn(what) if self.shares_state else nullcontext()

    def ensure_tuned(self) -> None:
        """Measure how the base model is served fastest here, unless that is known or another server serves it."""
        elsewhere = self._generator is not None or self.settings.engine_url
        if not elsewhere and self.models.tuning(self.model) is None:
            self.tune(self.model)

    def tune(self, model: Model, *, anew: bool = True) -> Tuning:
        """Measure how ``model`` is served fastest here, and keep it.

        Keys and values take 8 bits where only those fit into memory.

        Args:
            model: a resolved one.
            anew: measure it although it was measured.

        Raises:
            As ``ModelRegistry.tune``.
        """
        tuning = (None if anew else self.models.tuning(model)) or self.models.tune(model)
        fitting = self.fitting_options(model)
        if fitting != self.engine_options(model):
            tuning = replace(tuning, kv_type=fitting.kv_type, flash_attention=fitting.flash_attention)
            self.models.keep_tuning(model, tuning)
        return tuning

    def fitting_options(self, model: Model) -> EngineOptions:
        """Return the engine's options for ``model``, its keys and values in 8 bits where only those fit into memory.

        What was set stays as it was set.
        """
        from service.engine.memory import smaller_if_needed

        options = self.engine_options(model)
        free = self.settings.kv_type is None and self.settings.flash_attention is not False
        return smaller_if_needed(model, options) if free else options

    def warm(self) -> None:
        """Start the engine and answer one trivial question, so that the first real one is not slow."""
        self.generator.generate(GenerationRequest(answer_messages("Ready?", ()), max_tokens=1))

    def close(self) -> None:
        """Stop the engine and release the store; safe to call twice."""
        with self._mutex:
            close = getattr(self._generator, "close", None)
            if close is not None:
                close()
            self._generator = None
            self._loaded.clear()
            if "retriever" in self.__dict__ and hasattr(self.retriever, "close"):
                self.retriever.close()
            if (workers := self.__dict__.pop("workers", None)) is not None:
                workers.close()
            if "store" in self.__dict__:
                self.store.close()
                del self.__dict__["store"]
