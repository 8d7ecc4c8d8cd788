"""A BERT encoder in plain torch: what most small embedding models are, without the libraries around them.

sentence-transformers and transformers take longer to import, and more memory, than this takes to
embed a small corpus. Computes what they compute (a test compares the two) for the models that
``retrieval.architecture`` lets through. Knows nothing of prefixes or of where models come from.
"""

from __future__ import annotations

import json
import math
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch.nn import functional

from data.errors import InvalidModel
from data.protocols import Keys, Vectors
from retrieval.architecture import Architecture

_BATCH_TOKENS = 512
"""Tokens in a forward pass, padding included: with more, activations take more memory than loading does."""
_BUCKET = 16
"""Lengths are padded to multiples of this: attention comes in few shapes."""
_ROWS = 64
"""Tokens of a forward pass are filled up to multiples of this: oneDNN keeps kernels for each number of them, in
each thread."""
_DTYPES = {"F32": np.float32, "F16": np.float16}
_MIN_COSINE = 0.9995
"""Of bfloat16 to float32 vectors, on probe texts."""


class Encoder:
    """A loaded model; threads may share it.

    ``dtype`` is float32, bfloat16, or auto: bfloat16 where ``native_bfloat16`` and the vectors of the
    ``probe`` token ids stay the same. Layers are read one by one, so loading never holds the weights
    twice.

    Raises:
        InvalidModel: the weights cannot be read or do not fit the configuration.
    """

    def __init__(
        self, folder: Path, shape: Architecture, dtype: str, *, native_bfloat16: bool, probe: Sequence[list[int]]
    ) -> None:
        self._shape = shape
        # A batch to a thread: threads that share one wait for each other at every operation, and where other
        # work keeps a core busy each wait costs a time slice.
        self._threads = ThreadPoolExecutor(torch.get_num_threads(), "encoder", torch.set_num_threads, (1,))
        wanted = torch.bfloat16 if dtype == "bfloat16" or (dtype == "auto" and native_bfloat16) else torch.float32
        path = folder / "model.safetensors"
        try:
            # In a thread that goes on to compute: each has kernels and scratch memory of its own.
            loss = self._threads.submit(self._load, path, wanted, probe).result()
            if dtype == "auto" and loss > 1 - _MIN_COSINE:
                self._threads.submit(self._load, path, torch.float32, probe).result()
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise InvalidModel(f"The embedding model cannot be loaded: {error}", got=str(folder)) from error

    def _load(self, path: Path, dtype: torch.dtype, probe: Sequence[list[int]]) -> float:
        """Read the weights as ``dtype``; return how far that turns the probe's vectors (1 - cosine, the worst)."""
        exact = torch.float32
        ids, mask = self._padded(probe)
        with path.open("rb") as file, torch.inference_mode():
            weights = _Weights(file)
            x32 = _Embedding(weights, self._shape, exact)(ids)
            self._embedding = _Embedding(weights, self._shape, dtype)
            x = self._embedding(ids)
            self._layers = []
            for number in range(self._shape.layers):
                layer = _Layer(weights, number, self._shape, exact)
                if dtype != exact:
                    x32 = layer(x32, mask)
                    layer = layer.to(dtype)
                x = layer(x, mask)
                self._layers.append(layer)
            if dtype == exact:
                return 0.0
            near = functional.cosine_similarity(self._pool(x32, mask), self._pool(x, mask))
            return 1 - float(near.min())

    def encode(self, token_ids: Sequence[list[int]]) -> Vectors:
        """Embed texts given as token ids with their special tokens; float32 of unit length, in that order."""
        vectors = np.zeros((len(token_ids), self._shape.dimension), dtype=np.float32)
        batches = list(self._batches(token_ids))
        found = self._threads.map(self._forward, ([token_ids[row] for row in batch] for batch in batches))
        for batch, rows in zip(batches, found, strict=True):
            vectors[batch] = rows
        return vectors

    def _forward(self, token_ids: Sequence[list[int]]) -> Vectors:
        ids, mask = self._padded(token_ids)
        with torch.inference_mode():
            x = self._embedding(ids)
            for layer in self._layers:
                x = layer(x, mask)
            rows: Vectors = functional.normalize(self._pool(x, mask), dim=1).numpy()
        return rows

    def _batches(self, token_ids: Sequence[list[int]]) -> Iterator[list[int]]:
        """Yield row numbers by length, in batches of at most ``_BATCH_TOKENS`` with their padding."""
        batch: list[int] = []
        for row in sorted(range(len(token_ids)), key=lambda row: len(token_ids[row])):
            width = _bucket(min(len(token_ids[row]), self._shape.max_tokens))
            if batch and width * (len(batch) + 1) > _BATCH_TOKENS:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _padded(self, token_ids: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and mask, shape (n, width); what is too long loses its middle's end, not its last token."""
        longest = self._shape.max_tokens
        cut = [ids if len(ids) <= longest else [*ids[: longest - 1], ids[-1]] for ids in token_ids]
        width = min(_bucket(max(map(len, cut))), longest)
        ids = torch.full((len(cut), width), self._shape.pad, dtype=torch.int64)
        mask = torch.zeros((len(cut), width), dtype=torch.bool)
        for row, values in enumerate(cut):
            ids[row, : len(values)] = torch.tensor(values)
            mask[row, : len(values)] = True
        return ids, mask

    def _pool(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = x[: mask.numel()].view(*mask.shape, -1)
        if self._shape.pooling == "cls":
            return x[:, 0].float()
        kept = mask.unsqueeze(-1)
        return (x.float() * kept).sum(1) / kept.sum(1)


class _Weights:
    """Reads tensors out of a safetensors file by name, one at a time and without mapping it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= 100 * 2**20:
            raise ValueError("its weights are no safetensors file")
        header = json.loads(file.read(length))
        self._start = 8 + length
        prefix = next(
            (name for name in ("", "bert.", "roberta.") if f"{name}embeddings.LayerNorm.weight" in header), ""
        )
        self._tensors = {name.removeprefix(prefix): entry for name, entry in header.items()}

    def __call__(self, name: str) -> torch.Tensor:
        entry = self._tensors[name]
        begin, end = entry["data_offsets"]
        self._file.seek(self._start + begin)
        values = np.fromfile(self._file, dtype=_DTYPES[entry["dtype"]], count=math.prod(entry["shape"]))
        if values.nbytes != end - begin:
            raise ValueError(f"its weights end within {name}")
        return torch.from_numpy(values.reshape(entry["shape"])).float()

    def rows(self, name: str, dtype: torch.dtype) -> _Rows:
        """Return a matrix whose rows are read when they are first asked for, also after the file is closed."""
        entry = self._tensors[name]
        begin, end = entry["data_offsets"]
        count, width = entry["shape"]
        stored = np.dtype(_DTYPES[entry["dtype"]])
        if end - begin != count * width * stored.itemsize or self._start + end > os.fstat(self._file.fileno()).st_size:
            raise ValueError(f"its weights end within {name}")
        return _Rows(os.dup(self._file.fileno()), self._start + begin, stored, torch.empty((count, width), dtype=dtype))


class _Rows:
    """A matrix in a file. What was not asked for takes no memory: most texts hold a few thousand different words.

    Thread-safe.
    """

    def __init__(self, descriptor: int, start: int, stored: np.dtype[Any], held: torch.Tensor) -> None:
        """Take over the open file; ``held`` has the matrix's shape, and memory that nobody has touched."""
        self._descriptor, self._start, self._stored, self._held = descriptor, start, stored, held
        # Where each row is held, -1 before: in the order in which they came, so that pages of memory fill up.
        self._places = np.full(len(held), -1, dtype=np.int64)
        self._count = 0
        self._lock = threading.Lock()
        weakref.finalize(self, os.close, descriptor)

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the rows of these numbers; the shape of ``ids``, then the width."""
        wanted = ids.numpy()
        places = self._places[wanted]
        if (places < 0).any():
            with self._lock:
                self._read(np.unique(wanted[self._places[wanted] < 0]))
            places = self._places[wanted]
        return functional.embedding(torch.from_numpy(places), self._held)

    def _read(self, new: Keys) -> None:
        size = self._held.shape[1] * self._stored.itemsize
        parts = [os.pread(self._descriptor, size, self._start + int(row) * size) for row in new]
        values = np.frombuffer(b"".join(parts), dtype=self._stored).astype(np.float32)
        last = self._count + len(new)
        self._held[self._count : last] = torch.from_numpy(values.reshape(len(new), self._held.shape[1]))
        self._places[new] = np.arange(self._count, last)  # last: other threads look here without the lock
        self._count = last


class _Module:
    """Some named tensors."""

    _tensors: dict[str, torch.Tensor]

    def to(self, dtype: torch.dtype) -> Any:
        """Convert the tensors where they are, and return the module."""
        converted = object.__new__(type(self))
        converted.__dict__ = {**self.__dict__, "_tensors": {k: v.to(dtype) for k, v in self._tensors.items()}}
        return converted


class _Embedding(_Module):
    """Token ids to vectors."""

    def __init__(self, weights: _Weights, shape: Architecture, dtype: torch.dtype) -> None:
        self._shape = shape
        types = weights("embeddings.token_type_embeddings.weight")
        self._words = weights.rows("embeddings.word_embeddings.weight", dtype)
        self._tensors = {
            "positions": (weights("embeddings.position_embeddings.weight") + types[0]).to(dtype),
            "norm": weights("embeddings.LayerNorm.weight").to(dtype),
            "norm_bias": weights("embeddings.LayerNorm.bias").to(dtype),
        }

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Return shape (rows, dimension): one text after the other, then zeros up to a multiple of ``_ROWS``."""
        held, first = self._tensors, self._shape.first_position
        x = self._words(ids).add_(held["positions"][first : first + ids.shape[1]])
        x = functional.layer_norm(x, (self._shape.dimension,), held["norm"], held["norm_bias"], self._shape.eps)
        return functional.pad(x.flatten(0, 1), (0, 0, 0, -ids.numel() % _ROWS))


class _Layer(_Module):
    """Self-attention and feed-forward, each with its residual and norm."""

    def __init__(self, weights: _Weights, number: int, shape: Architecture, dtype: torch.dtype) -> None:
        self._shape = shape
        prefix = f"encoder.layer.{number}."
        inputs = [prefix + f"attention.self.{name}." for name in ("query", "key", "value")]
        names = {"out": "attention.output.dense", "norm1": "attention.output.LayerNorm", "up": "intermediate.dense"}
        names |= {"down": "output.dense", "norm2": "output.LayerNorm"}
        self._tensors = {
            "qkv": torch.cat([weights(name + "weight") for name in inputs]).to(dtype),
            "qkv_bias": torch.cat([weights(name + "bias") for name in inputs]).to(dtype),
        }
        for short, name in names.items():
            self._tensors[short] = weights(f"{prefix}{name}.weight").to(dtype)
            self._tensors[f"{short}_bias"] = weights(f"{prefix}{name}.bias").to(dtype)

    def __call__(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        (count, width), heads = mask.shape, self._shape.heads
        qkv = self._linear("qkv", x)[: count * width].view(count, width, 3, heads, -1).permute(2, 0, 3, 1, 4)
        allowed = None if bool(mask.all()) else mask[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], attn_mask=allowed)
        joined = torch.zeros_like(x)
        joined[: count * width].view(count, width, heads, -1).copy_(mixed.transpose(1, 2))
        del qkv, mixed
        x = self._norm("norm1", self._linear("out", joined).add_(x))
        wide = torch.ops.aten.gelu_(self._linear("up", x))
        return self._norm("norm2", self._linear("down", wide).add_(x))

    def _linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self._tensors[name], self._tensors[f"{name}_bias"])

    def _norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        tensors = self._tensors
        return functional.layer_norm(x, (x.shape[-1],), tensors[name], tensors[f"{name}_bias"], self._shape.eps)


def _bucket(length: int) -> int:
    return -(-length // _BUCKET) * _BUCKET
