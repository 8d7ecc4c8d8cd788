"""The training code as a wheel: the installed ``data`` and ``finetune`` packages, byte for byte.

What trains elsewhere is what trains here. Written as PEP 427 says, without a build tool, since an installed ragtune
has no source tree to build from; the same files give the same wheel. Knows nothing of what the code does.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import data
import finetune
from data.state import map_os_error

DISTRIBUTION = "ragtune_training"
_PACKAGES = (data, finetune)
_LEFT_OUT = ("samples", "starter", "store", "__pycache__")
"""Folders that training does not read: sample texts, the packaged adapters, the database."""
_SUFFIXES = (".py", ".toml", ".jsonl", ".txt")
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_wheel(folder: Path, version: str) -> Path:
    """Write the wheel into ``folder`` and return it.

    Raises:
        InsufficientStorage: the disk is full.
    """
    path = folder / f"{DISTRIBUTION}-{version}-py3-none-any.whl"
    info = f"{DISTRIBUTION}-{version}.dist-info"
    files = {name: content.read_bytes() for name, content in _sources()}
    files[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {version}\n"
        "Summary: ragtune's training code, for machines that only train.\nRequires-Python: >=3.11\n"
    ).encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: ragtune\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = _record(files, f"{info}/RECORD")
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
            for name, content in files.items():
                entry = zipfile.ZipInfo(name, _EPOCH)
                entry.external_attr = 0o644 << 16
                wheel.writestr(entry, content, zipfile.ZIP_DEFLATED)
    except OSError as error:
        raise map_os_error(error, path) from error
    return path


def _sources() -> Iterator[tuple[str, Path]]:
    for package in _PACKAGES:
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*")):
            inside = path.relative_to(root)
            if path.suffix in _SUFFIXES and not set(inside.parts) & set(_LEFT_OUT):
                yield f"{root.name}/{inside.as_posix()}", path


def _record(files: dict[str, bytes], own_name: str) -> bytes:
    lines = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}")
    return "\n".join([*lines, f"{own_name},,", ""]).encode()
