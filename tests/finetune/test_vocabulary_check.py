"""A converted file whose template, end of turn or tokens are not the folder's is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data.errors import InvalidModel
from finetune.convert import hf_to_gguf
from finetune.vocabulary_check import check_vocabulary
from tests.finetune.tiny import save_model, train_tokenizer

pytestmark = pytest.mark.slow


@pytest.fixture
def converted(tmp_path: Path) -> tuple[Path, Path]:
    folder = save_model(tmp_path / "model", "qwen2", tokenizer=train_tokenizer("qwen2", 400), num_hidden_layers=1)
    return folder, hf_to_gguf(folder, tmp_path / "model.gguf")


def change_settings(**settings: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))

    return change


def other_rules(folder: Path) -> None:
    train_tokenizer("smollm", 400).save(str(folder / "tokenizer.json"))


def other_special_token(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace("<|im_start|>", "<|start_|>"), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (change_settings(chat_template="{{ messages[0]['content'] }}"), "chat template"),
        (change_settings(eos_token="<|endoftext|>"), "ends a turn"),
        (other_special_token, "special token"),
        (other_rules, "text"),
    ],
    ids=["template", "eos", "special", "rules"],
)
def test_what_differs_is_named(converted: tuple[Path, Path], change: Callable[[Path], None], what: str) -> None:
    folder, gguf = converted
    check_vocabulary(folder, gguf)
    change(folder)
    with pytest.raises(InvalidModel, match=f"another .*{what}"):
        check_vocabulary(folder, gguf)
