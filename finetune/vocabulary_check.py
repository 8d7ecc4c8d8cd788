"""Prove that a converted model tokenizes and ends its turns as the folder it was converted from.

Both sides are loaded as training loads them. Knows nothing of weights, nor of how either was written.
"""

from __future__ import annotations

from pathlib import Path

from data.errors import InvalidModel
from finetune.gguf_tensors import GgufFile
from finetune.sentencepiece_bpe import BLANK
from finetune.vocabulary import load_json
from finetune.weights import SegmentTokenizer, load_tokenizer

SAMPLES = (
    "It's 1,234.5 km to Orrin, isn't it?\n\n  I'LL go in 2061.\r\n",
    "def f(x):\n\treturn x**2  # two  spaces\n",
    "今天天气很好，我们去公园散步。2024年，北京。",
    "Füße, naïve, Привет, 😀, ½ and <|im_start|>user</s>[INST]",
)
"""Texts in which pre-tokenizers differ: digits, contractions, white space, Chinese, and markup that is no markup."""


def check_vocabulary(folder: Path | str, gguf: Path | str) -> None:
    """Compare chat template, special tokens and the tokens of ``SAMPLES``.

    Args:
        folder: a Hugging Face model folder.
        gguf: the GGUF file made from it.

    Raises:
        InvalidModel: they differ; what, and both sides, are named. Or one of them cannot be read.
    """
    folder, file = Path(folder), GgufFile(gguf)
    if not file.get("tokenizer.chat_template"):
        return  # no chat model: it can be neither asked nor trained, which whoever tries is told
    ours, theirs = load_tokenizer(folder), load_tokenizer(gguf)
    sides = {
        "chat template": (ours.template, theirs.template),
        "token that ends a turn": (ours.eos_token, theirs.eos_token),
    }
    if "bos_token" in ours.template:  # else it is written nowhere, and config.json often names one of its own
        sides["token that starts a text"] = (ours.bos_token, theirs.bos_token)
    for what, (wanted, got) in sides.items():
        if wanted != got:
            raise _differs(what, got, wanted)
    for token in _special_tokens(folder):
        _compare(f"special token {token!r}", token, ours, theirs, markup=True)
    for text in SAMPLES:
        _compare(f"text {text[:20]!r}", text, ours, theirs, markup=False)


def _special_tokens(folder: Path) -> list[str]:
    """Return the texts of added tokens; SentencePiece writes blanks as "▁" in those that are no markup."""
    added = load_json(folder / "tokenizer.json").get("added_tokens") or []
    return [t["content"] if t.get("special") else t["content"].replace(BLANK, " ") for t in added]


def _compare(what: str, text: str, ours: SegmentTokenizer, theirs: SegmentTokenizer, *, markup: bool) -> None:
    wanted, got = ours.encode(text, markup=markup), theirs.encode(text, markup=markup)
    if wanted != got:
        raise _differs(what, got, wanted)


def _differs(what: str, got: object, wanted: object) -> InvalidModel:
    return InvalidModel(
        f"The converted model has another {what} than its folder",
        got=repr(got)[:300],
        wanted=repr(wanted)[:300],
        hint="Convert it with llama.cpp's own convert_hf_to_gguf.py, and add that file.",
    )
