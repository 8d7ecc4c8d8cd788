"""Fetch models from a hub: safetensors or GGUF, never pickles or code.

The only importer of ``huggingface_hub`` for models, which itself honours HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN and its
cache folder; files are put into that cache by ``data.download``, which continues broken ones. ``modelscope:`` in front
of an id asks ModelScope. Knows nothing of what is done with the files.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from data import modelscope
from data.download import RemoteFile, download
from data.errors import HubError, InsufficientStorage, InvalidModel
from data.protocols import Report
from data.records import Progress

_HUB_ID = re.compile(
    r"(?P<modelscope>modelscope:)?(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)"
    r"(?:@(?P<revision>[\w-][\w./-]*))?(?::(?P<type>[\w.-]+))?"
)
_FOLDER_FILES = (
    "*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$")
_TYPE = re.compile(r"(?<![a-z0-9])((?:i?q\d|f16|f32|bf16)\w*)(?=[-.])", re.IGNORECASE)
_MB = 1e6
_REPORT_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class HubModel:
    """What a hub has under an id: ``revision`` is a commit's hash where the hub knows one; ``licence`` may be ""."""

    repo: str
    revision: str
    licence: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(file.size for file in self.files)

    def __str__(self) -> str:
        count = f"{len(self.files)} file{'s' if len(self.files) > 1 else ''}"
        return (
            f"{self.repo}, revision {self.revision[:12]}: {self.size / _MB:,.1f} MB in {count}, "
            f"licence {self.licence or 'not named'}"
        )


def is_hub_id(text: str) -> bool:
    """Tell whether ``text`` has the form org/name, with @revision and :type behind it or not."""
    return _HUB_ID.fullmatch(text) is not None


def look_up(hub_id: str) -> HubModel:
    """Return what would be fetched, with its size and licence; nothing is fetched.

    Raises:
        HubError: no such model, no access, no connection, or the hub is switched off.
        InvalidModel: the repository has not what is needed.
    """
    wanted = _parse(hub_id)
    if wanted["modelscope"]:
        revision, licence, files = modelscope.list_files(wanted["repo"], wanted["revision"])
        found = HubModel(wanted["repo"], revision, licence, tuple(files))
    else:
        found = _hugging_face(wanted["repo"], wanted["revision"])
    names = _chosen([file.path for file in found.files], wanted["repo"], wanted["type"])
    return HubModel(found.repo, found.revision, found.licence, tuple(f for f in found.files if f.path in names))


def fetch(hub_id: str, report: Report | None = None) -> Path:
    """Return the local copy of a model, fetched where it is missing; a broken download is continued.

    ``org/name`` gives the folder of its safetensors, configuration and tokenizer; ``org/name:q4_k_m`` the one GGUF
    file of that type (the first part of a split one). ``org/name@revision`` pins a branch, tag or commit.

    Args:
        hub_id: what to fetch.
        report: told the size and licence first, then how much is here; may raise to stop.

    Raises:
        HubError: no such model, no access, no connection, or the hub is switched off.
        InvalidModel: the repository has not what is needed.
        InsufficientStorage: the disk has no room for it.
    """
    wanted = _parse(hub_id)
    if wanted["modelscope"]:
        return _from_modelscope(hub_id, wanted["repo"], wanted["type"], report)
    try:
        found = None if _is_offline() else look_up(hub_id)
    except HubError as error:
        if not isinstance(error.__cause__, ConnectionError):
            raise
        found = None  # no connection: what is here may be enough
    if found is not None:
        _fetch_all(found, {file.path: _cache(found.repo) / "blobs" / _etag(file) for file in found.files}, report)
    names = [file.path for file in found.files] if found else [*_FOLDER_FILES, "*.gguf"]
    folder = _snapshot(wanted["repo"], wanted["revision"], names, local=found is None)
    return _local(folder, wanted["repo"], wanted["type"])


def _parse(hub_id: str) -> dict[str, str]:
    match = _HUB_ID.fullmatch(hub_id)
    if match is None:
        raise HubError("Not a hub id", got=hub_id, wanted="org/name, org/name@revision or org/name:type")
    return match.groupdict()


def _from_modelscope(hub_id: str, repo: str, kind: str | None, report: Report | None) -> Path:
    root = _cache_root() / f"modelscope--{repo.replace('/', '--')}"
    try:
        if _is_offline():
            raise HubError("Hubs are switched off", got="HF_HUB_OFFLINE", hint="Unset it.")
        found = look_up(hub_id)
    except HubError as error:
        here = sorted(root.glob("*")) if root.is_dir() else []
        whole = [folder for folder in here if not any(folder.rglob("*.part"))]
        if len(whole) == 1 and not str(error.got).startswith("HTTP"):
            return _local(whole[0], repo, kind)
        raise
    folder = root / found.revision.replace("/", "--")
    _fetch_all(found, {file.path: folder / file.path for file in found.files}, report)
    return _local(folder, repo, kind)


def _chosen(names: Sequence[str], repo: str, kind: str | None) -> set[str]:
    """Return the names of the files that are needed.

    Raises:
        InvalidModel: the repository has not what is needed.
        HubError: it names a file that would lie elsewhere.
    """
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise HubError("The hub names a file outside of the model", got=name, hint="Do not use this repository.")
    if kind is not None:
        first = _one_gguf(names, repo, kind)
        parts = re.sub(r"-00001-(of-\d{5}\.gguf)$", r"-?????-\1", first)
        return {name for name in names if fnmatch(name, parts)}
    chosen = {name for name in names if any(fnmatch(name, pattern) for pattern in _FOLDER_FILES)}
    if "config.json" not in chosen or not any(name.endswith(".safetensors") for name in chosen):
        raise _no_weights(repo, names)
    return chosen


def _no_weights(repo: str, names: Sequence[str]) -> InvalidModel:
    types = _types(names)
    shown = types[-1] if types else "q4_k_m"
    return InvalidModel(
        f"{repo} has no safetensors weights",
        got=f"GGUF of type {', '.join(types)}" if types else None,
        wanted="config.json, tokenizer.json and *.safetensors",
        hint=f"For a GGUF repository name the type, as in {repo}:{shown}.",
    )


def _one_gguf(names: Sequence[str], repo: str, kind: str) -> str:
    whole_word = re.compile(rf"(?<![a-z0-9]){re.escape(kind.lower())}(?![a-z0-9_])")
    files = [name for name in names if name.endswith(".gguf") and not _LATER_PART.search(name)]
    found = sorted(name for name in files if whole_word.search(Path(name).name.lower()))
    if len(found) != 1:
        raise InvalidModel(
            f"{repo} has {len(found) or 'no'} GGUF files of type {kind}",
            got=", ".join(found or _types(files)) or None,
            wanted="exactly one",
            hint="Look at the repository's file list and name the type as its files do.",
        )
    return found[0]


def _types(names: Sequence[str]) -> list[str]:
    found = [_TYPE.search(Path(name).name) for name in names if name.endswith(".gguf")]
    return sorted({match[1].lower() for match in found if match})


def _local(folder: Path, repo: str, kind: str | None) -> Path:
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    if kind is not None:
        return folder / _one_gguf(names, repo, kind)
    _chosen(names, repo, None)
    return folder


def _fetch_all(found: HubModel, places: dict[str, Path], report: Report | None) -> None:
    """Fetch the files that are not in their places yet.

    Raises:
        InsufficientStorage: the disk has no room for them.
    """
    missing = [file for file in found.files if not _is_there(file, places[file.path])]
    if not missing:
        return
    _check_room(missing, places)
    view = _View(found, sum(file.size for file in missing), report)
    for file in missing:
        download(file, places[file.path], headers=_headers(file), advance=view.advance)


def _is_there(file: RemoteFile, place: Path) -> bool:
    return place.is_file() and place.stat().st_size == file.size


def _check_room(missing: Sequence[RemoteFile], places: dict[str, Path]) -> None:
    needed = 0
    for file in missing:
        part = places[file.path].with_name(f"{places[file.path].name}.part")
        needed += file.size - (part.stat().st_size if part.is_file() else 0)
    folder = places[missing[0].path]
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InsufficientStorage(
            "The disk has no room for the model",
            got=f"{free / _MB:,.0f} MB free in {folder}",
            wanted=f"{needed / _MB:,.0f} MB",
            hint="Free some space, or set HF_HOME to a folder on another disk.",
        )


class _View:
    """Reports how much has come, a few times a second."""

    def __init__(self, found: HubModel, total: int, report: Report | None) -> None:
        self._report = report
        self._total = total
        self._about = {"licence": found.licence or "not named", "revision": found.revision[:12]}
        self._done = self._fresh = 0
        self._started = self._told = time.monotonic()
        if report is not None:
            report(Progress(0, round(total / _MB), "MB", stage="download", metrics=self._about))

    def advance(self, count: int) -> None:
        self._done += count
        self._fresh += count
        now = time.monotonic()
        if self._report is None or (now - self._told < _REPORT_EVERY_S and self._done < self._total):
            return
        self._told = now
        eta_s = (now - self._started) / max(self._fresh, 1) * (self._total - self._done)
        done, total = round(self._done / _MB), round(self._total / _MB)
        self._report(Progress(done, total, "MB", max(eta_s, 0.0), "download", self._about))


def _cache_root() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _cache(repo: str) -> Path:
    """Return where ``huggingface_hub`` keeps a model: ``blobs/<etag>``, linked from ``snapshots/<commit>``."""
    return _cache_root() / f"models--{repo.replace('/', '--')}"


def _etag(file: RemoteFile) -> str:
    return re.sub(r"\W", "-", file.digest or file.path)


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _headers(file: RemoteFile) -> dict[str, str]:
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # lazily exported

    return dict(build_hf_headers()) if file.url.startswith(f"{constants.ENDPOINT}/") else {}


def _hugging_face(repo: str, revision: str | None) -> HubModel:
    from huggingface_hub import HfApi, hf_hub_url

    with _errors(repo):
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
    commit = info.sha or revision or "main"
    files = []
    for entry in info.siblings or ():
        url = hf_hub_url(repo, entry.rfilename, revision=commit)
        digest, kind = (entry.lfs.sha256, "sha256") if entry.lfs else (entry.blob_id, "git")
        files.append(RemoteFile(entry.rfilename, url, entry.size or 0, digest, kind))  # type: ignore[arg-type]
    licence = info.card_data.get("license") if info.card_data else None
    return HubModel(repo, commit, str(licence or ""), tuple(files))


def _snapshot(repo: str, revision: str | None, names: list[str], *, local: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # lazily exported

    disable_progress_bars()  # of links: what is fetched was reported
    with _errors(repo):
        return Path(snapshot_download(repo, revision=revision, allow_patterns=names, local_files_only=local))


@contextmanager
def _errors(repo: str) -> Iterator[None]:
    """Map what the client library raises; a lost connection has a ``ConnectionError`` for its cause."""
    import httpx2
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise HubError(
            f"{repo} is gated", got=repo, hint="Accept its licence on the hub and set HF_TOKEN, or use another model."
        ) from error
    except RevisionNotFoundError as error:
        raise HubError(f"{repo} has no such revision", got=str(error).split("\n", 1)[0][:200]) from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"The hub has no model {repo}", got=repo, hint="Check the id; a private one needs HF_TOKEN."
        ) from error
    except HFValidationError as error:
        raise HubError("Not a hub id", got=repo, wanted="org/name") from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, httpx2.TransportError) as error:
        raise HubError(
            f"{repo} is not on this machine and the hub cannot be reached",
            got=str(error).split("\n", 1)[0][:200],
            hint="Check the connection, HF_ENDPOINT and HF_HUB_OFFLINE, use modelscope:org/name, or a local file.",
        ) from ConnectionError(str(error))
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise HubError(
            f"The hub failed on {repo}", got=str(error).split("\n", 1)[0][:200], hint="Try again later."
        ) from error
