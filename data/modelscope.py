"""ModelScope's list of a model's files, over its HTTP interface; for users whom Hugging Face does not reach.

Knows nothing of what is done with the files.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from data.download import RemoteFile
from data.errors import HubError

ENDPOINT = "https://modelscope.cn"
DEFAULT_REVISION = "master"
_TIMEOUT_S = 30.0


def list_files(repo: str, revision: str | None) -> tuple[str, str, list[RemoteFile]]:
    """Return the revision, the licence ("" where none is named) and the files of a model.

    Raises:
        HubError: there is no such model or revision, no connection, or no answer that can be read.
    """
    model = f"{ENDPOINT}/api/v1/models/{quote(repo)}"
    wanted = revision or DEFAULT_REVISION
    found = _ask(f"{model}/repo/files?{urlencode({'Revision': wanted, 'Recursive': 'true'})}", repo)
    about = _ask(model, repo)
    try:
        files = [_file(model, wanted, entry) for entry in found["Files"] if entry["Type"] != "tree"]
    except (KeyError, TypeError) as error:
        raise HubError(f"ModelScope's answer about {repo} cannot be read", got=str(found)[:200]) from error
    licence = about.get("License") if isinstance(about, dict) else None
    return wanted, str(licence or ""), files


def _file(model: str, revision: str, entry: dict[str, Any]) -> RemoteFile:
    query = urlencode({"Revision": revision, "FilePath": entry["Path"]})
    return RemoteFile(entry["Path"], f"{model}/repo?{query}", int(entry["Size"]), entry.get("Sha256") or None)


def _ask(url: str, repo: str) -> Any:
    import httpx2

    try:
        response = httpx2.get(url, timeout=_TIMEOUT_S, follow_redirects=True)
        answer = response.json()
    except (httpx2.HTTPError, ValueError) as error:
        raise HubError(
            "ModelScope cannot be reached", got=str(error)[:200], hint="Check the connection, or use a local file."
        ) from error
    if response.status_code != 200 or not isinstance(answer, dict) or answer.get("Code") != 200:
        said = answer.get("Message") if isinstance(answer, dict) else None
        raise HubError(
            f"ModelScope has no model {repo}, or not in this revision",
            got=f"HTTP {response.status_code}{f', {said}' if said else ''}",
            hint="Check the id on modelscope.cn.",
        )
    return answer.get("Data") or {}
