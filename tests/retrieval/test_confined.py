"""The child that parses files, taken over by one: what it can still do, tried in the real child program."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.errors import DamagedDocument, ParseTimeout, StateNotWritable
from retrieval.child import Limits, Parsers
from retrieval.frames import read_frame, write_frame
from retrieval.load import Content, expand
from tests.retrieval.test_load_hostile import packed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Landlock and seccomp are Linux's"),
]
ROOT = Path(__file__).parents[2]
HOSTILE = """
import ctypes, json, os, resource, signal, socket, subprocess, sys
from io import BufferedReader
from pathlib import Path
import retrieval.parsers.__main__ as child
from retrieval.parsers.parsed import Parsed

own, outside = Path(sys.argv[1]), Path(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)

def tried(action):
    try:
        return ["done", str(action())]
    except BaseException as error:
        return ["refused", type(error).__name__]

def native(call, *arguments):
    if call(*arguments) == -1:
        raise OSError(ctypes.get_errno(), "refused")
    return "did it"

def attempts(raw, media_type, budget):
    (own / "own").write_text("x")
    found = {
        "write": tried(lambda: (outside / "new").write_text("x")),
        "overwrite": tried(lambda: (outside / "kept").write_text("x")),
        "truncate natively": tried(lambda: native(libc.truncate, str(outside / "kept").encode(), 0)),
        "delete": tried(lambda: (outside / "kept").unlink()),
        "rename away": tried(lambda: (own / "own").rename(outside / "moved")),
        "link": tried(lambda: os.symlink("/etc/passwd", outside / "link")),
        "a program writes": tried(lambda: subprocess.run(["touch", str(outside / "touched")], check=True)),
        "socket": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)),
        "socket natively": tried(lambda: native(libc.socket, 2, 1, 0)),
        "datagram natively": tried(lambda: native(libc.socket, 2, 2, 0)),
        "ipv6 natively": tried(lambda: native(libc.socket, 10, 1, 0)),
        "unix natively": tried(lambda: native(libc.socket, 1, 1, 0)),
        "a program connects": tried(lambda: subprocess.run(
            [sys.executable, "-c", "import socket; socket.socket()"], check=True, stderr=subprocess.DEVNULL)),
        "signal its parent": tried(lambda: os.kill(os.getppid(), 0)),
        "memory": tried(lambda: len(bytearray(3 * 2**30))),
        "more memory": tried(lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1))),
        "core": ["refused", ""] if resource.getrlimit(resource.RLIMIT_CORE) == (0, 0) else ["done", ""],
        "own folder": tried(lambda: (own / "own").read_text()),
        "temporary file": tried(lambda: __import__("tempfile").TemporaryFile().write(b"x")),
    }
    return Parsed(json.dumps(found))

child.parse = attempts
child.main(2**31, own, BufferedReader(os.fdopen(0, "rb", buffering=0)), os.fdopen(1, "wb"))
"""
ALLOWED = {"own folder", "temporary file"}
AS_ROOT = {"more memory"}
"""Root may raise its own limits: the image and the systemd unit run the service as a user of its own."""
SIGNALS_SINCE = (6, 12)


def kernel():
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(filter(str.isdigit, minor)))


def test_a_child_that_was_taken_over_has_no_network_and_writes_nowhere_else(tmp_path):
    own, outside = tmp_path / "own", tmp_path / "outside"
    own.mkdir()
    outside.mkdir()
    (outside / "kept").write_text("whole")
    request = {**Limits(ocr="off").request(), "op": "parse", "media_type": "text/csv"}
    process = subprocess.Popen(
        [sys.executable, "-c", HOSTILE, str(own), str(outside)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        write_frame(process.stdin, request, b"a,b\n")
        header, payload = read_frame(process.stdout, 2**20)
        process.stdin.close()
        assert process.wait(30) == 0
    assert header["title"] == ""
    found = json.loads(payload)
    excused = (AS_ROOT if os.geteuid() == 0 else set()) | ({"signal its parent"} if kernel() < SIGNALS_SINCE else set())
    assert {name for name, (how, _) in found.items() if how == "done"} - excused == ALLOWED, found
    assert [path.name for path in outside.iterdir()] == ["kept"]
    assert (outside / "kept").read_text() == "whole"


def test_the_children_that_are_used_are_confined(tmp_path):
    """The kernel's own word for it, and a folder that is not theirs."""
    with Parsers() as parsers:
        parsers.ask({"op": "parse", "media_type": "text/csv"}, b"a,b\n1,2\n", "a.csv", Limits())
        pid = parsers._idle[0]._process.pid
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert str(Limits().memory_bytes) in next(line for line in limits.splitlines() if "address space" in line)
        foreign = {"op": "unpack", "folder": str(tmp_path)}
        header, _ = parsers.ask({**foreign, "folder": str(parsers.folder)}, packed({"a.md": b"x"}), "a.zip", Limits())
        assert header["members"] == [{"name": "a.md", "file": "1"}]
        with pytest.raises((StateNotWritable, DamagedDocument)):
            parsers.ask(foreign, packed({"a.md": b"x"}), "a.zip", Limits())
        folder = parsers.folder
    assert list(tmp_path.iterdir()) == []
    assert not folder.exists()


def test_a_child_is_kept_however_large_its_parent_is():
    """What the parent has resident is not what the child took."""
    ballast = b"x" * (Limits().memory_bytes // 2)
    with Parsers() as parsers:
        for _ in range(2):
            parsers.ask({"op": "parse", "media_type": "text/csv"}, b"a,b\n1,2\n", "a.csv", Limits())
        assert len(parsers._idle) == 1
        assert 0 < parsers.peak_bytes < len(ballast)


def test_a_child_that_names_files_it_did_not_unpack_is_not_believed(tmp_path):
    archive = Content("a.zip", packed({"a.md": b"words"}), 0.0)
    secret = tmp_path / "secret.md"
    secret.write_text("the word is heron")

    class Liar(Parsers):
        said = str(secret)

        def ask(self, request, data, name, limits):
            Path(request["folder"], "1").symlink_to(secret)
            return {"members": [{"name": "a.md", "file": self.said}]}, b""

    with Liar() as parsers:
        for said in (str(secret), f"../../{secret}", "1", "", "."):
            parsers.said = said
            with pytest.raises(DamagedDocument):
                list(expand(archive, parsers=parsers))


def test_a_child_that_hangs_ends_with_what_it_started(tmp_path):
    """A regular expression that never ends stands for any parser that does not."""
    with Parsers() as parsers:
        parsers.ask({"op": "parse", "media_type": "text/csv"}, b"a,b\n1,2\n", "a.csv", Limits())
        pid = parsers._idle[0]._process.pid
        os.kill(pid, 19)  # SIGSTOP: it cannot even notice
        started = time.monotonic()
        with pytest.raises(ParseTimeout):
            parsers.ask({"op": "parse", "media_type": "text/csv"}, b"a,b\n", "a.csv", Limits(timeout_s=0.5))
        assert time.monotonic() - started < 20
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            pytest.fail("it still runs")
