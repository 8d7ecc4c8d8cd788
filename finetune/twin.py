"""Name the Hugging Face model that a GGUF file was made from, by what the file says about itself.

Training in 4 bits and training at full precision both want that model; the file alone gives rounded weights. A name is
either the file's own word or put together from its parts, and says which. Asks no hub.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finetune.gguf_tensors import GgufFile

_REPO = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co|modelscope\.cn/models)/([\w.-]+/[\w.-]+?)(?:\.git)?/?"
)
_BARE = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_SOURCES = ("general.source.huggingface.repository", "general.source.repo_url", "general.source.url")
"""Where converters write what they converted (gguf's constants: Keys.General.SOURCE_*)."""
_QUANTIZED = re.compile(
    r"[-_.](?:(?:i1-|ud-)?i?q\d\w*|f16|f32|bf16|gguf|imat|\d{5}-of-\d{5})(?=[-_.]|$)", re.IGNORECASE
)
_FAMILIES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (
        re.compile(r"qwen-?(1\.5|2\.5|2|3)-(\d+(?:\.\d+)?)b(-instruct|-chat)?(-2507)?"),
        lambda m: f"Qwen/Qwen{m[1]}-{m[2]}B{(m[3] or '').title()}{m[4] or ''}",
    ),
    (
        re.compile(r"smollm(2)?-(\d+(?:\.\d+)?)([mb])(-instruct)?"),
        lambda m: f"HuggingFaceTB/SmolLM{m[1] or ''}-{m[2]}{m[3].upper()}{(m[4] or '').title()}",
    ),
    (
        re.compile(r"llama-(3\.[123])-(\d+)b(-instruct)?"),
        lambda m: f"meta-llama/Llama-{m[1]}-{m[2]}B{(m[3] or '').title()}",
    ),
)
"""How publishers write their names, for files that only say "qwen2.5-3b-instruct"."""


@dataclass(frozen=True, slots=True)
class Twin:
    """The hub id of the model; ``stated`` by the file itself, or put together ``from_what``."""

    repo: str
    stated: bool
    from_what: str

    def __str__(self) -> str:
        return f"{self.repo} ({'as the file says' if self.stated else 'guessed, check it'}: {self.from_what})"


def twin_of(gguf: Path | str) -> Twin | None:
    """Return the model that ``gguf`` was made from, None where nothing tells.

    A ``general.base_model`` may be the model that this one was tuned from: it is the twin only if it has the same name.

    Raises:
        InvalidModel: the file cannot be read.
    """
    file = GgufFile(gguf)
    for key in _SOURCES:
        if repo := _repo(file.get(key)):
            return Twin(repo, True, f"{key} = {file.get(key)}")
    base = _repo(file.get("general.base_model.0.repo_url"))
    name = str(file.get("general.name") or "")
    if base and _folded(base.partition("/")[2]) == _folded(name):
        return Twin(base, True, "general.base_model, of the same name")
    stem = _QUANTIZED.sub("", Path(gguf).stem)
    for what, text in (("general.name", name), ("the file's name", stem)):
        if repo := _family(text):
            return Twin(repo, False, f"{what} = {text}")
    organization = file.get("general.organization") or (base or "").partition("/")[0]
    size = str(file.get("general.size_label") or "")
    if organization and size and size.lower() in name.lower():
        repo = f"{_joined(str(organization))}/{_joined(name)}"
        if _BARE.fullmatch(repo):
            return Twin(repo, False, f"general.organization = {organization}, general.name = {name}")
    return None


def _repo(value: object) -> str | None:
    text = str(value or "").strip()
    if found := _REPO.fullmatch(text):
        return found[1]
    return text if _BARE.fullmatch(text) else None


def _family(text: str) -> str | None:
    plain = _joined(text.lower().replace("_", "-"))
    for pattern, repo in _FAMILIES:
        # The whole name, but for a publisher's own prefix: what else it says makes it another model.
        if found := re.fullmatch(rf"(?:[a-z]+-)?{pattern.pattern}", plain):
            return repo(found)
    return None


def _joined(text: str) -> str:
    return re.sub(r"[\s-]+", "-", text.strip())


def _folded(text: str) -> str:
    return re.sub(r"[^a-z0-9.]", "", text.lower())
