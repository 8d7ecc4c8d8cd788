import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import data
from data.errors import InsufficientStorage, InvalidRequest, StateError, StateLocked, StateNotWritable
from data.state import StateDirectory, map_os_error, sha256_file, write_atomic

ROOT = Path(data.__file__).parents[1]


def python(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def test_paths_lie_under_the_root(tmp_path):
    state = StateDirectory(tmp_path / "var").create()
    root = tmp_path / "var"
    assert state.db == root / "ragtune.db"
    assert state.index("知识库", 3) == root / "index" / "知识库" / "3"
    assert state.index("default") == root / "index" / "default"
    assert state.adapters("style", 2) == root / "adapters" / "style" / "2"
    assert state.models("starter") == root / "models" / "starter"
    kept = (state.blobs, state.uploads, state.exports, state.kv, state.reports, state.logs, state.tmp)
    for folder in (*kept, state.adapters(), state.models()):
        assert folder.is_dir()
        assert folder.parent == root


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "", ".", "/etc", "a\x00", "x" * 65])
def test_names_cannot_leave_the_directory(tmp_path, name):
    state = StateDirectory(tmp_path)
    for path in (state.index, state.adapters, state.models):
        with pytest.raises(InvalidRequest):
            path(name)


def test_directory_is_private_and_creating_it_again_is_fine(tmp_path):
    state = StateDirectory(tmp_path / "var").create()
    assert (tmp_path / "var").stat().st_mode & 0o777 == 0o700
    (state.blobs / "kept").write_text("x")
    state.create()
    assert (state.blobs / "kept").read_text() == "x"


def test_directory_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateNotWritable, match="state-dir"):
        StateDirectory(tmp_path / "file").create()
    with pytest.raises(StateNotWritable), StateDirectory(tmp_path / "file").lock():
        pass


def test_second_holder_is_told_who_the_first_is(tmp_path):
    state = StateDirectory(tmp_path)
    assert state.holder() is None
    with state.lock("http://127.0.0.1:8000"):
        assert state.holder() == {"pid": os.getpid(), "url": "http://127.0.0.1:8000"}
        with (
            pytest.raises(StateLocked, match=rf"{os.getpid()}.*http://127.0.0.1:8000"),
            StateDirectory(tmp_path).lock(),
        ):
            pass
    assert state.holder() is None
    with state.lock():
        assert state.holder() == {"pid": os.getpid(), "url": ""}


HOLD = """
import sys
from pathlib import Path
from data.state import StateDirectory
with StateDirectory(Path(sys.argv[1])).lock("http://h"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_lock_goes_with_a_killed_holder(tmp_path):
    state = StateDirectory(tmp_path)
    process = python(HOLD, tmp_path)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(StateLocked, match=str(process.pid)), state.lock():
        pass
    with pytest.raises(StateLocked, match=str(process.pid)):
        state.join()
    process.kill()
    process.communicate()
    with state.lock():
        assert state.holder()["pid"] == os.getpid()


JOIN = """
import sys
from pathlib import Path
from data.errors import StateLocked
from data.state import StateDirectory
try:
    StateDirectory(Path(sys.argv[1])).join()
except StateLocked:
    print("refused")
else:
    print("joined")
"""


def test_child_of_the_holder_may_write_and_an_orphan_may_not(tmp_path):
    with StateDirectory(tmp_path).lock():
        assert python(JOIN, tmp_path).communicate()[0] == "joined\n"
    assert python(JOIN, tmp_path).communicate()[0] == "refused\n"


def test_file_is_replaced_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "manifest.json"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch, code):
    path = tmp_path / "manifest.json"
    write_atomic(path, b"old")

    def full(_handle):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InsufficientStorage, match="full"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.ENOSPC, InsufficientStorage),
        (errno.EDQUOT, InsufficientStorage),
        (errno.EACCES, StateNotWritable),
        (errno.EROFS, StateNotWritable),
        (errno.ENOENT, StateNotWritable),
        (errno.EIO, StateError),
    ],
)
def test_operating_system_errors_are_mapped(tmp_path, code, error):
    mapped = map_os_error(OSError(code, os.strerror(code)), tmp_path)
    assert type(mapped) is error
    assert mapped.got == str(tmp_path)


def test_hash_of_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"abc" * 10**6)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(b"abc" * 10**6).hexdigest()
