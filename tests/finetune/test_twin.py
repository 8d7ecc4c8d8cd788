"""A GGUF's word on the model it was made from."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from data.errors import InvalidModel
from finetune.twin import twin_of


def write(path: Path, **values: str) -> Path:
    writer = gguf.GGUFWriter(path, "qwen2")
    for key, value in values.items():
        writer.add_string("general." + key.replace("__", "."), value)
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("values", "repo", "stated"),
    [
        # As llama.cpp's converter writes it for a folder whose card names its source.
        (
            {
                "name": "My Model",
                "source__url": "https://huggingface.co/org/My-Model",
                "base_model__0__repo_url": "https://huggingface.co/org/My-Base",
            },
            "org/My-Model",
            True,
        ),
        ({"name": "x", "source__huggingface__repository": "org/My-Model"}, "org/My-Model", True),
        ({"name": "x", "source__url": "https://modelscope.cn/models/org/My-Model"}, "org/My-Model", True),
        # A quantization of the base that its card names.
        (
            {"name": "My Model 3B", "base_model__0__repo_url": "https://huggingface.co/org/My-Model-3B"},
            "org/My-Model-3B",
            True,
        ),
        # A base that this one was tuned from is not the twin; its publisher is a guess.
        (
            {
                "name": "Own 3B Chat",
                "size_label": "3B",
                "base_model__0__repo_url": "https://huggingface.co/org/Own-3B",
            },
            "org/Own-3B-Chat",
            False,
        ),
        (
            {"name": "Qwen2.5 3B Instruct", "base_model__0__repo_url": "https://huggingface.co/Qwen/Qwen2.5-3B"},
            "Qwen/Qwen2.5-3B-Instruct",
            False,
        ),
        ({"name": "qwen2.5-3b-instruct"}, "Qwen/Qwen2.5-3B-Instruct", False),
        ({"name": "Meta Llama 3.1 8B Instruct"}, "meta-llama/Llama-3.1-8B-Instruct", False),
        ({"name": "SmolLM2 1.7B Instruct"}, "HuggingFaceTB/SmolLM2-1.7B-Instruct", False),
        ({"name": "Tuned 7B", "organization": "Acme AI", "size_label": "7B"}, "Acme-AI/Tuned-7B", False),
    ],
)
def test_the_model_is_named(tmp_path: Path, values: dict[str, str], repo: str, stated: bool) -> None:
    found = twin_of(write(tmp_path / "some.gguf", **values))
    assert found is not None
    assert (found.repo, found.stated) == (repo, stated)
    assert ("guessed" in str(found)) is not stated


@pytest.mark.parametrize(
    "name",
    ["qwen2.5-3b-instruct-q4_k_m.gguf", "Qwen2.5-3B-Instruct.Q4_K_M.gguf", "Qwen2.5-3B-Instruct-IQ4_XS.gguf"],
)
def test_the_name_of_a_file_that_says_nothing_is_read(tmp_path: Path, name: str) -> None:
    found = twin_of(write(tmp_path / name))
    assert found is not None
    assert (found.repo, found.stated) == ("Qwen/Qwen2.5-3B-Instruct", False)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"name": "model"},
        {"name": "qwen2.5-3b-instruct-medical-v2"},  # tuned from it: another model
        {"name": "Tuned", "organization": "Acme", "size_label": "7B"},
        {"source__url": "https://example.org/model.zip"},
    ],
)
def test_nothing_is_made_up(tmp_path: Path, values: dict[str, str]) -> None:
    assert twin_of(write(tmp_path / "some.gguf", **values)) is None


def test_what_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"no")
    with pytest.raises(InvalidModel):
        twin_of(tmp_path / "x.gguf")
