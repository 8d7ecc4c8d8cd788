"""Nothing is unpickled where documents are read and an adapter is trained and served: asked of Python itself."""

from __future__ import annotations

import os
import shutil
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
    "import": [
        "tests/service/test_routes_adapters.py::test_an_imported_adapter_is_measured_and_can_be_promoted",
        "tests/service/test_routes_adapters.py::test_the_archive_of_a_training_elsewhere_is_imported",
        "tests/torture/test_torture.py::test_changed_adapters_are_refused_or_answer_as_before",
    ],
    "jobs": ["tests/torture/test_torture.py::test_questions_are_answered_while_documents_and_the_index_change"],
    "resume": ["tests/finetune/test_train.py::test_a_stopped_run_resumes_and_ends_like_an_undisturbed_one"],
}
PROOF = """
import pickle
import collections

def test_a_pickle():
    assert pickle.loads(pickle.dumps(collections.OrderedDict(a=1))) == {"a": 1}
"""


STARTED = {"ingest": "-m retrieval.parsers", "train and serve": "-m service.engine.worker"} | dict.fromkeys(
    ("import", "jobs"), "-m tests.torture"
)
"""A process that each path starts, and that has to be watched as well."""


def unpickled(tmp_path, *tests):
    """Run tests where the unpicklers of every Python are watched; return what they looked up, and what was started."""
    found = tmp_path / "found"
    found.touch()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.unpickled", "-p", "no:cacheprovider", *tests]
    shutil.copy(ROOT / "tests" / "unpickled.py", tmp_path / "sitecustomize.py")
    environment = {**os.environ, "RAGTUNE_UNPICKLED": str(found), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout[-2000:]
    lines = found.read_text(encoding="utf-8").splitlines()
    started = {line.partition("\t")[2] for line in lines if line.startswith("started\t")}
    return [line for line in lines if not line.startswith("started\t")], started


@pytest.mark.parametrize("name", PATHS)
def test_nothing_is_unpickled(tmp_path, name):
    found, started = unpickled(tmp_path, *PATHS[name])
    assert found == []
    assert STARTED.get(name, "-m pytest") in started


def test_a_pickle_would_be_seen(tmp_path):
    (tmp_path / "test_proof.py").write_text(PROOF, encoding="utf-8")
    found, _ = unpickled(
        tmp_path, str(tmp_path / "test_proof.py"), "--rootdir", str(tmp_path), "-c", str(ROOT / "pyproject.toml")
    )
    assert found, "in this process"
    assert all(line.startswith("collections.OrderedDict\t") for line in found)
