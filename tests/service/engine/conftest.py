from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from data.records import Model
from data.state import StateDirectory
from data.store import Store
from service.engine import Engine
from service.engine.models import ModelRegistry

SETTINGS = SimpleNamespace(n_threads=2)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelRegistry]:
    state = StateDirectory(tmp_path_factory.mktemp("state"))
    state.create()
    store = Store.open(state.db)
    yield ModelRegistry(store, state, SETTINGS)
    store.close()


@pytest.fixture(scope="session")
def starter(registry: ModelRegistry) -> Model:
    return registry.resolve("starter")


@pytest.fixture(scope="module")
def engine(starter: Model) -> Iterator[Engine]:
    with Engine(starter, n_threads=2, n_ctx=1024, sequences=2, queue_size=2) as running:
        yield running
