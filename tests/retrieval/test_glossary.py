"""A glossary file: its forms are read from TOML and CSV, and what it cannot mean is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.errors import InvalidRequest
from retrieval.glossary import Glossary, Term, read_glossary

TERMS = {"LoRA": ["lora", "low-rank adapter"], "索引": ["目录表"], "path operation": []}


def test_toml_and_csv_say_the_same(tmp_path: Path) -> None:
    toml, table = tmp_path / "terms.toml", tmp_path / "terms.csv"
    toml.write_text('[terms]\n"LoRA" = ["lora", "low-rank adapter"]\n"索引" = ["目录表"]\n"path operation" = []\n')
    table.write_bytes("preferred,other\nLoRA,lora,low-rank adapter\n索引,目录表\npath operation\n".encode("gb18030"))
    assert read_glossary(toml) == read_glossary(table) == Glossary.of(TERMS)
    assert read_glossary(toml).to_mapping() == TERMS


def test_forms_are_found_as_whole_words_and_as_written() -> None:
    glossary = Glossary.of(TERMS)
    assert glossary.found_in("A low-rank\nadapter is small.") == (Term("LoRA", ("lora", "low-rank adapter")),)
    assert glossary.avoided("What is a lora?") == ("lora", "LoRA")
    assert glossary.avoided("What is LoRA? An exploration of a path operation.") is None
    assert glossary.avoided("目录表在哪里？") == ("目录表", "索引")
    assert Glossary.of({"LoRA adapter": ["adapter"]}).avoided("Which LoRA adapter is live?") is None


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", "terms = 3", "no table of terms"),
        ("a.toml", "[terms", "no TOML"),
        ("a.toml", '[terms]\n"LoRA" = "lora"', "no list"),
        ("a.toml", '[terms]\n"LoRA" = [" "]', "blank"),
        ("a.toml", '[terms]\n"LoRA" = ["QLoRA"]\n"QLoRA" = []', "both preferred and not"),
        ("a.csv", "LoRA,lora\nLoRA,Lora", "stands twice"),
        ("a.csv", "preferred,other\n", "no terms"),
    ],
)
def test_what_a_glossary_cannot_mean_is_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidRequest, match=said):
        read_glossary(tmp_path / name)
