"""An embedder without weights, for tests that are about anything else than embeddings."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.protocols import Vectors

DIMENSION = 64


@dataclass(frozen=True)
class Settings:
    chunk_size: int = 40
    chunk_overlap: int = 0
    max_document_bytes: int = 100 * 2**20


class HashingEmbedder:
    """Embeds a text as the sum of one pseudo-random direction for each of its words."""

    def __init__(self, fingerprint: str = "hashing") -> None:
        self.fingerprint = fingerprint
        self.dimension = DIMENSION
        self.embedded: list[str] = []

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        self.embedded.extend(texts)
        return self.embed_queries(texts)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self._embed(text) for text in texts])

    def count_tokens(self, text: str) -> int:
        return len(re.findall(r"\w+|[^\w\s]", text))

    def _embed(self, text: str) -> Vectors:
        words = re.findall(r"\w+", text.lower()) or [""]
        seeds = [int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big") for word in words]
        total = np.sum([np.random.default_rng(seed).standard_normal(DIMENSION) for seed in seeds], axis=0)
        return (total / np.linalg.norm(total)).astype(np.float32)
