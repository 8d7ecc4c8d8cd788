"""What a training machine installs: the versions that are installed here; torch is the platform's own.

Knows nothing of how they are installed.
"""

from __future__ import annotations

from importlib.metadata import version

LIBRARIES = (
    "accelerate", "gguf", "huggingface_hub", "Jinja2", "numpy", "peft", "safetensors", "tokenizers", "transformers",
)  # fmt: skip
"""What ``finetune`` imports, torch aside: a platform's torch fits its driver, and another one is gigabytes."""
BITSANDBYTES = "bitsandbytes==0.50.2"
"""For 4 bits (``qlora``), which is CUDA's alone."""


def requirements(*, qlora: bool) -> str:
    """Return the lines of a requirements.txt, every version exact; with ``qlora`` what 4 bits need."""
    lines = [f"{name}=={version(name)}" for name in LIBRARIES] + ([BITSANDBYTES] if qlora else [])
    return "\n".join(["# torch is left to the platform.", *sorted(lines, key=str.lower), ""])
