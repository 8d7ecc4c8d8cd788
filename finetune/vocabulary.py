"""Carry a BPE tokenizer, byte-level or SentencePiece's, from a Hugging Face folder into GGUF metadata, and back.

llama.cpp splits text before the merges by rules it knows under a name ("qwen2", "llama-bpe", "smollm").
A tokenizer whose rules are none of these is refused: under a wrong name every text would get slightly
wrong tokens, silently. Knows nothing of weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from data.errors import InvalidModel, UnsupportedArchitecture
from finetune.gguf_tensors import GgufFile, Value
from finetune.sentencepiece_bpe import (
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    add_marked_tokens,
    is_sentencepiece_bpe,
    rebuild,
    scored_tokens,
)

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# The regular expressions of Qwen2's and Llama 3's tokenizer.json; llama.cpp's are in src/llama-vocab.cpp.
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST


@dataclass(frozen=True, slots=True)
class _Rules:
    """How text is cut before the merges: by ``regex``, or as GPT-2 does, digits apart where ``digits``."""

    regex: str = ""
    digits: bool = False
    ignore_merges: bool = False


_RULES = {
    "qwen2": _Rules(_QWEN2),
    "llama-bpe": _Rules(_LLAMA3, ignore_merges=True),
    "smaug-bpe": _Rules(_LLAMA3),
    "smollm": _Rules(digits=True),
    "gpt-2": _Rules(),
}
# Other names under which llama.cpp applies the same rules.
_ALIASES = {"deepseek-r1-qwen": "qwen2", "llama3": "llama-bpe", "llama-v3": "llama-bpe"}

_TOKENS = "tokenizer.ggml."


def tokenizer_metadata(folder: Path, n_vocab: int, config: dict[str, Any]) -> dict[str, Value]:
    """Return the GGUF tokenizer metadata of a Hugging Face folder.

    Args:
        folder: holds tokenizer.json, and tokenizer_config.json and chat_template.jinja where it has them.
        n_vocab: rows of the embedding matrix; ids without a token are padded.
        config: config.json, which names the special tokens that tokenizer_config.json leaves out.

    Raises:
        UnsupportedArchitecture: neither a byte-level BPE tokenizer with known rules nor one of SentencePiece.
        InvalidModel: a file is missing or damaged, or the tokenizer does not fit ``n_vocab``.
    """
    tokenizer = load_json(folder / "tokenizer.json")
    settings = load_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    metadata = (_sentencepiece if is_sentencepiece_bpe(tokenizer) else _byte_level)(tokenizer, n_vocab)
    ids = {str(token): i for i, token in enumerate(metadata[f"{_TOKENS}tokens"])}  # type: ignore[arg-type]
    special = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    for name, key in special.items():
        token_id = _special_id(name, settings, config, ids)
        if token_id is not None:
            metadata[f"{_TOKENS}{key}_token_id"] = token_id
    metadata[f"{_TOKENS}add_bos_token"] = _adds_bos(tokenizer, settings)
    metadata["tokenizer.chat_template"] = _chat_template(folder, settings)
    return metadata


def _byte_level(tokenizer: dict[str, Any], n_vocab: int) -> dict[str, Value]:
    pre = recognise(tokenizer)
    _check_size(tokenizer, n_vocab)
    tokens, types = _token_list(tokenizer, n_vocab)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]]
    return {
        f"{_TOKENS}model": "gpt2",
        f"{_TOKENS}pre": pre,
        f"{_TOKENS}tokens": tokens,
        f"{_TOKENS}token_type": types,
        f"{_TOKENS}merges": merges,
    }


def _sentencepiece(tokenizer: dict[str, Any], n_vocab: int) -> dict[str, Value]:
    _check_size(tokenizer, n_vocab)
    tokens, scores, types = scored_tokens(tokenizer, n_vocab)
    return {
        f"{_TOKENS}model": "llama",
        f"{_TOKENS}pre": "default",
        f"{_TOKENS}tokens": tokens,
        f"{_TOKENS}scores": scores,
        f"{_TOKENS}token_type": types,
        f"{_TOKENS}add_space_prefix": False,
    }


def recognise(tokenizer: dict[str, Any]) -> str:
    """Return llama.cpp's name for the rules of a tokenizer.json.

    Raises:
        UnsupportedArchitecture: the tokenizer is not byte-level BPE, or its rules have no name here.
    """
    model = tokenizer.get("model") or {}
    steps = _steps(tokenizer.get("pre_tokenizer"))
    kinds = [step.get("type") for step in steps]
    plain = not (
        model.get("byte_fallback") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    )
    normalizers = {step.get("type") for step in _steps(tokenizer.get("normalizer"))}
    # llama.cpp does not normalise to NFC, which Qwen2 does: text that is NFC already gets the same tokens.
    if model.get("type") == "BPE" and plain and kinds[-1:] == ["ByteLevel"] and normalizers <= {"NFC"}:
        for name, rules in _RULES.items():
            if _follows(rules, steps, bool(model.get("ignore_merges"))):
                return name
    raise UnsupportedArchitecture(
        "The tokenizer splits text by rules that have no known name in llama.cpp",
        got=f"{model.get('type')} with pre-tokenizer {json.dumps(tokenizer.get('pre_tokenizer'))[:300]}",
        wanted=f"byte-level BPE that splits like {', '.join(_RULES)}",
        hint="Use a GGUF file of this model, made by its publisher or by llama.cpp's own converter.",
    )


def tokenizer_from_gguf(model: GgufFile) -> Tokenizer:
    """Rebuild the tokenizer of a GGUF file so that it yields llama.cpp's tokens.

    transformers' own rebuild differs where it knows no rules for a name (it splits "smollm" like GPT-2, so a
    number after white space gets other tokens) and where merges are ignored for whole words ("llama-bpe").

    Raises:
        UnsupportedArchitecture: the file's tokenizer is neither byte-level BPE with known rules nor SentencePiece's
            without a blank before the text.
    """
    kind, pre = model.get(f"{_TOKENS}model"), str(model.get(f"{_TOKENS}pre"))
    rules = _RULES.get(_ALIASES.get(pre, pre))
    tokens: list[str] = model.value(f"{_TOKENS}tokens")
    if kind == "llama" and model.get(f"{_TOKENS}add_space_prefix") is False and model.get(f"{_TOKENS}scores"):
        tokenizer = rebuild(model)
    elif kind == "gpt2" and rules is not None:
        tokenizer = _rebuild_byte_level(model, tokens, rules)
    else:
        raise UnsupportedArchitecture(
            "The GGUF file's tokenizer cannot be rebuilt for training",
            got=f"{kind}/{pre}",
            wanted=f"gpt2 with one of {', '.join(_RULES)}, or llama without a blank before the text",
            hint="Train from the Hugging Face folder of this model instead of its GGUF file.",
        )
    add_marked_tokens(tokenizer, tokens, model.get(f"{_TOKENS}token_type") or [])
    return tokenizer


def _rebuild_byte_level(model: GgufFile, tokens: list[str], rules: _Rules) -> Tokenizer:
    merges = [(left, right) for left, _, right in (pair.partition(" ") for pair in model.value(f"{_TOKENS}merges"))]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=rules.ignore_merges))
    tokenizer.pre_tokenizer = _pre_tokenizer(rules)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def load_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a model folder.

    Raises:
        InvalidModel: the file is missing, or holds no JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidModel(
            f"The model folder lacks a readable {path.name}",
            got=path.parent,
            hint="Give the folder of a Hugging Face model with config.json, tokenizer.json and *.safetensors.",
        ) from error
    except (ValueError, RecursionError) as error:
        raise InvalidModel(f"{path.name} is not JSON: {error}", got=path) from error
    if not isinstance(found, dict):
        raise InvalidModel(f"{path.name} holds no JSON object", got=path)
    return found


def _steps(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the steps of a pre-tokenizer or normalizer, a sequence or a single one."""
    if part is None:
        return []
    return list(part.get("pretokenizers") or part.get("normalizers") or [part])


def _follows(rules: _Rules, steps: list[dict[str, Any]], ignore_merges: bool) -> bool:
    if rules.ignore_merges != ignore_merges or steps[-1].get("add_prefix_space"):
        return False
    first = steps[:-1]
    # An absent use_regex means true: the field came later than the behaviour.
    if steps[-1].get("use_regex", True) == bool(rules.regex):
        return False
    if rules.regex:
        return [_split_regex(step) for step in first] == [rules.regex]
    digits = [step.get("type") == "Digits" and step.get("individual_digits") is True for step in first]
    return digits == ([True] if rules.digits else [])


def _split_regex(step: dict[str, Any]) -> str | None:
    if step.get("type") != "Split" or step.get("behavior") != "Isolated" or step.get("invert"):
        return None
    pattern = step.get("pattern") or {}
    return pattern.get("Regex")


def _pre_tokenizer(rules: _Rules) -> Any:
    first: list[Any] = []
    if rules.regex:
        first = [pre_tokenizers.Split(Regex(rules.regex), behavior="isolated")]
    elif rules.digits:
        first = [pre_tokenizers.Digits(individual_digits=True)]
    return pre_tokenizers.Sequence(
        [*first, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not rules.regex)]
    )


def _token_list(tokenizer: dict[str, Any], n_vocab: int) -> tuple[list[str], list[int]]:
    by_id = {i: (token, NORMAL) for token, i in tokenizer["model"]["vocab"].items()}
    for token in tokenizer.get("added_tokens") or []:
        by_id[token["id"]] = (token["content"], CONTROL if token.get("special") else USER_DEFINED)
    listed = [by_id.get(i, (f"[PAD{i}]", UNUSED)) for i in range(n_vocab)]
    return [token for token, _ in listed], [kind for _, kind in listed]


def _check_size(tokenizer: dict[str, Any], n_vocab: int) -> None:
    ids = [*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer.get("added_tokens") or [])]
    if ids and max(ids) >= n_vocab:
        raise InvalidModel(
            "The tokenizer has more tokens than the model has embeddings", got=max(ids) + 1, wanted=f"<= {n_vocab}"
        )


def _special_id(name: str, settings: dict[str, Any], config: dict[str, Any], ids: dict[str, int]) -> int | None:
    token = settings.get(f"{name}_token")
    text = token.get("content") if isinstance(token, dict) else token
    if text is not None:
        return ids.get(text)
    from_config = config.get(f"{name}_token_id")
    return from_config[0] if isinstance(from_config, list) else from_config


def _adds_bos(tokenizer: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Tell whether the tokenizer starts a text with a special token, as Llama 3's post-processor does."""
    if "add_bos_token" in settings:
        return bool(settings["add_bos_token"])
    post = tokenizer.get("post_processor") or {}
    for step in post.get("processors") or [post]:
        if step.get("type") == "TemplateProcessing":
            return bool(step.get("single")) and "SpecialToken" in step["single"][0]
    return False


def _chat_template(folder: Path, settings: dict[str, Any]) -> str:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = settings.get("chat_template") or ""
    if isinstance(template, str):
        return template
    named = {entry["name"]: entry["template"] for entry in template}
    return str(named.get("default", ""))
