"""Tiny random models, tokenizers and adapters of the real families; torch is imported only when used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = Path(__file__).resolve().parents[2] / "data" / "samples" / "corpus"
CHINESE = "今天天气很好，我们去公园散步。文档检索增强生成可以引用资料回答问题。北京是中国的首都，人口超过两千万。"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = [
    "Super Bowl 50 was played on February 7, 2016, wasn't it?\n\n1994 was another year.",
    "  Two spaces, a tab\tand   1,234.5 numbers\n\n\n  indented 42\r\n",
    CHINESE,
    "混合 mixed 文本 2024年 with 'quotes' I'LL we'Ve <|im_start|> café naïve 😀 ﷺ Ⅷ ½",
]

QWEN2_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_REGEX = QWEN2_REGEX.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def train_tokenizer(pre: str, vocab_size: int = 700) -> Tokenizer:
    """Train byte-level BPE on the committed corpus, with the pre-tokenizer that llama.cpp calls ``pre``."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre in {"smollm", "gpt-2"})
    first: dict[str, Any] = {
        "qwen2": lambda: pre_tokenizers.Split(Regex(QWEN2_REGEX), behavior="isolated"),
        "llama-bpe": lambda: pre_tokenizers.Split(Regex(LLAMA3_REGEX), behavior="isolated"),
        "smollm": lambda: pre_tokenizers.Digits(individual_digits=True),
    }
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*([first[pre]()] if pre in first else []), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [path.read_text(encoding="utf-8")[:20_000] for path in sorted(CORPUS.glob("*.md"))[:4]]
    tokenizer.train_from_iterator([*texts, *[CHINESE] * 20], trainer)
    if pre == "llama-bpe":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    return tokenizer


def train_sentencepiece(vocab_size: int = 700) -> Tokenizer:
    """Train BPE as SentencePiece does for Gemma: blanks as "▁", bytes for what is unknown, runs of blanks as tokens."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split("▁", behavior="merged_with_next")
    texts = [path.read_text(encoding="utf-8")[:20_000] for path in sorted(CORPUS.glob("*.md"))[:4]]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    runs = ["▁" * count for count in range(4, 1, -1)]
    settings = {"vocab_size": vocab_size - len(bytes_) - len(SPECIAL) - len(runs) - 1, "show_progress": False}
    learner.train_from_iterator([*texts, *[CHINESE] * 20], trainers.BpeTrainer(**settings))
    learned = json.loads(learner.to_str())["model"]
    joined = [token for token in dict.fromkeys("".join(pair) for pair in learned["merges"]) if token not in runs]
    characters = sorted(set(learned["vocab"]) - set(joined))
    vocab = {token: i for i, token in enumerate([*SPECIAL, "<unk>", *runs, *bytes_, *joined, *characters])}
    known = {*runs, *joined, *characters}
    merges = [
        (token[:i], token[i:])
        for token in [*runs, *joined]
        for i in range(1, len(token))
        if token[:i] in known and token[i:] in known
    ]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([*SPECIAL, "<unk>"])
    tokenizer.add_tokens([AddedToken(run, normalized=False) for run in runs])
    return tokenizer


def save_model(folder: Path, family: str, *, tokenizer: Tokenizer | None = None, **settings: Any) -> Path:
    """Save a random model of ``family`` (llama, qwen2, qwen3, gemma3), with twice as many query as key-value heads."""
    import torch
    import transformers

    pre = {"llama": "smollm", "qwen2": "qwen2", "qwen3": "qwen2"}
    tokenizer = tokenizer or (train_tokenizer(pre[family]) if family in pre else train_sentencepiece())
    classes = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
        "gemma3": (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM),
    }
    config_class, model_class = classes[family]
    # One embedding more than there are tokens, as real models pad theirs.
    shape = {
        "vocab_size": tokenizer.get_vocab_size() + 1, "max_position_embeddings": 256, "initializer_range": 0.2,
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    if family == "gemma3":
        shape |= {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 24, "num_hidden_layers": 7}
        shape["initializer_range"] = 0.1
    torch.manual_seed(7)
    model = model_class(config_class(**{**shape, **settings}))
    for name, parameter in model.named_parameters():
        # Fresh biases are zero and fresh norms one: neither would show an error.
        if name.endswith(".bias"):
            torch.nn.init.normal_(parameter, std=0.5)
        elif "norm" in name:
            low = -0.5 if family == "gemma3" else 0.5  # Gemma scales by 1 + weight
            torch.nn.init.uniform_(parameter, low, low + 1)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": TEMPLATE})
    )
    return folder


def save_adapter(folder: Path, model_folder: Path, **settings: Any) -> Path:
    """Save a random LoRA on all linear layers of a model, with a B that is not zero."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = peft.LoraConfig(
        **{"r": 4, "lora_alpha": 12, "target_modules": targets, "task_type": "CAUSAL_LM", **settings}
    )
    torch.manual_seed(11)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


def tabulate_gelu(model: Any) -> None:
    """Let a Gemma compute its GELU as ggml does on the CPU: by a table over float16 (ggml-cpu/vec.h).

    Without it logits of a tiny model are off by 0.003, with it by 0.0007; a window one token too short costs 2.
    """
    import torch

    class Tabulated(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found = torch.nn.functional.gelu(x.half().float(), approximate="tanh").half().float()
            return found.where(x > -10, 0 * x).where(x < 10, x)

    for module in model.modules():
        if hasattr(module, "act_fn") and getattr(module.config, "hidden_activation", "") == "gelu_pytorch_tanh":
            module.act_fn = Tabulated()


def hf_logits(model_folder: Path, ids: Sequence[int], adapter: Path | None = None) -> NDArray[np.float32]:
    """Return transformers' logits in float32, a GELU as llama.cpp computes it; shape (len(ids), n_vocab)."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    tabulate_gelu(model)
    if adapter is not None:
        model = peft.PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        return model.eval()(torch.tensor([list(ids)])).logits[0].numpy()
