"""The dense leg on a Milvus server. The importer of pymilvus.

One Milvus collection serves many generations: a row says with which generation it was born and with which it died, and
a generation sees the rows that lived then. So a build writes what changed and nothing else, readers of the generation
before are not disturbed, and a rollback writes nothing. A build from nothing begins a collection of its own; an alias
follows the current one, for whoever looks at Milvus by other means. Knows nothing of text nor of the store.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import DatabaseUnavailable, IndexMismatch, StorageCorrupt
from data.protocols import Hit, Index, Keys, Vectors
from data.records import content_id
from data.state import map_os_error, write_atomic
from retrieval.legs import DENSE
from retrieval.segments import Policy

ALIVE = 2**62
"""The generation with which a row dies that is alive."""
HNSW = {"M": 16, "efConstruction": 200}
"""As Milvus recommends for recall over 0.95 (milvus.io/docs/hnsw.md); searches look at ``EF`` candidates or 2 k."""
EF = 128
TIMEOUT_S = 10.0
_BATCH = 1000
_PAGE = 10_000
_MOST = 16_384
"""Milvus returns at most so many hits (milvus.io/docs/limitations.md)."""
_FILE = "milvus.json"
_NO_COLLECTION = 100


@contextmanager
def _mapped() -> Iterator[None]:
    from grpc import RpcError
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except MilvusException as error:
        if error.code == _NO_COLLECTION:
            raise StorageCorrupt(
                "The index is not on the Milvus server.",
                got=error.message,
                hint="Build it anew: ragtune index rebuild.",
            ) from error
        raise DatabaseUnavailable(
            f"Milvus failed: {error.message}", hint="Check the server of RAGTUNE_MILVUS_URI."
        ) from error
    except (RpcError, ConnectionError, ValueError) as error:
        raise DatabaseUnavailable(
            f"Milvus does not answer: {type(error).__name__}", hint="Check the server of RAGTUNE_MILVUS_URI."
        ) from error


class MilvusServer:
    """A connection to Milvus, made at first use and again after it failed; safe to share between threads.

    Args:
        uri: ``http://host:19530``, or the path of a file for Milvus Lite.
        token: ``user:password`` or an API key.
    """

    def __init__(self, uri: str, token: str = "") -> None:
        self._uri, self._token = uri, token
        self._client: Any = None
        self._mutex = threading.Lock()

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of pymilvus' client.

        Raises:
            DatabaseUnavailable: the server is down, refuses, or does not answer in time.
            StorageCorrupt: the collection is not there.
        """
        with _mapped():
            return getattr(self._connected(), method)(*arguments, timeout=TIMEOUT_S, **options)

    def pages(self, collection: str, filter: str, fields: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
        """Yield the rows that fit ``filter`` by pages. Raises as ``call``."""
        with _mapped():
            found = self._connected().query_iterator(
                collection, batch_size=_PAGE, filter=filter, output_fields=list(fields), timeout=TIMEOUT_S
            )
        try:
            while True:
                with _mapped():
                    page = list(found.next())
                if not page:
                    return
                yield page
        finally:
            found.close()

    def create(self, collection: str, dimension: int) -> None:
        """Make a collection for vectors of ``dimension`` components and load it. Raises as ``call``."""
        with _mapped():
            from pymilvus import DataType

            client = self._connected()
            schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=48)
            for name in ("key", "born", "died"):
                schema.add_field(name, DataType.INT64)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimension)
            indexes = client.prepare_index_params()
            indexes.add_index("vector", index_type="HNSW", metric_type="IP", params=HNSW)
            indexes.add_index("key", index_type="INVERTED")
            client.create_collection(
                collection, schema=schema, index_params=indexes, consistency_level="Strong", timeout=TIMEOUT_S
            )

    def _connected(self) -> Any:
        with self._mutex:
            if self._client is None:
                from pymilvus import MilvusClient

                self._client = MilvusClient(uri=self._uri, token=self._token, timeout=TIMEOUT_S)
            return self._client

    def close(self) -> None:
        """Close the connection."""
        with self._mutex:
            if self._client is not None:
                self._client.close()
            self._client = None


class MilvusIndex:
    """The dense leg of one generation, an ``Index`` by inner product.

    What is added or removed is on the server at once; no other generation sees it. Ties at the last of ``k`` hits are
    broken by Milvus, all others by key.

    Raises:
        DatabaseUnavailable: the server is down.
        IndexMismatch: the vectors there have another length than ``dimension``.
    """

    def __init__(self, server: MilvusServer, collection: str, generation: int, dimension: int) -> None:
        self._server, self._name = server, collection
        self._generation, self._dimension = generation, dimension
        self._seen = f"born <= {generation} and died > {generation}"
        described = server.call("describe_collection", collection)
        found = next(field["params"]["dim"] for field in described["fields"] if field["name"] == "vector")
        if int(found) != dimension:
            raise IndexMismatch(
                "The index holds vectors of another length.", got=found, wanted=str(dimension),
                hint="Build it anew: ragtune index rebuild.",
            )  # fmt: skip
        server.call("load_collection", collection)

    def add(self, keys: Sequence[int] | Keys, texts: Sequence[str], vectors: Vectors) -> None:  # noqa: ARG002
        """Add vectors of shape (len(keys), dimension), replacing those with the same keys."""
        if vectors.shape != (len(keys), self._dimension):
            raise IndexMismatch(
                "The vectors do not fit the index.",
                got=f"shape {vectors.shape}",
                wanted=f"shape ({len(keys)}, {self._dimension})",
            )
        self.remove(keys)
        born = self._generation
        rows = [
            {"id": f"{key}-{born}", "key": int(key), "born": born, "died": ALIVE, "vector": vector}
            for key, vector in zip(np.asarray(keys).tolist(), np.asarray(vectors, dtype=np.float32), strict=True)
        ]
        for start in range(0, len(rows), _BATCH):
            self._server.call("upsert", self._name, rows[start : start + _BATCH])

    def remove(self, keys: Sequence[int] | Keys) -> None:
        """Remove entries; absent keys are ignored."""
        for rows in self._rows(keys, ["id", "key", "born", "vector"]):
            own = [row["id"] for row in rows if row["born"] == self._generation]
            if own:
                self._server.call("delete", self._name, ids=own)
            older = [{**row, "died": self._generation} for row in rows if row["born"] != self._generation]
            if older:
                self._server.call("upsert", self._name, older)

    def search(self, query: str, vector: Vectors, k: int, allowed: Keys | None = None) -> list[Hit]:  # noqa: ARG002
        """Return the ``k`` nearest by inner product, of all or of the ``allowed``, best first; ties by key."""
        k = min(k, _MOST)
        if k < 1 or (allowed is not None and not len(allowed)):
            return []
        among = self._seen if allowed is None else f"{self._seen} and key in {allowed.tolist()}"
        (found,) = self._server.call(
            "search", self._name, data=np.asarray(vector, dtype=np.float32), filter=among, limit=k,
            output_fields=["key"], search_params={"params": {"ef": max(EF, 2 * k)}},
        )  # fmt: skip
        hits = [Hit(int(hit["entity"]["key"]), float(hit["distance"])) for hit in found]
        return sorted(hits, key=lambda hit: (-hit.score, hit.key))

    def vectors(self, keys: Sequence[int] | Keys) -> Vectors:
        """Return the vectors of ``keys``, shape (len(keys), dimension); zeros for those not held."""
        wanted = np.asarray(keys, dtype=np.int64).tolist()
        held = {row["key"]: row["vector"] for rows in self._rows(wanted, ["key", "vector"]) for row in rows}
        found = np.zeros((len(wanted), self._dimension), dtype=np.float32)
        for place, key in enumerate(wanted):
            if key in held:
                found[place] = held[key]
        return found

    def keys(self) -> Keys:
        """Return every key held, ascending."""
        pages = [np.array([row["key"] for row in page]) for page in self._server.pages(self._name, self._seen, ["key"])]
        return np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *pages])).astype(np.int64, copy=False)

    def save(self) -> None:
        """Let the server write what it holds in memory to its storage."""
        self._server.call("flush", self._name)

    def close(self) -> None:
        """Do nothing: others may search the same collection."""

    def __len__(self) -> int:
        (found,) = self._server.call("query", self._name, filter=self._seen, output_fields=["count(*)"])
        return int(found["count(*)"])

    def _rows(self, keys: Sequence[int] | Keys, fields: list[str]) -> Iterator[list[dict[str, Any]]]:
        wanted = np.unique(np.asarray(keys, dtype=np.int64)).tolist()
        for start in range(0, len(wanted), _BATCH):
            among = f"key in {wanted[start : start + _BATCH]} and {self._seen}"
            rows = self._server.call("query", self._name, filter=among, output_fields=fields)
            yield [{name: row[name] for name in fields} for row in rows]


class MilvusLegs:
    """The dense legs of an installation on one Milvus server.

    Args:
        server: where they are.
        home: the folder of all indexes; the installation's own name on the server is kept there.
    """

    def __init__(self, server: MilvusServer, home: Path) -> None:
        self._server, self._home = server, home

    def prepare(self, folder: Path, base: Path) -> None:  # noqa: ARG002
        """Undo what builds after ``base`` wrote: they failed, or were rolled back."""
        name, number = _collection_in(base), int(base.name)
        self._server.call("delete", name, filter=f"born > {number}")
        fields = ["id", "key", "born", "vector"]
        for page in self._server.pages(name, f"died > {number} and died < {ALIVE}", fields):
            rows = [{field: row[field] for field in fields} | {"died": ALIVE} for row in page]
            for start in range(0, len(rows), _BATCH):
                self._server.call("upsert", name, rows[start : start + _BATCH])

    def open(self, folder: Path, dimension: int, policy: Policy | None = None) -> Index:  # noqa: ARG002
        """Open the leg; a generation without one gets a collection of its own. Raises as ``MilvusIndex``."""
        file = folder / DENSE / _FILE
        if not file.is_file():
            name = f"{self._prefix(folder.parent)}_{secrets.token_hex(6)}"
            self._server.create(name, dimension)
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise map_os_error(error, file.parent) from error
            write_atomic(file, json.dumps({"collection": name}).encode())
        return MilvusIndex(self._server, _collection_in(folder), int(folder.name), dimension)

    def publish(self, folder: Path) -> None:
        """Let the alias of the collection of documents follow its current generation."""
        alias, name = self._prefix(folder.parent), _collection_in(folder)
        if self._aliases().get(alias) != name:
            method = "alter_alias" if alias in self._aliases() else "create_alias"
            self._server.call(method, name, alias)

    def collect(self, root: Path, kept: Sequence[int]) -> None:
        """Drop the collections that no kept generation is in, and the rows that died before the oldest of them."""
        used: dict[str, int] = {}
        for number in kept:
            if (root / str(number) / DENSE / _FILE).is_file():
                name = _collection_in(root / str(number))
                used[name] = min(number, used.get(name, number))
        aliases = {name: alias for alias, name in self._aliases().items()}
        for name in self._own(root):
            if name in used:
                self._server.call("delete", name, filter=f"died <= {used[name]}")
                continue
            if name in aliases:
                self._server.call("drop_alias", aliases[name])
            self._server.call("drop_collection", name)

    def _own(self, root: Path) -> list[str]:
        prefix = f"{self._prefix(root)}_"
        return [name for name in self._server.call("list_collections") if name.startswith(prefix)]

    def _aliases(self) -> Mapping[str, str]:
        """Return the collection of each alias of this installation."""
        names = [name for name in self._server.call("list_collections") if name.startswith(self._installation())]
        listed = {name: self._server.call("list_aliases", name)["aliases"] for name in names}
        return {alias: name for name, aliases in listed.items() for alias in aliases}

    def _prefix(self, root: Path) -> str:
        """Return how names on the server begin; they may hold ASCII letters, digits and underscores only."""
        return f"{self._installation()}_{content_id(root.name)[:12]}"

    def _installation(self) -> str:
        file = self._home / _FILE
        if not file.is_file():
            # A link appears whole or not at all, and the first of several servers wins.
            draft = self._home / f".{_FILE}.{secrets.token_hex(4)}"
            try:
                draft.write_text(json.dumps({"installation": f"ragtune_{secrets.token_hex(4)}"}))
                os.link(draft, file)
            except FileExistsError:
                pass
            except OSError as error:
                raise map_os_error(error, file) from error
            finally:
                draft.unlink(missing_ok=True)
        return _read(file, "installation")


def _collection_in(folder: Path) -> str:
    return _read(folder / DENSE / _FILE, "collection")


def _read(file: Path, field: str) -> str:
    try:
        found = str(json.loads(file.read_bytes())[field])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageCorrupt("The index does not say where it is on Milvus.", got=str(file)) from error
    if not re.fullmatch(r"\w+", found, re.ASCII):
        raise StorageCorrupt("The index names no collection of Milvus.", got=str(file))
    return found
