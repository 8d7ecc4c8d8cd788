"""A file system that is really full, in a mount namespace of the test's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ALONE = ("unshare", "--map-root-user", "--mount")
SCRIPT = """
import json, pathlib, subprocess, sys
from data.errors import InsufficientStorage
from service.settings import Settings
from service.workspace import Workspace
from tests.service.parts import MODEL, HashEmbedder, ScriptedGenerator

disk, documents = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=True)

def opened():
    settings = Settings.load(state_dir=disk / "state")
    return Workspace(settings, embedder=HashEmbedder(), generator=ScriptedGenerator(), model=MODEL)

def tried(work):
    try:
        return work()
    except InsufficientStorage as error:
        return f"full: {error.hint}"

def ingested(workspace, name):
    report = workspace.ingestor.ingest("default", [documents / name])
    return [row["source"] for row in report.indexed]

def found(workspace, query):
    return [passage.source for passage in workspace.retriever.search(query, top_k=1)]

def filled():
    with (disk / "fill").open("ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass

said = {}
with opened() as workspace:
    said["before"] = ingested(workspace, "lighthouse.md")
    filled()
    said["ingest"] = tried(lambda: ingested(workspace, "garden.md"))
    said["rebuild"] = tried(lambda: workspace.ingestor.rebuild("default"))
    said["search"] = tried(lambda: found(workspace, "keeper of the lighthouse"))
    said["folders"] = tried(lambda: str(workspace.state.create().root == disk / "state"))
def search_anew():
    with opened() as workspace:
        return found(workspace, "keeper of the lighthouse")
said["search anew"] = tried(search_anew)
(disk / "fill").unlink()
with opened() as workspace:
    said["kept"] = found(workspace, "keeper of the lighthouse")
    said["after"] = ingested(workspace, "garden.md")
    said["found"] = found(workspace, "blue roses")
filled()
said["search without a log"] = tried(search_anew)
print(json.dumps(said))
"""


def test_a_full_disk_refuses_what_writes_and_nothing_is_lost(tmp_path: Path) -> None:
    if subprocess.run([*ALONE, "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], check=False).returncode:
        pytest.skip("This user may not mount a file system of its own.")
    for name, text in (
        ("lighthouse.md", "# Lighthouse\n\nThe keeper of the lighthouse was Mara Venn.\n"),
        ("garden.md", "# Garden\n\nThe garden of Tolm grows blue roses.\n"),
    ):
        (tmp_path / name).write_text(text)
    (tmp_path / "disk").mkdir()
    command = [*ALONE, sys.executable, "-c", SCRIPT, str(tmp_path / "disk"), str(tmp_path)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    full = "full: Free some disk space, then try again."
    assert said == {
        "before": ["lighthouse.md"],
        "ingest": full,
        "rebuild": full,
        "search": ["lighthouse.md"],
        "folders": "True",
        "search anew": ["lighthouse.md"],
        "kept": ["lighthouse.md"],
        "after": ["garden.md"],
        "found": ["garden.md"],
        "search without a log": full,
    }
