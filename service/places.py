"""Where what is kept is kept, and where work is done: here, or on the servers that are set.

Knows nothing of what is in them.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from data.errors import InvalidRequest
from data.state import StateDirectory
from service.settings import Settings

if TYPE_CHECKING:
    from data.store import Store
    from retrieval.legs import DenseLegs
    from retrieval.workers import Workers


def open_store(settings: Settings, state: StateDirectory) -> Store:
    """Open the SQL store: a SQLite file, or the PostgreSQL server of ``RAGTUNE_DATABASE_URL``.

    Raises:
        As ``Store.open``.
    """
    from data.store import Store

    url = settings.database_url
    return Store.open(state.db if url is None else url.get_secret_value())


def open_legs(settings: Settings, state: StateDirectory) -> DenseLegs:
    """Return where dense legs are: in files, or on the Milvus server of ``RAGTUNE_MILVUS_URI``.

    Raises:
        InvalidRequest: there is a server, and its client is not installed.
    """
    if not settings.milvus_uri:
        from retrieval.legs import FaissLegs

        return FaissLegs()
    if find_spec("pymilvus") is None:
        raise InvalidRequest(
            "Milvus needs its client.", got="no package pymilvus", hint="Run: pip install 'ragtune[cluster]'"
        )
    from retrieval.milvus import MilvusLegs, MilvusServer

    token = settings.milvus_token
    server = MilvusServer(settings.milvus_uri, token.get_secret_value() if token else "")
    return MilvusLegs(server, state.root / "index")


def open_workers(settings: Settings) -> Workers | None:
    """Return who parses, chunks and embeds: the Ray cluster of ``RAGTUNE_RAY_ADDRESS``, None for this process.

    Raises:
        InvalidRequest: the address is none, or Ray is not installed.
    """
    if not settings.ray_address:
        return None
    if find_spec("ray") is None:
        raise InvalidRequest(
            "A Ray cluster needs Ray.", got="no package ray", hint="Run: pip install 'ragtune[cluster]'"
        )
    from retrieval.ray import RayWorkers

    return RayWorkers(settings.ray_address)
