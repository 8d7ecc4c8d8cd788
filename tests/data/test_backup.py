from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import threading

import pytest

from data.backup import DATABASE, MANIFEST, restore_backup, write_backup
from data.errors import Conflict, InvalidRequest, StorageCorrupt
from data.records import Model
from data.state import StateDirectory
from data.store import Store


def quiet(_progress):
    """Show nothing."""


@pytest.fixture
def state(tmp_path):
    made = StateDirectory(tmp_path / "state").create()
    blob = made.blobs / "ab" / "note.md"
    blob.parent.mkdir()
    blob.write_bytes(b"# Note\n")
    (made.kv / "passage").write_bytes(b"can be had again")
    fitted = made.calibrations / "default" / "rag.json"
    fitted.parent.mkdir(parents=True)
    fitted.write_bytes(b"{}")
    gguf = made.models("own") / "own.gguf"
    gguf.parent.mkdir()
    gguf.write_bytes(b"GGUF" * 1000)
    return made


@pytest.fixture
def store(state):
    with Store.open(state.db) as opened:
        weights = str(state.models("own") / "own.gguf")
        opened.models.add(Model("own", "/elsewhere/own.gguf", weights, weights, "0" * 64, "llama"))
        opened.jobs.create("ingest", {"paths": [str(state.uploads / "x" / "note.md")], "collection": "default"})
        yield opened


@pytest.fixture
def saved(state, store, tmp_path):
    out = tmp_path / "saved.tar"
    write_backup(state, store, out, quiet)
    return out


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != DATABASE}


def test_what_is_restored_is_what_was_there_at_its_new_place(state, saved, tmp_path):
    shutil.rmtree(state.root)
    found = restore_backup(saved, tmp_path / "other", quiet)
    assert (found.root, found.files) == (str(state.root), 4)
    assert contents(tmp_path / "other") == {
        "blobs/ab/note.md": b"# Note\n",
        "models/own/own.gguf": b"GGUF" * 1000,
        "calibrations/default/rag.json": b"{}",
    }
    with Store.open(tmp_path / "other" / DATABASE) as store:
        model = store.models.get("own")
        assert (model.source, model.gguf) == ("/elsewhere/own.gguf", str(tmp_path / "other/models/own/own.gguf"))
        [job] = store.jobs.list()
        assert job.inputs["paths"] == [str(tmp_path / "other/uploads/x/note.md")]


def test_base_models_can_be_left_out(state, store, tmp_path):
    embedder = state.embedders("tuned", 1)
    embedder.mkdir(parents=True)
    (embedder / "manifest.json").write_text("{}")
    write_backup(state, store, tmp_path / "small.tar", quiet, models=False)
    restore_backup(tmp_path / "small.tar", tmp_path / "other", quiet)
    assert set(contents(tmp_path / "other")) == {
        "blobs/ab/note.md",
        "models/embedders/tuned/1/manifest.json",
        "calibrations/default/rag.json",
    }


def test_the_store_knows_only_the_generations_that_are_in_the_backup(state, store, tmp_path):
    """Else a rollback would lead to a folder that is not there, and a verification would miss it."""
    for number in (1, 2):
        assert store.generations.begin("default", {}) == number
        folder = state.index("default", number)
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        store.generations.commit("default", number, {"number": number})
    store.generations.begin("default", {})
    write_backup(state, store, tmp_path / "saved.tar", quiet)
    restore_backup(tmp_path / "saved.tar", tmp_path / "other", quiet)
    with Store.open(tmp_path / "other" / DATABASE) as found:
        assert [(row.number, row.current) for row in found.generations.list("default")] == [(2, True)]
    assert [row.number for row in store.generations.list("default")] == [1, 2, 3]


def test_a_backup_is_for_its_owner_alone(saved, tmp_path):
    assert saved.stat().st_mode & 0o077 == 0
    restore_backup(saved, tmp_path / "other", quiet)
    assert (tmp_path / "other").stat().st_mode & 0o077 == 0


def test_a_backup_under_writes_is_of_one_moment(state, store, tmp_path):
    """Each key that is made is followed by an audit entry: no backup may have a second entry without its key."""
    stop = threading.Event()

    def write():
        number = 0
        while not stop.is_set():
            store.keys.create(f"key {number}")
            store.audit.add(None, "writer", f"key {number}", 200)
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            write_backup(state, store, tmp_path / f"{number}.tar", quiet)
    finally:
        stop.set()
        writer.join()
    seen = []
    for number in range(5):
        restore_backup(tmp_path / f"{number}.tar", tmp_path / str(number), quiet)
        with Store.open(tmp_path / str(number) / DATABASE) as found:
            keys, entries = len(found.keys.list()), len(found.audit.list(1000))
            assert entries <= keys <= entries + 1
            seen.append(keys)
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]


def test_a_file_that_goes_meanwhile_begins_the_backup_anew(state, store, tmp_path):
    gone = state.blobs / "ab" / "note.md"

    def lose(_progress):
        gone.unlink(missing_ok=True)

    write_backup(state, store, tmp_path / "saved.tar", lose)
    restore_backup(tmp_path / "saved.tar", tmp_path / "other", quiet)
    assert set(contents(tmp_path / "other")) == {"calibrations/default/rag.json", "models/own/own.gguf"}


def test_a_folder_that_goes_while_it_is_listed_is_left_out(state, store, tmp_path, monkeypatch):
    scan = os.scandir

    def lose(path):
        if str(path) == str(state.blobs / "ab"):
            shutil.rmtree(path, ignore_errors=True)
        return scan(path)

    monkeypatch.setattr("os.scandir", lose)
    write_backup(state, store, tmp_path / "saved.tar", quiet)
    monkeypatch.undo()
    restore_backup(tmp_path / "saved.tar", tmp_path / "other", quiet)
    assert set(contents(tmp_path / "other")) == {"calibrations/default/rag.json", "models/own/own.gguf"}


def test_an_index_that_goes_while_it_is_listed_begins_the_backup_anew(state, store, tmp_path, monkeypatch):
    for number in (1, 2):
        folder = state.index("default", number) / "lexical"
        folder.mkdir(parents=True)
        (folder / "meta.json").write_text("{}")
        store.generations.begin("default", {})
    store.generations.commit("default", 1, {})
    scan = os.scandir

    def lose(path):
        if str(path) == str(state.index("default", 1) / "lexical") and len(store.generations.list("default")) == 2:
            store.generations.commit("default", 2, {})
            store.generations.delete("default", 1)
            (state.index("default", 1) / "lexical" / "meta.json").unlink()
        return scan(path)

    monkeypatch.setattr("os.scandir", lose)
    write_backup(state, store, tmp_path / "saved.tar", quiet)
    monkeypatch.undo()
    restore_backup(tmp_path / "saved.tar", tmp_path / "other", quiet)
    assert "index/default/2/lexical/meta.json" in contents(tmp_path / "other")


def test_a_backup_that_is_stopped_leaves_nothing(state, store, tmp_path):
    def stop(_progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_backup(state, store, tmp_path / "saved.tar", stop)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_nothing_is_overwritten(state, store, saved, tmp_path):
    before = saved.read_bytes()
    with pytest.raises(Conflict, match="exists"):
        write_backup(state, store, saved, quiet)
    assert saved.read_bytes() == before
    with pytest.raises(InvalidRequest, match="cannot lie in"):
        write_backup(state, store, state.root / "blobs" / "saved.tar", quiet)
    with pytest.raises(Conflict, match="something already"):
        restore_backup(saved, state.root, quiet)


def rewritten(saved, change):
    """Write the archive again with the members that ``change`` makes of {name: content}."""
    with tarfile.open(saved) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    with tarfile.open(saved, "w") as archive:
        for name, content in change(members).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def named(members, name, content):
    """Return the members with one more, which the manifest names too."""
    manifest = json.loads(members[MANIFEST])
    manifest["sha256"][name] = "0" * 64
    return members | {name: content, MANIFEST: json.dumps(manifest).encode()}


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m | {"blobs/ab/note.md": b"# Nota\n"},
        lambda m: m | {"blobs/more": b"x"},
        lambda m: {name: content for name, content in m.items() if name != "blobs/ab/note.md"},
        lambda m: {name: content for name, content in m.items() if name != MANIFEST},
        lambda m: m | {MANIFEST: b"{"},
        lambda m: m | {MANIFEST: b"[]"},
        lambda m: m | {MANIFEST: m[MANIFEST].replace(b'"format": 1', b'"format": 2')},
        lambda m: named(m, "../outside", b"x"),
        lambda m: named(m, "/tmp/outside", b"x"),
        lambda m: named(m, "blobs/../../outside", b"x"),
    ],
)
def test_an_archive_that_was_changed_is_refused_and_leaves_nothing(saved, tmp_path, change):
    rewritten(saved, change)
    with pytest.raises(StorageCorrupt):
        restore_backup(saved, tmp_path / "other", quiet)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved.tar", "state"]


def test_a_link_in_the_archive_is_refused(saved, tmp_path):
    with tarfile.open(saved, "a") as archive:
        link = tarfile.TarInfo("blobs/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(StorageCorrupt):
        restore_backup(saved, tmp_path / "other", quiet)


@pytest.mark.parametrize("keep", [0, 100, 512, 5000, -11_000])
def test_an_archive_that_was_cut_off_is_refused(saved, tmp_path, keep):
    content = saved.read_bytes()
    saved.write_bytes(content[:keep])
    with pytest.raises(StorageCorrupt):
        restore_backup(saved, tmp_path / "other", quiet)
    assert not (tmp_path / "other").exists()


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8" * 2000)
    with pytest.raises(StorageCorrupt):
        restore_backup(tmp_path / "photo.jpg", tmp_path / "other", quiet)
    with pytest.raises(InvalidRequest, match="no such backup"):
        restore_backup(tmp_path / "none.tar", tmp_path / "other", quiet)
