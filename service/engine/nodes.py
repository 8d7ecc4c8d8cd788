"""An engine on a node of a cluster: what it is made from, and what it is asked to do there.

Everything here crosses to another machine as a value. The node needs the same ragtune; the model's files and the
adapters are sent to it where it does not have them. A model's file is kept there for later engines; adapters are
kept as long as the engine. Knows nothing of how they are sent.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from data.errors import EngineUnavailable, InvalidModel, StateNotWritable
from data.model_files import source_files
from data.protocols import GenerationRequest, GenerationResult
from data.records import Model
from data.state import map_os_error, sha256_file, write_atomic
from service.engine.engine import Engine, EngineOptions

_BLOCK = 8 * 2**20
"""Bytes of a model's file that are sent at a time."""
_ENGINE = "engine-"
"""How the folders begin whose contents are kept as long as an engine."""


def versions() -> dict[str, str]:
    """Return the versions that decide what an engine writes."""
    return {name: version(name) for name in ("ragtune", "llama-cpp-python")}


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One of the files that are served: name, bytes, hash."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a model's file."""

    file: ModelFile
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """An adapter's GGUF, under the key that requests name it by."""

    key: str
    data: bytes
    base_sha256: str
    attention: str


@dataclass(frozen=True, slots=True)
class EngineRecipe:
    """What an engine on a node is made from; called there with the number of its processors."""

    model: Model
    options: EngineOptions
    files: tuple[ModelFile, ...]
    versions: Mapping[str, str]

    @classmethod
    def of(cls, model: Model, options: EngineOptions) -> EngineRecipe:
        """Return the recipe of an engine that writes what one here writes; hashes the model's files."""
        files = tuple(ModelFile(path.name, path.stat().st_size, sha256_file(path)) for path in _served(model))
        return cls(model, replace(options, kv_folder=None), files, versions())

    def __call__(self, processors: int) -> NodeEngine:
        """Return the engine, not started yet.

        Raises:
            EngineUnavailable: the versions here are others.
        """
        if versions() != self.versions:
            raise EngineUnavailable(
                "The version of ragtune or of its engine is another one here.",
                got=_told(versions()),
                wanted=_told(self.versions),
                hint="Install the same versions on every node.",
            )
        return NodeEngine(replace(self, options=replace(self.options, n_threads=processors)))

    def blocks(self, names: tuple[str, ...]) -> Iterator[Block]:
        """Yield the contents of the files with these names, from here.

        Raises:
            InvalidModel: a file is gone or cannot be read.
        """
        for path, file in zip(_served(self.model), self.files, strict=True):
            if file.name not in names:
                continue
            try:
                with path.open("rb") as opened:
                    while data := opened.read(_BLOCK):
                        yield Block(file, opened.tell() - len(data), data)
            except OSError as error:
                raise InvalidModel(f"The model cannot be read: {error.strerror}", got=str(path)) from error


def _served(model: Model) -> list[Path]:
    try:
        return source_files(Path(model.gguf))
    except OSError as error:
        raise InvalidModel(f"The model cannot be read: {error.strerror}", got=model.gguf) from error


def _told(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in found.items())


class NodeEngine:
    """The engine on a node, started when its model is there. For the functions of this module."""

    def __init__(self, recipe: EngineRecipe) -> None:
        self.recipe = recipe
        self.engine: Engine | None = None

    @cached_property
    def folder(self) -> Path:
        """The folder of what is kept as long as this engine. Raises as ``_folder``."""
        path, lock = _temporary()
        weakref.finalize(self, _drop, path, lock)
        return path

    @property
    def running(self) -> Engine:
        """The engine, which was started before it is asked."""
        assert self.engine is not None
        return self.engine


def lacking(node: NodeEngine, _: None) -> tuple[str, ...]:
    """Return the names of the model's files that are neither at the path that they have at home nor kept here."""
    return tuple(file.name for file in node.recipe.files if _found(node.recipe.model, file) is None)


def _found(model: Model, file: ModelFile) -> Path | None:
    for path in (Path(model.gguf).parent / file.name, _kept(file)):
        if path.is_file() and path.stat().st_size == file.size and sha256_file(path) == file.sha256:
            return path
    return None


def _kept(file: ModelFile) -> Path:
    """Return where a file is kept for later engines on this node."""
    return _folder() / file.sha256 / file.name


def _folder() -> Path:
    """Return the folder of this user alone, below the temporary one, which is everybody's.

    Raises:
        StateError: it cannot be made, or is somebody else's.
    """
    folder = Path(tempfile.gettempdir()) / f"ragtune-models-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise map_os_error(error, folder) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise StateNotWritable("This folder is not this user's alone", got=str(folder), hint="Remove it on the node.")
    return folder


def _temporary() -> tuple[Path, int]:
    """Return a new folder below ``_folder``, and the open lock that says that its engine lives.

    Removes the folders of engines that were killed, whose locks nobody has.

    Raises:
        StateError: it cannot be made.
    """
    folder = _folder()
    try:
        making = _lock(folder, fcntl.LOCK_EX)  # else a folder that is not locked yet would be taken for a dead one's
        try:
            for left in folder.glob(f"{_ENGINE}*"):
                try:
                    _drop(left, _lock(left, fcntl.LOCK_EX | fcntl.LOCK_NB))
                except OSError:  # its engine lives, or has just ended
                    continue
            path = Path(tempfile.mkdtemp(prefix=_ENGINE, dir=folder))
            return path, _lock(path, fcntl.LOCK_EX)
        finally:
            os.close(making)
    except OSError as error:
        raise map_os_error(error, folder) from error


def _lock(folder: Path, how: int) -> int:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(opened, how)
    except OSError:
        os.close(opened)
        raise
    return opened


def _drop(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def receive(node: NodeEngine, block: Block) -> None:
    """Write a piece of a model's file; the last one makes it whole.

    Raises:
        InsufficientStorage, StateError: there is no room for it.
        InvalidModel: what came is not what was sent.
    """
    whole = _kept(block.file)
    part = node.folder / block.file.name
    try:
        with part.open("r+b" if block.offset else "wb") as file:
            file.seek(block.offset)
            file.write(block.data)
        if block.offset + len(block.data) < block.file.size:
            return
        if sha256_file(part) != block.file.sha256:
            part.unlink()
            raise InvalidModel(f"{whole.name} changed while it was sent", wanted=block.file.sha256)
        whole.parent.mkdir(exist_ok=True)
        part.replace(whole)
    except OSError as error:
        raise map_os_error(error, part) from error


def start(node: NodeEngine, _: None) -> None:
    """Start the engine.

    Raises:
        InvalidModel: a file of the model is not here, or has other contents; as ``Engine.start``.
        InsufficientMemory: there is no room for it.
    """
    from service.engine.memory import check_memory, demand

    found = {file.name: _found(node.recipe.model, file) for file in node.recipe.files}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise InvalidModel("The model is not on this node", got=", ".join(missing), wanted=node.recipe.files[0].sha256)
    model = replace(node.recipe.model, gguf=str(found[Path(node.recipe.model.gguf).name]))
    check_memory(model.name, demand(model, node.recipe.options))
    node.engine = Engine(model, node.recipe.options)
    node.engine.start()


def add_adapter(node: NodeEngine, adapter: AdapterFile) -> None:
    """Load an adapter, from a file named by its contents. Raises as ``write_atomic`` and ``Engine.add_adapter``."""
    path = node.folder / f"{hashlib.sha256(adapter.data).hexdigest()}.gguf"
    write_atomic(path, adapter.data)
    node.running.add_adapter(adapter.key, path, adapter.base_sha256, adapter.attention)


def generate(node: NodeEngine, request: GenerationRequest) -> GenerationResult:
    """Generate to the end. Raises as ``Generator.generate``."""
    return node.running.generate(request)
