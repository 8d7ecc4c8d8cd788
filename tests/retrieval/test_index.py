from pathlib import Path

import numpy as np
import pytest

from data.errors import IndexMismatch, StorageCorrupt
from data.protocols import Vectors
from retrieval.index import FaissIndex


def unit(rows: int, dimension: int, seed: int = 0) -> Vectors:
    vectors = np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def test_search_is_exact(tmp_path: Path) -> None:
    vectors, query = unit(500, 24), unit(1, 24, seed=1)
    index = FaissIndex(tmp_path, 24)
    index.add(range(1000, 1500), [""] * 500, vectors)
    expected = np.argsort(-(vectors @ query[0]))[:10]
    hits = index.search("", query, 10)
    assert [hit.key - 1000 for hit in hits] == list(expected)
    assert hits[0].score == pytest.approx(float(vectors[expected[0]] @ query[0]), abs=1e-6)


@pytest.mark.parametrize("shape", [(1, 5), (2, 4), (4,)])
def test_vectors_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(IndexMismatch):
        FaissIndex(tmp_path, 4).add([1], ["a"], np.zeros(shape, dtype=np.float32))


def test_an_index_of_another_dimension_is_refused(tmp_path: Path) -> None:
    FaissIndex(tmp_path, 4).save()
    with pytest.raises(IndexMismatch):
        FaissIndex(tmp_path, 8)


@pytest.mark.parametrize("keep", [0, 3, 60])
def test_a_truncated_file_is_corrupt(tmp_path: Path, keep: int) -> None:
    index = FaissIndex(tmp_path, 4)
    index.add([1, 2], ["a", "b"], unit(2, 4))
    index.save()
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(StorageCorrupt):
        FaissIndex(tmp_path, 4)


def test_saving_replaces_the_file_and_leaves_hard_links_alone(tmp_path: Path) -> None:
    index = FaissIndex(tmp_path / "a", 4)
    index.add([1], ["a"], unit(1, 4))
    index.save()
    (file,) = (tmp_path / "a").iterdir()
    link = tmp_path / "link"
    link.hardlink_to(file)
    before = link.read_bytes()
    index.add([2], ["b"], unit(1, 4))
    index.save()
    assert link.read_bytes() == before != file.read_bytes()
