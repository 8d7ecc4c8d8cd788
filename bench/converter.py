"""Our converter against llama.cpp's own scripts: every tensor bit by bit, every metadata key, every token.

The scripts are those of llama.cpp's source, which the source distribution of llama-cpp-python contains
(vendor/llama.cpp). They run as they are, in a Python that has their requirements. Models are random and small, with
the tokenizers of real models where folders of these are given: the scripts recognise a tokenizer by its hash.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.sides import STATE

CORPUS = Path(__file__).parents[1] / "data" / "samples" / "corpus"
DTYPES = ("f32", "f16", "bf16")
ALWAYS_DIFFERENT = ("general.name", "general.size_label", "general.basename", "general.finetune", "general.tags")
"""Keys that describe a model to people; what either writes there follows from the folder's name."""


@dataclass(frozen=True, slots=True)
class Case:
    """A random model: ``tokenizer`` names the folder whose tokenizer it gets."""

    family: str
    tokenizer: str
    settings: dict[str, Any] = field(default_factory=dict)


LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64}
LOCAL_AND_SCALED = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
CASES = {
    "llama": Case("llama", "smollm"),
    "llama-tied-wide-heads": Case("llama", "smollm", {"tie_word_embeddings": True, "head_dim": 24}),
    "llama-3.1": Case("llama", "llama3", {"rope_parameters": LLAMA3_ROPE}),
    "qwen2": Case("qwen2", "qwen"),
    "qwen2-tied-yarn": Case("qwen2", "qwen", {"tie_word_embeddings": True, "rope_parameters": YARN}),
    "qwen3": Case("qwen3", "qwen", {"head_dim": 32}),
    "gemma3": Case("gemma3", "sentencepiece"),
    "gemma3-scaled": Case("gemma3", "sentencepiece", {"rope_parameters": LOCAL_AND_SCALED}),
}
GEMMA3 = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 24, "num_hidden_layers": 7}


def save_model(case: Case, folder: Path, tokenizer: Path) -> Path:
    """Save a random bfloat16 model with the files of ``tokenizer``."""
    import torch
    import transformers
    from tokenizers import Tokenizer

    kinds = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
        "gemma3": (transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM),
    }
    size = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).get_vocab_size()
    shape = {
        "vocab_size": size, "max_position_embeddings": 256, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    config, model = kinds[case.family]
    torch.manual_seed(7)
    made = model(config(**{**shape, **(GEMMA3 if case.family == "gemma3" else {}), **case.settings}))
    for parameter in made.parameters():  # norms and biases are ones and zeros when fresh
        torch.nn.init.normal_(parameter, std=0.1)
    made.to(torch.bfloat16).save_pretrained(folder)
    for file in tokenizer.iterdir():
        if file.name.startswith("tokenizer"):
            shutil.copy(file, folder / file.name)
    return folder


def save_adapter(model: Path, folder: Path) -> Path:
    """Save a random LoRA on all linear layers, of another rank on K."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = peft.LoraConfig(r=4, lora_alpha=12, target_modules=targets, rank_pattern={"k_proj": 2})
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    torch.manual_seed(11)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(folder)
    return folder


def run_reference(options: argparse.Namespace, script: str, *arguments: str) -> float:
    """Run one of llama.cpp's scripts; return its seconds."""
    begun = time.perf_counter()
    done = subprocess.run(
        [options.reference_python, str(options.reference / script), *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{script} {' '.join(arguments)}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    return time.perf_counter() - begun


Tensor = tuple[str, tuple[int, ...], bytes]
"""Type, shape and bytes."""


@dataclass(slots=True)
class Contents:
    """A GGUF file as it is on disk: raw tensors with types and shapes, and metadata."""

    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


def read(path: Path) -> Contents:
    import gguf

    reader = gguf.GGUFReader(path)
    tensors = {t.name: (t.tensor_type.name, tuple(map(int, t.shape)), t.data.tobytes()) for t in reader.tensors}
    metadata = {key: f.contents() for key, f in reader.fields.items() if not key.startswith("GGUF.")}
    return Contents(tensors, metadata)


def difference(ours: Contents, theirs: Contents) -> dict[str, Any]:
    """Return the counts of equal tensors and keys, and every name in which the files differ."""
    names, keys = set(ours.tensors) | set(theirs.tensors), set(ours.metadata) | set(theirs.metadata)
    tensors = {n for n in names if ours.tensors.get(n) != theirs.tensors.get(n)}
    both = {key for key in keys if key in ours.metadata and key in theirs.metadata}
    other = {k for k in both if ours.metadata[k] != theirs.metadata[k] and k not in ALWAYS_DIFFERENT}
    return {
        "tensors": len(names),
        "equal_tensors": len(names) - len(tensors),
        "other_tensors": {name: _largest(ours.tensors.get(name), theirs.tensors.get(name)) for name in sorted(tensors)},
        "shared_keys": len(both),
        "equal_keys": len(both) - len(other) - sum(k in both for k in ALWAYS_DIFFERENT),
        "other_keys": {key: _values(ours.metadata[key], theirs.metadata[key]) for key in sorted(other)},
        "only_ours": sorted(keys - set(theirs.metadata)),
        "only_theirs": sorted(keys - set(ours.metadata)),
    }


def _largest(ours: Tensor | None, theirs: Tensor | None) -> str:
    if ours is None or theirs is None or ours[:2] != theirs[:2] or ours[0] != "F32":
        return f"{ours and ours[:2]} / {theirs and theirs[:2]}"
    a, b = (np.frombuffer(tensor[2], np.float32) for tensor in (ours, theirs))
    return f"off by {np.abs(a - b).max():.2g} at most"


def _values(ours: Any, theirs: Any) -> str:
    if isinstance(ours, list) and isinstance(theirs, list):
        places = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b]
        first = f", first {places[0]}: {ours[places[0]]!r} / {theirs[places[0]]!r}" if places else ""
        return f"{len(ours)} / {len(theirs)} values, {len(places)} differ{first}"
    return f"{ours!r} / {theirs!r}"[:200]


def token_differences(gguf: Path, tokenizer: Path, texts: Sequence[str]) -> int:
    """Return how many texts get other tokens in llama.cpp than in the folder's tokenizer, markup as markup and not."""
    import llama_cpp
    from tokenizers import Tokenizer

    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(gguf).encode(), parameters)
    vocab = llama_cpp.llama_model_get_vocab(model)
    wanted, off = Tokenizer.from_file(str(tokenizer / "tokenizer.json")), 0
    for markup in (True, False):
        wanted.encode_special_tokens = not markup
        for text in texts:
            raw = text.encode()
            room = (llama_cpp.llama_token * (len(raw) + 8))()
            count = llama_cpp.llama_tokenize(vocab, raw, len(raw), room, len(room), False, markup)
            off += list(room[:count]) != wanted.encode(text, add_special_tokens=False).ids
    llama_cpp.llama_model_free(model)
    return off


def texts(paths: Sequence[Path]) -> list[str]:
    """Return the sample corpus and the Markdown under ``paths``, 20,000 characters of each file."""
    files = sorted(CORPUS.glob("*.md")) + [file for path in paths for file in sorted(path.rglob("*.md"))]
    odd = ["a  b   c\t\td\n\n\n    indented    \n", " lead", "trail ", "<0x41> <unused3> <|im_start|>", "😀ﷺ ½ Ⅷ"]
    return [file.read_text(encoding="utf-8")[:20_000] for file in files] + odd


def compare_case(name: str, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    from finetune.convert import hf_to_gguf
    from finetune.export import lora_to_gguf

    case = CASES[name]
    tokenizer = Path(options.tokenizers[case.tokenizer])
    folder = save_model(case, scratch / name, tokenizer)
    found: dict[str, Any] = {"seconds": {}}
    for dtype in DTYPES if case.tokenizer in {"smollm", "sentencepiece"} else DTYPES[:1]:
        ours, theirs = scratch / "ours.gguf", scratch / "theirs.gguf"
        seconds = run_reference(
            options, "convert_hf_to_gguf.py", str(folder), "--outtype", dtype, "--outfile", str(theirs)
        )
        begun = time.perf_counter()
        hf_to_gguf(folder, ours, dtype)
        found["seconds"][dtype] = [round(time.perf_counter() - begun, 2), round(seconds, 2)]
        found[dtype] = difference(read(ours), read(theirs))
    found["texts"] = len(options.texts) * 2
    found["texts_with_other_tokens"] = token_differences(ours, tokenizer, options.texts)
    adapter = save_adapter(folder, scratch / f"{name}-lora")
    lora_to_gguf(adapter, ours, scratch / "ours-lora.gguf", pad_rank=False)
    arguments = (str(adapter), "--base", str(folder), "--outtype", "f32", "--outfile", str(scratch / "lora.gguf"))
    run_reference(options, "convert_lora_to_gguf.py", *arguments)
    found["lora"] = difference(read(scratch / "ours-lora.gguf"), read(scratch / "lora.gguf"))
    for file in scratch.glob("*.gguf"):
        file.unlink()
    return found


def own_tokenizers(options: argparse.Namespace) -> dict[str, str]:
    """Make the folders of the tokenizers that need no download: the starter's, and one trained by SentencePiece."""
    from finetune.gguf_tensors import GgufFile
    from finetune.vocabulary import tokenizer_from_gguf
    from service.engine.models import starter_gguf

    smollm, spm = STATE / "tokenizers" / "smollm", STATE / "tokenizers" / "sentencepiece"
    smollm.mkdir(parents=True, exist_ok=True)
    model = GgufFile(starter_gguf())
    tokenizer_from_gguf(model).save(str(smollm / "tokenizer.json"))
    tokens = model.value("tokenizer.ggml.tokens")
    special = {f"{name}_token": tokens[model.value(f"tokenizer.ggml.{name}_token_id")] for name in ("bos", "eos")}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": model.get("tokenizer.chat_template")}
    (smollm / "tokenizer_config.json").write_text(json.dumps({**settings, **special}), encoding="utf-8")
    if not (spm / "tokenizer.json").is_file():
        spm.mkdir(parents=True, exist_ok=True)
        corpus = spm / "corpus.txt"
        corpus.write_text("\n".join(options.texts), encoding="utf-8")
        done = [options.reference_python, "-m", "bench.sentencepiece_side", str(corpus), str(spm)]
        subprocess.run(done, check=True, capture_output=True)
    return {"smollm": str(smollm), "sentencepiece": str(spm)}


def report(found: dict[str, dict[str, Any]]) -> None:
    """Print one JSON line, and a readable one for each comparison."""
    print(json.dumps({"bench": "converter", **found}, ensure_ascii=False))
    for name, case in found.items():
        off = f"{case['texts_with_other_tokens']} of {case['texts']} texts with other tokens"
        print(f"{name}: {off}; seconds ours / theirs {case['seconds']}")
        for kind in (*DTYPES, "lora"):
            if kind in case:
                d = case[kind]
                print(
                    f"  {kind}: {d['equal_tensors']} of {d['tensors']} tensors equal, {d['equal_keys']} keys equal; "
                    f"other {d['other_tensors'] or ''} {d['other_keys'] or ''}; only ours {d['only_ours']}; "
                    f"only theirs {d['only_theirs']}"
                )


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert every case on both sides and report."""
    parser = argparse.ArgumentParser(prog="python -m bench.converter", description=__doc__)
    parser.add_argument("--reference", type=Path, required=True, help="llama.cpp's source folder")
    parser.add_argument("--reference-python", required=True, help="a Python with its requirements")
    parser.add_argument("--tokenizer", action="append", default=[], metavar="NAME=FOLDER", help="llama3, qwen, …")
    parser.add_argument("--texts", action="append", default=[], type=Path, help="folder of Markdown to tokenize")
    parser.add_argument("--cases", help=f"of {', '.join(CASES)}; those whose tokenizers are there by default")
    options = parser.parse_args(arguments)
    options.texts = texts(options.texts)
    given = dict(entry.split("=", 1) for entry in options.tokenizer)
    options.tokenizers = {**own_tokenizers(options), **given}
    names = options.cases.split(",") if options.cases else list(CASES)
    with tempfile.TemporaryDirectory(prefix="converter-") as scratch:
        folder = Path(scratch)
        there = [name for name in names if CASES[name].tokenizer in options.tokenizers]
        report({name: compare_case(name, options, folder) for name in there})


if __name__ == "__main__":
    main()
