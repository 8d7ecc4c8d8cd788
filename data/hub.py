"""Fetch models from the Hugging Face hub: safetensors or GGUF, never pickles or code.

The only importer of ``huggingface_hub``, which itself honours HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN
and its cache folder. Knows nothing of what is done with the files.
"""

from __future__ import annotations

import re
from pathlib import Path

from data.errors import HubError, InvalidModel

_HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?::(?P<type>[\w.-]+))?")
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


def is_hub_id(text: str) -> bool:
    """Tell whether ``text`` has the form org/name or org/name:type."""
    return _HUB_ID.fullmatch(text) is not None


def fetch(hub_id: str) -> Path:
    """Return the local copy of a model, downloaded where it is missing.

    ``org/name`` gives the folder of its safetensors, configuration and tokenizer;
    ``org/name:q4_k_m`` the one GGUF file of that type (the first part of a split one).

    Raises:
        HubError: no such model, no access, no connection, or the hub is switched off.
        InvalidModel: the repository has not what is needed.
    """
    match = _HUB_ID.fullmatch(hub_id)
    if match is None:
        raise HubError("Not a hub id", got=hub_id, wanted="org/name or org/name:type")
    kind = match["type"]
    if kind is None:
        return _folder(match["repo"], _snapshot(match["repo"], list(_FOLDER_FILES)))
    # fnmatch tells upper from lower case, and publishers write both
    patterns = [f"*{form}*.gguf" for form in dict.fromkeys((kind, kind.lower(), kind.upper()))]
    return _gguf(match["repo"], kind, _snapshot(match["repo"], patterns))


def _folder(repo: str, folder: Path) -> Path:
    if not (folder / "config.json").exists() or not any(folder.glob("*.safetensors")):
        raise InvalidModel(
            f"{repo} has no safetensors weights",
            wanted="config.json, tokenizer.json and *.safetensors",
            hint="For a GGUF repository name the type, as in org/name-GGUF:q4_k_m.",
        )
    return folder


def _gguf(repo: str, kind: str, folder: Path) -> Path:
    whole_word = re.compile(rf"(?<![a-z0-9]){re.escape(kind.lower())}(?![a-z0-9_])")
    files = sorted(file for file in folder.rglob("*.gguf") if whole_word.search(file.name.lower()))
    firsts = [
        file for file in files if not re.search(r"-\d{5}-of-\d{5}\.gguf$", file.name) or "-00001-of-" in file.name
    ]
    if len(firsts) != 1:
        raise InvalidModel(
            f"{repo} has {len(firsts) or 'no'} GGUF files of type {kind}",
            got=", ".join(file.name for file in firsts) or None,
            wanted="exactly one",
            hint="Look at the repository's file list and name the type as its files do.",
        )
    return firsts[0]


def _snapshot(repo: str, patterns: list[str]) -> Path:
    import httpx2
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(repo, allow_patterns=patterns))
    except GatedRepoError as error:
        raise HubError(
            f"{repo} is gated", got=repo, hint="Accept its licence on the hub and set HF_TOKEN, or use another model."
        ) from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"The hub has no model {repo}", got=repo, hint="Check the id; a private one needs HF_TOKEN."
        ) from (error)
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise HubError(
            f"{repo} is not on this machine and the hub cannot be reached",
            got=str(error).split("\n", 1)[0][:200],
            hint="Check the connection, HF_ENDPOINT and HF_HUB_OFFLINE, or use a local file.",
        ) from error
    except HFValidationError as error:
        raise HubError("Not a hub id", got=repo, wanted="org/name") from error
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise HubError(
            f"The hub failed on {repo}", got=str(error).split("\n", 1)[0][:200], hint="Try again later."
        ) from (error)
