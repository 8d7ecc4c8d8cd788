"""What a disk holds after a power cut: replays a recording of a process's writes, keeping what was synced.

A recording (``record.c``, preloaded) has every write, truncation, new name, rename, link, removal and sync under a
folder, in order, with the bytes. Two things are known late: what a library renames without libc (tantivy), from the
next sync of its folder, and what it writes through C's streams, from when they are closed. The model is POSIX's, not
a kind file system's: a file's bytes are on the disk once it was synced, a name once its folder was; a rename is one
step and is on the disk once either folder is. Whatever else was on its way may be there or not. After a kill without a
power cut all of it is there.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_HEAD = struct.Struct("=7Q")
_SECTOR = 512
_SOURCE = Path(__file__).with_name("record.c")


@dataclass(frozen=True)
class Record:
    """One thing that a process did."""

    kind: str
    inode: int
    other: int
    offset: int
    name: str
    second: str
    content: bytes


def recorder(folder: Path) -> Path:
    """Return the library to preload, compiled into ``folder``.

    Raises:
        FileNotFoundError: there is no C compiler.
    """
    library = folder / "record.so"
    command = ["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    return library


def read(log: Path) -> Iterator[Record]:
    """Yield what was recorded."""
    with log.open("rb") as stream:
        while head := stream.read(_HEAD.size):
            kind, inode, other, offset, name, second, count = _HEAD.unpack(head)
            names = [stream.read(size).decode("utf-8", "surrogateescape") for size in (name, second)]
            yield Record(chr(kind), inode, other, offset, *names, stream.read(count))


@dataclass(eq=False)
class File:
    """Bytes on the disk, and what was written since: (place, bytes), or (size, None) where it was cut."""

    disk: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def content(self, kept: list[tuple[int, bytes | None]]) -> bytes:
        """Return the bytes with some of what was written since."""
        found = bytearray(self.disk)
        for place, content in kept:
            size = place if content is None else place + len(content)
            found += bytes(max(0, size - len(found)))
            if content is None:
                del found[place:]
            else:
                found[place:size] = content
        return bytes(found)

    def sync(self) -> None:
        """Put on the disk what is pending."""
        self.disk, self.pending = self.content(self.pending), []


@dataclass(eq=False)
class Folder:
    """Names as they are now, and as they are on the disk."""

    now: dict[str, File | Folder] = field(default_factory=dict)
    disk: dict[str, File | Folder] = field(default_factory=dict)


Names = tuple[tuple[Folder, str, "File | Folder | None"], ...]
"""One step in the names: what stands under each afterwards, None for nothing."""


class Disk:
    """The files under a folder, as a process sees them and as a power cut would leave them."""

    def __init__(self, root: Path) -> None:
        """Begin with what is there, all of it on the disk."""
        self._root = str(root.resolve())
        self._nodes: dict[int, File | Folder] = {}
        self._pending: list[Names] = []
        self.root = Folder()
        self._nodes[root.stat().st_ino] = self.root
        for at, folders, files in os.walk(self._root):
            parent = self._folder(at)
            for name in (*folders, *files):
                path = Path(at, name)
                node = self._nodes.get(path.stat().st_ino) or (Folder() if name in folders else File(path.read_bytes()))
                self._nodes[path.stat().st_ino] = parent.now[name] = parent.disk[name] = node

    def apply(self, record: Record) -> None:
        """Take in what the process did next.

        Raises:
            ValueError: it wrote in a way that is not recorded.
        """
        node = self._nodes.get(record.inode)
        if record.kind == "m" and not record.name.endswith(("-shm", "(deleted)")):
            raise ValueError(f"written unseen: {record.name}")
        if record.kind == "w" and isinstance(node, File):
            node.pending.append((record.offset, record.content))
        elif record.kind == "t" and isinstance(node, File):
            node.pending.append((record.offset, None))
        elif record.kind == "v" and isinstance(node, File):
            if node.content(node.pending) != record.content:
                node.pending += [(0, record.content), (len(record.content), None)]
        elif record.kind == "s" and isinstance(node, File):
            node.sync()
        elif record.kind == "n" and isinstance(node, Folder):
            self._sync(node, record.content)
        elif record.kind in "cdurl":
            self._name(record)

    def _name(self, record: Record) -> None:
        if record.kind in "cd":
            node: File | Folder = File() if record.kind == "c" else Folder()
            self._nodes[record.inode] = node
            if record.name:
                self._step(((*self._place(record.name), node),))
        elif record.kind == "u":
            self._step(((*self._place(record.name), None),))
        else:
            old, new = self._place(record.name), self._place(record.second)
            moved = old[0].now[old[1]]
            self._step(((*new, moved), *([(*old, None)] if record.kind == "r" else [])))

    def _step(self, names: Names) -> None:
        for folder, name, node in names:
            _set(folder.now, name, node)
        self._pending.append(names)

    def _sync(self, folder: Folder, listed: bytes) -> None:
        wanted = [step for step in self._pending if any(at is folder for at, _, _ in step)]
        for step in self._with_what_they_rest_on(wanted):
            _settle(step)
            self._pending.remove(step)
        # Also what was renamed without libc: its names are known from now on.
        found = dict(
            reversed(line.split(" ", 1)) for line in listed.decode("utf-8", "surrogateescape").split("\0")[:-1]
        )
        folder.now = {name: self._nodes[int(inode)] for name, inode in found.items()}
        folder.disk = dict(folder.now)

    def _with_what_they_rest_on(self, wanted: list[Names]) -> list[Names]:
        """Return steps, and every earlier one about the same names, in order."""
        chosen = {id(step) for step in wanted}
        touched: set[tuple[int, str]] = set()
        for step in reversed(self._pending):
            keys = {(id(folder), name) for folder, name, _ in step}
            if id(step) in chosen or keys & touched:
                chosen.add(id(step))
                touched |= keys
        return [step for step in self._pending if id(step) in chosen]

    def _folder(self, path: str) -> Folder:
        at: File | Folder = self.root
        for name in path[len(self._root) :].split("/"):
            if name:
                at = at.now[name]  # type: ignore[union-attr]
        assert isinstance(at, Folder)
        return at

    def _place(self, path: str) -> tuple[Folder, str]:
        parent, _, name = path.rpartition("/")
        return self._folder(parent), name

    def read(self, name: str) -> bytes:
        """Return a file of the root folder as the process sees it; nothing where there is none."""
        node = self.root.now.get(name)
        return node.content(node.pending) if isinstance(node, File) else b""

    def leave_killed(self, target: Path) -> None:
        """Write what a kill leaves: everything."""
        _write(self.root, target, lambda folder: folder.now, lambda file: file.content(file.pending))

    def leave_cut(self, target: Path, chance: random.Random | None = None) -> None:
        """Write what a power cut leaves: what was synced; and by ``chance`` some of what was on its way."""
        names = [] if chance is None else [step for step in self._pending if chance.random() < 0.5]
        kept: dict[int, dict[str, File | Folder]] = {}
        for step in self._with_what_they_rest_on(names):
            for folder, name, node in step:
                _set(kept.setdefault(id(folder), dict(folder.disk)), name, node)

        def content(file: File) -> bytes:
            some = [] if chance is None else [step for step in file.pending if chance.random() < 0.5]
            if some and chance is not None and (last := some[-1])[1] and chance.random() < 0.3:
                some[-1] = (last[0], last[1][: chance.randrange(0, len(last[1]), _SECTOR)])  # torn
            return file.content(some)

        _write(self.root, target, lambda folder: kept.get(id(folder), folder.disk), content)


def _set(names: dict[str, File | Folder], name: str, node: File | Folder | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


def _settle(step: Names) -> None:
    for folder, name, node in step:
        _set(folder.disk, name, node)


def _write(
    root: Folder, target: Path, names: Callable[[Folder], dict[str, File | Folder]], content: Callable[[File], bytes]
) -> None:
    made: dict[int, Path] = {}
    waiting = [(root, target)]
    while waiting:
        folder, at = waiting.pop()
        at.mkdir(parents=True, exist_ok=True)
        for name, node in names(folder).items():
            if isinstance(node, Folder):
                waiting.append((node, at / name))
            elif id(node) in made:
                os.link(made[id(node)], at / name)
            else:
                (at / name).write_bytes(content(node))
                made[id(node)] = at / name
