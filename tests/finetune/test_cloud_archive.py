"""The archive of an adapter that was trained elsewhere: whole or refused."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data.errors import InvalidModel
from finetune.cloud import archive
from finetune.cloud.archive import pack, unpack

WEIGHTS = b"weights" * 1000


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    folder = tmp_path / "trained"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(WEIGHTS)
    (folder / "adapter_config.json").write_text('{"r": 2}')
    (folder / "train_log.jsonl").write_text('{"step": 1}\n')
    (folder / "run.sha256").write_text("not part of it")
    return pack(folder, tmp_path / "house.zip", {"name": "house", "base_sha256": "5" * 64})


def rewritten(packed: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    with zipfile.ZipFile(packed) as old:
        files = {name: old.read(name) for name in old.namelist()}
    change(files)
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in files.items():
            new.writestr(name, content)
    return packed


def test_what_was_packed_comes_out(packed: Path, tmp_path: Path) -> None:
    found = unpack(packed, tmp_path / "out")
    assert sorted(path.name for path in found.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
        "train_log.jsonl",
    ]
    assert (found / "adapter_model.safetensors").read_bytes() == WEIGHTS
    manifest = json.loads((found / "manifest.json").read_text())
    assert manifest["name"] == "house"
    assert set(manifest["sha256"]) == {"adapter_config.json", "adapter_model.safetensors", "train_log.jsonl"}
    with packed.open("rb") as opened:  # as an upload comes
        assert unpack(opened, tmp_path / "again").is_dir()


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "train_log.jsonl"])
def test_a_changed_file_is_refused_and_named(packed: Path, tmp_path: Path, name: str) -> None:
    rewritten(packed, lambda files: files.update({name: files[name] + b" "}))
    with pytest.raises(InvalidModel, match=name):
        unpack(packed, tmp_path / "out")


@pytest.mark.parametrize(
    "name",
    [
        "../evil.py",
        "/etc/cron.d/evil",
        "folder/adapter_config.json",
        "..\\evil.py",
        "pytorch_model.bin",
        "adapter_model.pkl",
        "modeling.py",
    ],
)
def test_nothing_else_is_taken_out(packed: Path, tmp_path: Path, name: str) -> None:
    rewritten(packed, lambda files: files.update({name: b"x"}))
    with pytest.raises(InvalidModel, match="no part of an adapter"):
        unpack(packed, tmp_path / "out" / "adapter")
    assert not (tmp_path / "evil.py").exists()
    assert not (tmp_path / "out").exists()


def test_links_are_refused(packed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(packed, "a") as out:
        link = zipfile.ZipInfo("recipe.toml")
        link.external_attr = 0o120777 << 16
        out.writestr(link, "/etc/passwd")
    with pytest.raises(InvalidModel, match="link"):
        unpack(packed, tmp_path / "out")


@pytest.mark.parametrize("missing", ["manifest.json", "adapter_config.json", "adapter_model.safetensors"])
def test_an_archive_without_a_needed_file_is_refused(packed: Path, tmp_path: Path, missing: str) -> None:
    rewritten(packed, lambda files: files.pop(missing))
    with pytest.raises(InvalidModel) as caught:
        unpack(packed, tmp_path / "out")
    assert missing in str(caught.value)


def test_two_files_of_one_name_are_refused(packed: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(packed, "a") as out:
        out.writestr("adapter_config.json", "{}")
    with pytest.raises(InvalidModel, match="not one adapter"):
        unpack(packed, tmp_path / "out")


@pytest.mark.parametrize(
    "manifest", [b"{", b"[]", b"{}", b'{"sha256": []}', b'{"sha256": {"adapter_config.json": "x"}}']
)
def test_a_manifest_that_vouches_for_nothing_is_refused(packed: Path, tmp_path: Path, manifest: bytes) -> None:
    rewritten(packed, lambda files: files.update({"manifest.json": manifest}))
    with pytest.raises(InvalidModel, match="manifest"):
        unpack(packed, tmp_path / "out")


def test_what_unpacks_into_too_much_is_refused(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LARGEST_BYTES", 5000)
    with pytest.raises(InvalidModel, match="more than an adapter has"):
        unpack(packed, tmp_path / "said")
    # An archive that says its files are small: the sizes in its directory are overwritten.
    content = bytearray(packed.read_bytes())
    with zipfile.ZipFile(packed) as opened:
        place = opened.start_dir
    assert content[place : place + 4] == b"PK\x01\x02"
    content[place + 24 : place + 28] = struct.pack("<I", 100)
    packed.write_bytes(content)
    with pytest.raises(InvalidModel):
        unpack(packed, tmp_path / "lied")


@pytest.mark.parametrize("content", [b"", b"<!doctype html>", b"PK\x03\x04cut"])
def test_what_is_no_archive_is_explained(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "house.zip"
    path.write_bytes(content)
    with pytest.raises(InvalidModel, match="cannot be read"):
        unpack(path, tmp_path / "out")


def test_an_archive_that_was_cut_short_is_explained(packed: Path, tmp_path: Path) -> None:
    packed.write_bytes(packed.read_bytes()[:-30])
    with pytest.raises(InvalidModel) as caught:
        unpack(packed, tmp_path / "out")
    assert "Download it again" in caught.value.hint
