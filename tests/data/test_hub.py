"""Fetching from a hub: a small fake one on this machine, through the real client library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.data.fake_hub import COMMIT, FILES, OLD, WEIGHTS, FakeHub, fake_hub

pytestmark = pytest.mark.slow  # a fresh process for each fetch

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, os, sys
from data import hub, modelscope
from data.errors import RagtuneError
from data.hub import fetch
hub._REPORT_EVERY_S = 0
modelscope.ENDPOINT = os.environ["HF_ENDPOINT"]
told = []
def report(progress):
    told.append([progress.stage, progress.done, progress.total, dict(progress.metrics)])
    if os.environ.get("STOP_AT") and progress.done >= int(os.environ["STOP_AT"]):
        os._exit(9)
try:
    path = fetch(sys.argv[1], report)
    found = [path] if path.is_file() else path.iterdir()
    files = {f.name: len(f.read_bytes()) if "large" in f.name else f.read_text() for f in found}
    print(json.dumps({"files": files, "path": str(path), "told": told[:1]}))
except RagtuneError as error:
    print(json.dumps({"error": error.type, "text": str(error)}))
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with fake_hub() as found:
        yield found


@pytest.fixture(scope="module")
def endpoint(hub: FakeHub) -> str:
    return hub.url


def fetch(hub_id: str, endpoint: str, home: Path, **environment: str) -> dict[str, Any]:
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, hub_id],
        cwd=ROOT,
        env={**os.environ, **settings, "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if not result.stdout:
        return {"exit": result.returncode, "stderr": result.stderr}
    answer: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return answer


def test_a_folder_comes_without_pickles_and_code_and_is_kept(endpoint: str, tmp_path: Path) -> None:
    expected = {
        name: FILES["org/whole"][name].decode() for name in ("config.json", "tokenizer.json", "model.safetensors")
    }
    assert fetch("org/whole", endpoint, tmp_path)["files"] == expected
    assert fetch("org/whole", endpoint, tmp_path, HF_HUB_OFFLINE="1")["files"] == expected
    assert fetch("org/whole", "http://127.0.0.1:9", tmp_path)["files"] == expected


@pytest.mark.parametrize("kind", ["q4_k_m", "Q4_K_M"])
def test_the_one_gguf_of_a_type_comes(endpoint: str, tmp_path: Path, kind: str) -> None:
    assert fetch(f"org/some-GGUF:{kind}", endpoint, tmp_path)["files"] == {"some-Q4_K_M.gguf": "GGUF four"}


@pytest.mark.parametrize(
    ("hub_id", "error", "says"),
    [
        ("org/none", "hub-error", "org/none"),
        ("org/gated", "hub-error", "licence"),
        ("org/pickled", "invalid-model", "safetensors"),
        ("org/some-GGUF", "invalid-model", "name the type"),
        ("org/some-GGUF:q2_k", "invalid-model", "q4_k_m, q4_k_s, q8_0"),
        ("org/whole@gone", "hub-error", "no such revision"),
        ("modelscope:org/none", "hub-error", "modelscope.cn"),
    ],
)
def test_what_cannot_be_had_is_explained(endpoint: str, tmp_path: Path, hub_id: str, error: str, says: str) -> None:
    answer = fetch(hub_id, endpoint, tmp_path)
    assert answer["error"] == error
    assert says in answer["text"]


def test_no_hub_and_no_copy_is_explained(endpoint: str, tmp_path: Path) -> None:
    for answer in (
        fetch("org/whole", "http://127.0.0.1:9", tmp_path),
        fetch("org/whole", endpoint, tmp_path, HF_HUB_OFFLINE="1"),
    ):
        assert answer["error"] == "hub-error"
        assert "HF_HUB_OFFLINE" in answer["text"]


def test_size_and_licence_are_told_before_anything_comes(hub: FakeHub, tmp_path: Path) -> None:
    answer = fetch("org/large-GGUF:q4_k_m", hub.url, tmp_path)
    about = {"licence": "apache-2.0", "revision": COMMIT[:12]}
    assert answer["told"] == [["download", 0, round(len(WEIGHTS) / 1e6), about]]
    assert answer["files"] == {"large-q4_k_m.gguf": len(WEIGHTS)}


def test_a_killed_download_is_continued(hub: FakeHub, tmp_path: Path) -> None:
    hub.asked.clear()
    killed = fetch("org/large-GGUF:q4_k_m", hub.url, tmp_path, STOP_AT="1")
    assert killed["exit"] == 9
    (part,) = tmp_path.rglob("*.part")
    have = part.stat().st_size
    assert 0 < have < len(WEIGHTS)
    assert fetch("org/large-GGUF:q4_k_m", hub.url, tmp_path)["files"] == {"large-q4_k_m.gguf": len(WEIGHTS)}
    assert [asked for path, asked in hub.asked if path.endswith(".gguf") and asked] == [f"bytes={have}-"]
    again = len(hub.asked)
    fetch("org/large-GGUF:q4_k_m", hub.url, tmp_path)
    assert not [path for path, asked in hub.asked[again:] if asked], "what is here is not fetched again"


def test_other_bytes_than_the_hub_names_are_refused(hub: FakeHub, tmp_path: Path) -> None:
    hub.wrong_bytes = True
    answer = fetch("org/large-GGUF:q4_k_m", hub.url, tmp_path)
    hub.wrong_bytes = False
    assert answer["error"] == "hub-error"
    assert "other bytes" in answer["text"]
    assert fetch("org/large-GGUF:q4_k_m", hub.url, tmp_path)["files"] == {"large-q4_k_m.gguf": len(WEIGHTS)}


def test_a_revision_is_pinned(hub: FakeHub, tmp_path: Path) -> None:
    for revision in ("v1", OLD):
        answer = fetch(f"org/whole@{revision}", hub.url, tmp_path)
        assert answer["files"]["model.safetensors"] == "older weights"
        assert answer["path"].endswith(f"/snapshots/{OLD}")
    assert fetch("org/whole", hub.url, tmp_path)["path"].endswith(f"/snapshots/{COMMIT}")


def test_a_split_file_comes_with_all_its_parts(hub: FakeHub, tmp_path: Path) -> None:
    path = Path(fetch("org/split-GGUF:q4_k_m", hub.url, tmp_path)["path"])
    assert sorted(part.name for part in path.parent.iterdir()) == [
        "split-q4_k_m-00001-of-00002.gguf",
        "split-q4_k_m-00002-of-00002.gguf",
    ]
    assert path.name.endswith("-00001-of-00002.gguf")


def test_a_disk_without_room_is_told_before_anything_comes(hub: FakeHub, tmp_path: Path) -> None:
    hub.size_factor = 10**12
    answer = fetch("org/large-GGUF:q4_k_m", hub.url, tmp_path)
    hub.size_factor = 1
    assert answer["error"] == "insufficient-storage"
    assert "HF_HOME" in answer["text"]
    assert not list(tmp_path.rglob("*.part"))


def test_modelscope_has_models_too(hub: FakeHub, tmp_path: Path) -> None:
    folder = fetch("modelscope:org/whole", hub.url, tmp_path)
    assert set(folder["files"]) == {"config.json", "tokenizer.json", "model.safetensors"}
    file = fetch("modelscope:org/some-GGUF:q4_k_m", hub.url, tmp_path)
    assert file["files"] == {"some-Q4_K_M.gguf": "GGUF four"}
    assert file["told"][0][3]["licence"] == "Apache License 2.0"
    for endpoint, offline in (("http://127.0.0.1:9", "0"), (hub.url, "1")):
        again = fetch("modelscope:org/some-GGUF:q4_k_m", endpoint, tmp_path, HF_HUB_OFFLINE=offline)
        assert again["files"] == file["files"]
