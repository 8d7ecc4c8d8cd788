from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRIED = """
import socket, sys
from pathlib import Path
from data.confine import confine

folder, file, outside = map(Path, sys.argv[1:4])
held = confine([folder, file], unix_sockets=sys.argv[4] == "unix")
def tried(action):
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return "done"
print(sorted(held), tried(lambda: (folder / "new").write_text("x")), tried(lambda: file.write_text("x")),
      tried(lambda: outside.write_text("x")), tried(lambda: socket.socket(socket.AF_INET)),
      tried(lambda: socket.socket(socket.AF_UNIX)), tried(lambda: Path("/dev/null").write_text("x")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Landlock and seccomp are Linux's")
@pytest.mark.parametrize(("sockets", "unix"), [("none", "PermissionError"), ("unix", "done")])
def test_what_is_given_up_is_refused_and_the_rest_goes_on(tmp_path, sockets, unix):
    folder, file, outside = tmp_path / "folder", tmp_path / "file", tmp_path / "outside"
    folder.mkdir()
    file.touch()
    command = [sys.executable, "-c", TRIED, str(folder), str(file), str(outside), sockets]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    refused = "PermissionError"
    assert done.stdout.strip() == f"['network', 'writes'] done done {refused} {refused} {unix} done"
