"""Carry a SentencePiece BPE tokenizer, Gemma's kind, from tokenizer.json into GGUF metadata, and back.

llama.cpp joins two pieces where both together are a token, the token with the highest score first; Hugging Face joins
by a list of pairs. SentencePiece numbers tokens in the order in which it found them, and so does the list: a token's
score is less its place. Text is cut nowhere beforehand, blanks are written as "▁", what is no token becomes bytes.
Tokenizers that put a blank before the text (Llama 2's) are left out: of a prompt's parts each would get one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from finetune.gguf_tensors import GgufFile

BLANK = "▁"
# enum llama_token_type in llama.h
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_ADDED_SCORE, _PADDING_SCORE = -1000.0, -10000.0
"""Of tokens that are matched as they stand, and of ids without a token: what llama.cpp's converter gives them."""


def is_sentencepiece_bpe(tokenizer: dict[str, Any]) -> bool:
    """Tell whether a tokenizer.json is of this kind."""
    model, normalizer = tokenizer.get("model") or {}, tokenizer.get("normalizer") or {}
    cut = tokenizer.get("pre_tokenizer")
    blanks = normalizer.get("type") == "Replace" and normalizer.get("content") == BLANK
    # A split at blanks finds none: the normalizer has replaced them all.
    whole = cut is None or (cut.get("type") == "Split" and (cut.get("pattern") or {}).get("String") == " ")
    bpe = model.get("type") == "BPE" and bool(model.get("byte_fallback")) and not model.get("ignore_merges")
    return bpe and blanks and (normalizer.get("pattern") or {}).get("String") == " " and whole


def scored_tokens(tokenizer: dict[str, Any], n_vocab: int) -> tuple[list[str], list[float], list[int]]:
    """Return texts, scores and types of all tokens by id; ids without a token are padded.

    A token that is matched as it stands has blanks and no "▁": llama.cpp looks for it in the text as it is.
    """
    vocab: dict[str, int] = tokenizer["model"]["vocab"]
    added = {token["id"]: token for token in tokenizer.get("added_tokens") or []}
    places = _places(tokenizer["model"]["merges"])
    learned = sorted(
        (token for token, i in vocab.items() if i not in added and not _BYTE.fullmatch(token)),
        key=lambda token: (places.get(token, len(places)), vocab[token]),
    )
    by_id = {vocab[token]: (token, -float(place), NORMAL) for place, token in enumerate(learned)}
    by_id |= {i: (token, 0.0, BYTE) for token, i in vocab.items() if i not in added and _BYTE.fullmatch(token)}
    for i, token in added.items():
        kind = CONTROL if token.get("special") else USER_DEFINED
        text = token["content"] if kind == CONTROL else token["content"].replace(BLANK, " ")
        by_id[i] = (text, _ADDED_SCORE, kind)
    listed = [by_id.get(i, (f"[PAD{i}]", _PADDING_SCORE, UNUSED)) for i in range(n_vocab)]
    return [text for text, _, _ in listed], [score for _, score, _ in listed], [kind for _, _, kind in listed]


def _places(merges: Sequence[str | Sequence[str]]) -> dict[str, int]:
    """Return for each token that joins two the place at which it first appears."""
    found: dict[str, int] = {}
    for pair in merges:
        left, right = pair.split(" ") if isinstance(pair, str) else pair
        found.setdefault(left + right, len(found))
    return found


def rebuild(model: GgufFile) -> Tokenizer:
    """Return a tokenizer that yields llama.cpp's tokens, special ones left to be added.

    Of a token all its halves that are tokens make pairs, in the order of scores: what ``scored_tokens`` reads.
    """
    tokens: list[str] = model.value("tokenizer.ggml.tokens")
    kinds: list[int] = model.value("tokenizer.ggml.token_type")
    scores: list[float] = model.value("tokenizer.ggml.scores")
    learned = {token: score for token, score, kind in zip(tokens, scores, kinds, strict=True) if kind == NORMAL}
    merges = [
        (token[:i], token[i:])
        for token in sorted(learned, key=learned.__getitem__, reverse=True)
        for i in range(1, len(token))
        if token[:i] in learned and token[i:] in learned
    ]
    unknown = model.get("tokenizer.ggml.unknown_token_id")
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=merges,
            byte_fallback=True,
            fuse_unk=True,
            unk_token=None if unknown is None else tokens[int(unknown)],
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", BLANK)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse()],
    )
    return tokenizer


def add_marked_tokens(tokenizer: Tokenizer, tokens: Sequence[str], kinds: Sequence[int]) -> None:
    """Let ``tokenizer`` find the special and user-defined ``tokens`` in text as they stand."""
    marked = list(zip(tokens, kinds, strict=False))
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token, kind in marked if kind == CONTROL]
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token, kind in marked if kind == USER_DEFINED])
