"""A small bundle: six questions about houses, for a served model that exists nowhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.cloud.bundle import Manifest, Served
from finetune.cloud.make import Content, Platform, write_bundle
from tests.finetune.houses import QUICK, examples
from tests.finetune.tiny import TEMPLATE

SERVED = Served("mine", "5" * 64, "0" * 64, TEMPLATE, "", "<|im_end|>")


def content(**changes: Any) -> Content:
    made = Content(
        name="house",
        base_model="Qwen/Qwen2.5-1.5B-Instruct",
        revision="",
        base_sha256="",
        base_gguf=None,
        served=SERVED,
        is_served=False,
        recipe=QUICK,
        examples=tuple(examples()),
        held_out=tuple(examples(3)[:2]),
        start=None,
        start_label=None,
        ragtune="0.1.0",
    )
    return replace(made, **changes)


def make(out: Path, platform: Platform = "colab", **changes: Any) -> Manifest:
    return write_bundle(content(**changes), platform, out)
