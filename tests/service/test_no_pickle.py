"""Nothing is unpickled where documents are read and an adapter is trained and served: asked of Python itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PATHS = {
    "ingest": ["tests/service/test_routes_documents.py", "tests/retrieval/test_parsers_documents.py"],
    "train and serve": ["tests/service/test_work_train.py::test_the_trained_adapter_serves"],
    "answers": ["tests/service/test_routes_answers.py", "tests/service/test_routes_openai.py"],
    "resume": ["tests/finetune/test_train.py::test_a_stopped_run_resumes_and_ends_like_an_undisturbed_one"],
}
PROOF = """
import pickle
import collections

def test_a_pickle():
    assert pickle.loads(pickle.dumps(collections.OrderedDict(a=1))) == {"a": 1}
"""


def unpickled(tmp_path, *tests):
    """Run tests in a process whose unpicklers are watched; return what they looked up."""
    found = tmp_path / "found"
    found.touch()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.unpickled", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "RAGTUNE_UNPICKLED": str(found)}
    done = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout[-2000:]
    return found.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", PATHS)
def test_nothing_is_unpickled(tmp_path, name):
    assert unpickled(tmp_path, *PATHS[name]) == []


def test_a_pickle_would_be_seen(tmp_path):
    (tmp_path / "test_proof.py").write_text(PROOF, encoding="utf-8")
    (line,) = unpickled(
        tmp_path, str(tmp_path / "test_proof.py"), "--rootdir", str(tmp_path), "-c", str(ROOT / "pyproject.toml")
    )
    assert line.startswith("collections.OrderedDict\t")
