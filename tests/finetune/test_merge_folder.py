"""A merged folder computes what base and adapter compute, and goes on to GGUF like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.errors import StateError
from data.records import Model
from finetune.convert import hf_to_gguf
from finetune.gguf_tensors import GgufFile
from tests.finetune.tiny import TEMPLATE, TEXTS, hf_logits, save_adapter, save_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning"),
]
IDS: list[int] = np.random.default_rng(0).integers(0, 700, 60).tolist()


@pytest.mark.parametrize(
    ("family", "from_gguf", "settings"),
    [
        ("llama", False, {"use_rslora": True}),
        ("llama", True, {}),
        ("qwen2", False, {"use_dora": True}),
        ("qwen2", True, {"use_rslora": True}),
    ],
)
def test_a_merged_folder_is_base_plus_adapter(
    tmp_path: Path, family: str, from_gguf: bool, settings: dict[str, Any]
) -> None:
    from finetune.merge_folder import merge_to_folder
    from tests.finetune.served import llama

    folder = save_model(tmp_path / "model", family)
    base = hf_to_gguf(folder, tmp_path / "base.gguf", "f32")
    adapter = save_adapter(tmp_path / "adapter", folder, **settings)
    weights = base if from_gguf else folder
    model = Model("tiny", "tiny", str(base), str(weights), "0", family)
    merged = merge_to_folder(adapter, model, tmp_path / "merged")
    wanted = hf_logits(folder, IDS, adapter)
    np.testing.assert_allclose(hf_logits(merged, IDS), wanted, atol=1e-3)
    converted = hf_to_gguf(merged, tmp_path / "merged.gguf", "f32")
    assert GgufFile(converted).get("tokenizer.chat_template") == TEMPLATE
    with llama(base) as before, llama(converted) as after:
        np.testing.assert_allclose(after.logits(IDS), wanted, atol=1e-3)
        for text in TEXTS:
            assert after.tokenize(text, special=True) == before.tokenize(text, special=True)


def test_a_folder_is_never_overwritten(tmp_path: Path) -> None:
    from finetune.merge_folder import merge_to_folder

    folder = save_model(tmp_path / "model", "qwen2")
    adapter = save_adapter(tmp_path / "adapter", folder)
    model = Model("tiny", "tiny", "", str(folder), "0", "qwen2")
    with pytest.raises(StateError):
        merge_to_folder(adapter, model, folder)
    assert (folder / "tokenizer.json").is_file()
    assert not list(tmp_path.glob(".*"))
