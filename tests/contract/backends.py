"""Everything that satisfies ``Generator``, made ready for the contract suite, each with what it can do.

Fast: a toy server of each dialect on a real socket. Slow: the local engine with the starter model, and the same
engine behind ragtune's own HTTP API. With RAGTUNE_TEST_LLAMA_SERVER=/path/to/llama-server also that program.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from data.errors import RagtuneError
from data.protocols import Generator
from data.records import Model
from data.state import StateDirectory
from data.store import Store
from service.engine.fleet import Fleet
from service.engine.openai import OpenAIGenerator
from tests.service.engine.fake_server import MODEL, WORDS, FakeServer

if TYPE_CHECKING:
    from service.engine import Engine

LLAMA_SERVER = os.environ.get("RAGTUNE_TEST_LLAMA_SERVER")
N_CTX = 1024
BASE_SHA256 = "b" * 64
NOISE = ("noise@1", "noise@2")
"""Keys of two adapters that every backend with adapters has."""

EVERYTHING = frozenset(
    {"top_k", "min_p", "repeat_penalty", "penalties", "logit_bias", "grammar", "json_schema", "logprobs", "adapters"}
    | {"scales"}
)
STANDARD = frozenset({"penalties", "json_schema", "logprobs", "adapters"})
FEATURES: dict[str, frozenset[str]] = {
    "llama-server": EVERYTHING,
    "vllm": EVERYTHING - {"scales"},
    "old-vllm": EVERYTHING - {"scales"},
    "ollama": STANDARD,
    "openai": STANDARD | {"logit_bias"},
    "engine": EVERYTHING,
    # Its adapters are arms that retrieve passages, so they are none of a Generator's.
    "ragtune": EVERYTHING - {"adapters", "scales"},
    "llama-server-binary": EVERYTHING,
    "fleet": EVERYTHING - {"scales"},
}
FAST = ("llama-server", "vllm", "old-vllm", "ollama", "openai", "fleet")
SLOW = ("engine", "ragtune", *(("llama-server-binary",) if LLAMA_SERVER else ()))


@dataclass(frozen=True, slots=True)
class Backend:
    """A generator under test.

    Attributes:
        name: of the backend.
        generator: ready, with the adapters of ``NOISE`` where it has adapters.
        features: what it can do, of ``EVERYTHING``; the rest it has to refuse by name.
        word: a token's id and text.
        down: returns a generator like it whose engine or server is gone.
        hung_up: waits for the sign that a request was given up; True where there is none to see.
    """

    name: str
    generator: Generator
    features: frozenset[str]
    word: tuple[int, str]
    down: Callable[[], Generator]
    hung_up: Callable[[], bool] = lambda: True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def unreachable() -> OpenAIGenerator:
    return OpenAIGenerator(f"http://127.0.0.1:{free_port()}/v1", "", MODEL)


def peft_folder(folder: Path, key: str) -> Path:
    """Make a folder as peft writes one; return the path of the GGUF in it, which only its name is needed of."""
    folder = folder.joinpath(*key.split("@"))
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    return folder / "adapter.gguf"


@contextmanager
def fake_backend(dialect: str, folder: Path) -> Iterator[Backend]:
    """Serve one dialect; vLLM loads the adapters at run time, the others have them from the start."""
    if dialect == "fleet":
        with fleet_backend(folder) as fleet:
            yield fleet
        return
    files = {key: peft_folder(folder, key) for key in NOISE}
    given = {
        "llama-server": {key: str(file) for key, file in files.items()},
        "ollama": {f"{key.replace('@', ':')}": "" for key in NOISE},
        "openai": {f"{key.replace('@', '-')}": "" for key in NOISE},
    }.get(dialect, {})
    model = MODEL if dialect in ("ollama", "openai") else ""  # their lists do not tell models from adapters
    with (
        FakeServer(dialect, adapters=given) as server,
        OpenAIGenerator(server.url, "", model, base_sha256=BASE_SHA256) as found,
    ):
        for key, file in files.items():
            found.add_adapter(key, file, BASE_SHA256)
        yield Backend(
            dialect, found, FEATURES[dialect], (5, WORDS[5]), unreachable, lambda: server.hung_up.wait(20)
        )  # fmt: skip


@contextmanager
def fleet_backend(folder: Path) -> Iterator[Backend]:
    """Serve the same model twice, behind one generator."""
    with FakeServer("vllm") as one, FakeServer("vllm") as two:
        servers = [OpenAIGenerator(server.url, "", MODEL, base_sha256=BASE_SHA256) for server in (one, two)]
        with Fleet(servers) as fleet:
            for key in NOISE:
                fleet.add_adapter(key, peft_folder(folder, key), BASE_SHA256)
            down = Fleet([unreachable(), unreachable()])
            yield Backend(
                "fleet", fleet, FEATURES["fleet"], (5, WORDS[5]), lambda: down,
                lambda: one.hung_up.wait(10) or two.hung_up.wait(10),
            )  # fmt: skip


@contextmanager
def starter_model(folder: Path) -> Iterator[Model]:
    from service.engine.models import ModelRegistry

    state = StateDirectory(folder / "state")
    state.create()
    store = Store.open(state.db)
    yield ModelRegistry(store, state, SimpleNamespace(n_threads=2)).resolve("starter")
    store.close()


@contextmanager
def running_engine(model: Model, files: dict[str, Path]) -> Iterator[Engine]:
    from service.engine import Engine

    with Engine(model, n_threads=2, n_ctx=N_CTX, sequences=2, queue_size=4) as engine:
        for key, file in files.items():
            engine.add_adapter(key, file, model.sha256)
        yield engine


def noise_files(folder: Path) -> dict[str, Path]:
    from tests.service.engine.gguf_files import write_lora

    return {key: write_lora(folder / f"{key}.gguf", strength) for key, strength in zip(NOISE, (0.2, 0.3), strict=True)}


def closed_engine(model: Model) -> Generator:
    from service.engine import Engine

    engine = Engine(model)
    engine.close()
    return engine


def engine_backend(engine: Engine, model: Model) -> Backend:
    word = (engine.tokenize(" the")[0], " the")
    return Backend("engine", engine, FEATURES["engine"], word, lambda: closed_engine(model))


@contextmanager
def ragtune_backend(engine: Engine, model: Model, folder: Path) -> Iterator[Backend]:
    """Serve ragtune's own API over ``engine``, and talk to it as to any server."""
    with ragtune_server(engine, model, folder) as url:
        generator = OpenAIGenerator(url, "", model.name)
        word = (engine.tokenize(" the")[0], " the")
        yield Backend("ragtune", generator, FEATURES["ragtune"], word, unreachable)
        generator.close()


@contextmanager
def ragtune_server(engine: Generator, model: Model, folder: Path) -> Iterator[str]:
    import uvicorn

    from service.app import create_app
    from service.settings import Settings
    from service.workspace import Workspace
    from tests.service.parts import HashEmbedder, wait_until

    settings = Settings.load(state_dir=folder / "served", log_level="WARNING")
    workspace = Workspace(settings, embedder=HashEmbedder(), generator=engine, model=model)
    assert workspace.store.collections.names() == ["default"]
    server = uvicorn.Server(uvicorn.Config(create_app(workspace, run_jobs=False), log_config=None, ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        server.should_exit = True
        thread.join(30)
    workspace.store.close()  # the engine is someone else's


@contextmanager
def llama_server_backend(engine: Engine, model: Model, files: dict[str, Path]) -> Iterator[Backend]:
    """Run the real llama-server on the file that the local engine serves."""
    assert LLAMA_SERVER is not None
    port = free_port()
    options: dict[str, Any] = {
        "--model": model.gguf, "--port": port, "--ctx-size": 2 * N_CTX, "--parallel": 2, "--threads": 2,
        "--lora": ",".join(map(str, files.values())),
    }  # fmt: skip
    command = [LLAMA_SERVER, "--host", "127.0.0.1", *(str(word) for option in options.items() for word in option)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            generator = OpenAIGenerator(f"http://127.0.0.1:{port}/v1", base_sha256=model.sha256)
            wait_for(generator)
            for key, file in files.items():
                generator.add_adapter(key, file, model.sha256)
            word = (engine.tokenize(" the")[0], " the")
            name = "llama-server-binary"
            yield Backend(name, generator, FEATURES[name], word, unreachable)
            generator.close()
        finally:
            process.terminate()


def wait_for(generator: OpenAIGenerator, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            generator.check()
        except RagtuneError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
