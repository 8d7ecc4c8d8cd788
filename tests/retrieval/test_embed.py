import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from data.errors import InvalidModel, RagtuneError
from retrieval.architecture import supported
from retrieval.embed import SentenceTransformerEmbedder, starter_embedder_path


@pytest.fixture(scope="module")
def starter() -> SentenceTransformerEmbedder:
    return SentenceTransformerEmbedder(starter_embedder_path())


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The starter model without its weights: enough for whatever needs no vectors."""
    ignore = shutil.ignore_patterns("*.safetensors")
    folder = Path(shutil.copytree(starter_embedder_path(), tmp_path / "model", ignore=ignore))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_tokens_are_counted_past_the_models_window(starter: SentenceTransformerEmbedder) -> None:
    assert starter.count_tokens("hello world") == 2
    assert starter.count_tokens("hello world " * 1000) == 2000
    assert starter.count_tokens("") == 0


def test_the_fingerprint_follows_weights_and_prefixes(copied: Path) -> None:
    before = SentenceTransformerEmbedder(copied).fingerprint
    assert SentenceTransformerEmbedder(copied).fingerprint == before
    assert SentenceTransformerEmbedder(copied, batch_size=1).fingerprint == before
    assert SentenceTransformerEmbedder(copied, query_prefix="query: ").fingerprint != before
    (copied / "model.safetensors").write_bytes(b"others")
    assert SentenceTransformerEmbedder(copied).fingerprint != before


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel) as raised:
        SentenceTransformerEmbedder(tmp_path).count_tokens("x")
    assert "modules.json" in raised.value.wanted


def test_a_model_that_brings_code_is_refused(copied: Path) -> None:
    modules = json.loads((copied / "modules.json").read_text())
    modules[0]["type"] = "custom_code.Transformer"
    (copied / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InvalidModel, match="own code"):
        SentenceTransformerEmbedder(copied).embed_documents(["x"])


def test_an_unknown_name_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RagtuneError) as raised:
        SentenceTransformerEmbedder("nobody/no-such-model").count_tokens("x")
    assert raised.value.type == "hub-error"
    assert raised.value.got == "nobody/no-such-model"


@pytest.mark.slow
def test_damaged_weights_are_refused(copied: Path) -> None:
    with pytest.raises(InvalidModel):
        SentenceTransformerEmbedder(copied).embed_documents(["x"])


@pytest.mark.slow
def test_vectors_are_unit_rows_that_mean_something(starter: SentenceTransformerEmbedder) -> None:
    documents = starter.embed_documents(["The cat sleeps on the sofa.", "Interest rates rose again."])
    query = starter.embed_queries(["a sleeping pet"])
    assert documents.shape == (2, starter.dimension) == (2, 384)
    assert documents.dtype == np.float32
    assert np.allclose(np.linalg.norm(documents, axis=1), 1.0, atol=1e-5)
    assert (documents @ query[0]).argmax() == 0


@pytest.mark.slow
def test_nothing_embeds_to_no_rows(starter: SentenceTransformerEmbedder) -> None:
    assert starter.embed_documents([]).shape == (0, 384)


@pytest.mark.slow
def test_a_text_has_the_same_vector_in_any_company(starter: SentenceTransformerEmbedder) -> None:
    texts = ["Short.", "A somewhat longer sentence about the weather in the north of the country. " * 5, "Middle one."]
    together = starter.embed_documents(texts)
    alone = np.concatenate([starter.embed_documents([text]) for text in texts])
    assert (together * alone).sum(axis=1).min() > 0.9995


@pytest.mark.slow
def test_bfloat16_gives_the_vectors_of_float32() -> None:
    texts = ["A sentence.", "Another sentence, which is longer, about Alfred Nobel and dynamite.", "第三句是中文。"]
    exact = SentenceTransformerEmbedder(starter_embedder_path(), dtype="float32").embed_documents(texts)
    fast = SentenceTransformerEmbedder(starter_embedder_path(), dtype="bfloat16").embed_documents(texts)
    assert (exact * fast).sum(axis=1).min() > 0.999


@pytest.mark.slow
def test_the_lean_encoder_computes_what_sentence_transformers_does() -> None:
    from sentence_transformers import SentenceTransformer

    texts = ["Short.", "A longer sentence about the north. " * 4, "第三句是中文。", "word " * 400, ""]
    peer = SentenceTransformer(str(starter_embedder_path()), device="cpu", local_files_only=True)
    theirs = peer.encode(texts, normalize_embeddings=True)
    ours = SentenceTransformerEmbedder(starter_embedder_path(), dtype="float32").embed_documents(texts)
    assert np.abs(ours - theirs).max() < 1e-5


@pytest.mark.slow
def test_words_that_come_later_are_read_although_the_folder_is_gone(
    starter: SentenceTransformerEmbedder, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(starter_embedder_path(), tmp_path / "model"))
    moved = SentenceTransformerEmbedder(folder)
    moved.embed_documents(["One short text."])
    shutil.rmtree(folder)
    later = ["Quokkas graze beneath eucalyptus trees.", "One short text.", "quokkas quokkas graze"]
    assert np.array_equal(moved.embed_documents(later), starter.embed_documents(later))


@pytest.mark.slow
def test_weights_that_end_early_are_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(starter_embedder_path(), tmp_path / "model"))
    weights = folder / "model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size // 2)
    with pytest.raises(InvalidModel, match="end within"):
        SentenceTransformerEmbedder(folder).embed_documents(["x"])


def test_models_that_the_lean_encoder_does_not_compute_are_told_apart(copied: Path) -> None:
    assert supported(copied) is not None
    for name, change in (
        ("config.json", {"model_type": "modernbert"}),
        ("config.json", {"hidden_act": "relu"}),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}),
    ):
        before = (copied / name).read_text()
        (copied / name).write_text(json.dumps(json.loads(before) | change))
        assert supported(copied) is None, (name, change)
        (copied / name).write_text(before)


def test_the_dimension_needs_no_weights(copied: Path) -> None:
    assert SentenceTransformerEmbedder(copied).dimension == 384


def test_two_threads_that_want_the_same_new_word_both_get_it(tmp_path):
    """The one that waits for the lock finds nothing left to read."""
    import torch

    from retrieval.encoder import _Rows

    np.arange(8, dtype=np.float32).tofile(tmp_path / "rows")
    rows = _Rows(os.open(tmp_path / "rows", os.O_RDONLY), 0, np.dtype(np.float32), torch.empty((4, 2)))

    class Late:
        def __enter__(self):
            rows._read(np.array([3]))

        def __exit__(self, *_):
            pass

    rows._lock = Late()
    assert rows(torch.tensor([3])).tolist() == [[6.0, 7.0]]
