"""Train a SentencePiece model of Gemma's kind and save it both as tokenizer.model and as tokenizer.json.

Runs in the environment of llama.cpp's own converter, which reads the former where ragtune reads the latter; the way
from one to the other is transformers' own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

MARKUP = ("<mask>", "<start_of_turn>", "<end_of_turn>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def main(corpus: str, folder: str, vocab_size: int = 8000) -> None:
    """Write the tokenizer's files to ``folder``."""
    import sentencepiece
    from transformers import GemmaTokenizer

    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    runs = [mark * count for mark in ("▁", "\n") for count in range(2, 9)]
    sentencepiece.SentencePieceTrainer.train(
        input=corpus,
        model_prefix=str(out / "tokenizer"),
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        control_symbols=list(MARKUP),
        user_defined_symbols=runs,
    )
    tokenizer = GemmaTokenizer.from_pretrained(out, chat_template=TEMPLATE)
    tokenizer.save_pretrained(out)
    # As in Gemma's published folders, which an earlier transformers wrote.
    path, found = out / "tokenizer_config.json", json.loads((out / "tokenizer.json").read_text(encoding="utf-8"))
    added = {str(token.pop("id")): token for token in found["added_tokens"]}
    settings = json.loads(path.read_text(encoding="utf-8")) | {"add_bos_token": True, "added_tokens_decoder": added}
    path.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:3])
