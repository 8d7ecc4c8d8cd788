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
    from retrieval.milvus import MilvusServer
    from retrieval.workers import Workers
    from service.engine.spread import SpreadEngines
    from service.workspace import Workspace


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
    server = open_milvus(settings)
    from retrieval.milvus import MilvusLegs

    return MilvusLegs(server, state.root / "index")


def open_milvus(settings: Settings) -> MilvusServer:
    """Return the Milvus server of ``RAGTUNE_MILVUS_URI``, which is set; nothing is connected yet.

    Raises:
        InvalidRequest: its client is not installed.
    """
    if find_spec("pymilvus") is None:
        raise InvalidRequest(
            "Milvus needs its client.", got="no package pymilvus", hint="Run: pip install 'ragtune[cluster]'"
        )
    from retrieval.milvus import MilvusServer

    assert settings.milvus_uri is not None
    token = settings.milvus_token
    return MilvusServer(settings.milvus_uri, token.get_secret_value() if token else "")


def open_workers(settings: Settings) -> Workers | None:
    """Return who parses, chunks and embeds: the Ray cluster of ``RAGTUNE_RAY_ADDRESS``, None for this process.

    Raises:
        InvalidRequest: the address is none, or Ray is not installed.
    """
    if not settings.ray_address:
        return None
    require_ray()
    from retrieval.ray import RayWorkers

    return RayWorkers(settings.ray_address)


def require_ray() -> None:
    """Raise ``InvalidRequest`` where Ray is not installed."""
    if find_spec("ray") is None:
        raise InvalidRequest(
            "A Ray cluster needs Ray.", got="no package ray", hint="Run: pip install 'ragtune[cluster]'"
        )


def open_engines(workspace: Workspace, together: int) -> SpreadEngines:
    """Return an engine on every node of the workspace's Ray cluster, each of which is at ``together`` requests.

    Raises:
        As ``Workspace.model``.
    """
    from retrieval.ray import RayActors, RayWorkers
    from service.engine.nodes import EngineRecipe
    from service.engine.spread import SpreadEngines

    workers = workspace.workers
    assert isinstance(workers, RayWorkers)
    recipe = EngineRecipe.of(workspace.model, workspace.engine_options(workspace.model))
    return SpreadEngines(RayActors(workers.cluster, recipe, together), recipe)
