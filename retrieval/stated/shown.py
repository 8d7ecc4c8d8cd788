"""Transformations of code that a document shows right behind the sentence that says what it is for.

A command's purpose stands before its fence ("To view X, run the following command:"), and so does the module that names
are imported from. Knows nothing of what sentences state by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data.prompt import language
from retrieval.stated.chinese import TASKS as TASKS_ZH
from retrieval.stated.entries import Stated
from retrieval.stated.sentences import Sentence
from retrieval.stated.usage import ACTIONS, is_task, mine

LONGEST_COMMAND = 160
"""Characters of a command that is an answer."""
SHORTEST_TASK = 4
"""Characters of a Chinese task that say what is done to what."""
LONGEST_LISTING = 10_000
"""Characters of a listing that is looked at."""
MOST_IMPORTED = 3
"""Names that one listing is asked about: more differ in nothing but the name."""

_FENCE = re.compile(r"[ \t]*(?P<mark>```|~~~)[ \t]*(?P<language>[\w-]*)")
_BETWEEN = re.compile(r"\s*(?:<div[^<>]*>\s*)?")
_SHELLS = frozenset({"console", "shell", "bash", "sh", "zsh"})
_NO_COMMAND = re.compile(r"[<>\\]{2}|\\$|[<>][A-Za-z/]|\(\d+\)!|^\s*#|^[\w-]+\s*[:=]\s|[│├└…]|\.\.\.")
_PROGRAM = re.compile(
    r"(?:sudo |watch (?:-n ?\d+ )?)?(?:kubectl|helm|docker(?:-compose)?|podman|git|pip3?|pipx|python3?|uvx?|npm|npx|"
    r"yarn|pnpm|node|cargo|gem|bundle|brew|apt|apt-get|dnf|yum|systemctl|journalctl|curl|wget|ssh|scp|rsync|tar|mysql|"
    r"psql|mysqldump|redis-cli|sqlite3|terraform|ansible(?:-playbook)?|poetry|conda|tiup|uvicorn|gunicorn|hypercorn|fastapi|"
    r"pytest|mkdir|chmod|chown|openssl|java|mvn|gradle|dotnet|aws|gcloud|az|go (?:get|install|build|run|test|mod)) "
)
"""How a line begins that is a command and no output, though nothing says so."""
_CALLED = re.compile(r"\bcommands?\b|命令", re.I)
_COMMAND = re.compile(r"[a-z][\w./-]*(?: \S+)+")
_RUN = r"(?:use|run|execute|you can use|you can run|you can execute)"
_NAMED = r"(?:the|this) (?:following )?(?:`[^`]+` )?commands?"
_RUN_ZH = "运行|执行|使用|通过|用"
_STARTS = r"(?:(?:Then|Now|First|Next|Finally|For example|Optionally|After that),? |After [^,:;]+, )?"
_PURPOSES = (
    re.compile(rf"{_STARTS}[Tt]o (?P<a>[^,:;]+), {_RUN} {_NAMED}[.:]$"),
    re.compile(rf"{_STARTS}(?i:{_RUN}) {_NAMED} to (?P<a>[^,:;]+)[.:]$"),
    re.compile(
        rf"{_STARTS}(?:[Yy]ou can (?:also )?)?(?P<a>[A-Za-z]+ [^,:;]+?),? "
        rf"(?:by running|by executing|by using|using|with|via) {_NAMED}[.:]$"
    ),
    re.compile(rf"{_STARTS}(?P<a>(?i:{ACTIONS}) [^,:;]+?):$"),
)
_PURPOSES_ZH = (
    re.compile(
        rf"(?:你)?(?:可以|可|请)?(?:{_RUN_ZH})(?:以下|如下|下列|下面的?)命令(?:来|以)?(?P<a>[^，：。；]+)[：:]$"
    ),
    re.compile(
        rf"(?:要|如需|若要|如果要)(?P<a>[^，：。；]+)，(?:你)?(?:请|可以|可)?(?:{_RUN_ZH})(?:以下|如下|下列|下面的?)命令[：:]$"
    ),
)
_DOES_ZH = re.compile(rf"(?:{TASKS_ZH}|检查|验证|确认|升级|卸载|生成|启动)")
_DENIED = re.compile(r"\b(?:not|never|no longer|cannot|without)\b|n't\b")
_DENIED_ZH = re.compile(r"不[要能可会应再得]|别|勿|禁止|无法|没有|避免")
_VAGUE_ZH = re.compile(r"[该此这其它他你我]|上述|上面|以上|新的|命令|刚|使用")
_DOES = re.compile(rf"(?:{ACTIONS}|check whether|list|show|describe|display|observe|inspect)\b", re.I)
_VAGUE = re.compile(
    r"^(?:use|avoid|prevent|ensure|omit)\b|\b(?:commands?|newly|specific|created|preceding|again|like)\b"
)
_FILE = re.compile(
    r"(?<![\w./-])[\w-]+(?:\.[\w-]+)*\.(?:ya?ml|json|toml|sql|py|sh|js|ts|txt|ini|cfg|conf|xml|pem|crt)\b"
)
"""A file that the reader has made by then; what it holds the question would have to tell."""
_INSTALLS = re.compile(
    r"(?:uv (?:add|pip install)|(?:python3? -m )?pip3? install|conda install|poetry add|npm install|yarn add|pnpm add|"
    r"brew install|(?:sudo )?(?:apt|apt-get|dnf|yum) install(?: -y)?|cargo (?:add|install)|gem install|"
    r"go (?:get|install)) (?P<quote>[\"']?)(?P<package>[A-Za-z][\w.-]*(?:\[[\w,-]+\])?)(?P=quote)"
)
_IMPORTS = re.compile(
    r"\s*from (?P<module>[A-Za-z_][\w.]*) import (?:\((?P<many>[\w\s,]+)\)|(?P<few>\w+(?:, \w+)*))\s*$", re.M
)


@dataclass(frozen=True, slots=True)
class _Listing:
    """Code in a fence, what introduces it, and where both stand."""

    language: str
    body: str
    said: Sentence | None
    start: int
    end: int


def shown(document: str, said: Sequence[Sentence]) -> Iterator[tuple[Stated, str]]:
    """Yield what a document's code answers, each with the headings above it; ``said`` are the document's sentences."""
    for listing in _listings(document, said):
        under = listing.said.under if listing.said else ""
        for question, answer, made_by in (*_commands(listing), *_imports(listing)):
            yield Stated(question, answer, made_by, listing.start, listing.end), under


def _listings(document: str, said: Sequence[Sentence]) -> Iterator[_Listing]:
    """Yield the code of a document with the sentence right before it, in order."""
    place = 0
    for start, end, language_named, body in _fences(document):
        while place < len(said) and said[place].end <= start:
            place += 1
        before = said[place - 1] if place else None
        if before and not _BETWEEN.fullmatch(document, before.end, start):
            before = None
        yield _Listing(language_named, body, before, before.start if before else start, end)


def _fences(document: str) -> Iterator[tuple[int, int, str, str]]:
    """Yield where fences stand, the language that they name, and what is in them; one that does not end is none."""
    position, begun, mark, language_named, body = 0, 0, "", "", ""
    for line in document.splitlines(keepends=True):
        fence = _FENCE.match(line)
        if fence and not mark:
            begun, mark, language_named, body = position, fence["mark"], fence["language"].lower(), ""
        elif fence and fence["mark"] == mark and not line.strip().strip(mark[0]):
            yield begun, position + len(line.rstrip()), language_named, body
            mark = ""
        elif mark and len(body) <= LONGEST_LISTING:
            body += line
        position += len(line)


def _commands(listing: _Listing) -> Iterator[tuple[str, str, str]]:
    """Yield what a listing's only command is for."""
    command, said = _only_command(listing), listing.said.text if listing.said else ""
    if not command or not said or _DENIED.search(said) or _DENIED_ZH.search(said):
        return
    chinese = language(said) == "zh"
    task = _purpose_zh(said) if chinese else _purpose(said)
    if task and all(file in task for file in _FILE.findall(command)):
        yield f"可以用什么命令{task}？" if chinese else f"Which command can I use to {task}?", command, "command"
    elif installed := _INSTALLS.fullmatch(command):
        asked = "可以用什么命令安装 `{}`？" if chinese else "Which command can I use to install `{}`?"
        yield asked.format(installed["package"]), command, "install_command"


def _only_command(listing: _Listing) -> str:
    """Return the one command of a listing, "" where there are others, or where it is no plain line."""
    if listing.language not in _SHELLS:
        return ""
    lines = [line.strip() for line in listing.body.splitlines() if line.strip()]
    prompted = [line[2:].strip() for line in lines if line.startswith("$ ")]
    commands = prompted or (lines if listing.language != "console" else [])
    if len(commands) != 1 or len(commands[0]) > LONGEST_COMMAND or _NO_COMMAND.search(commands[0]):
        return ""
    said = listing.said.text if listing.said else ""
    if not (prompted or _PROGRAM.match(commands[0]) or _CALLED.search(said)):
        return ""  # it may be what a command prints
    return commands[0] if _COMMAND.fullmatch(commands[0]) else ""


def _purpose(sentence: str) -> str:
    """Return what a sentence says that the command behind it does, "" if it says nothing certain."""
    for pattern in _PURPOSES:
        if found := pattern.match(sentence):
            task = (found["a"][0].lower() + found["a"][1:]).removesuffix(" as follows")
            return mine(task) if _DOES.match(task) and is_task(task) and not _VAGUE.search(task) else ""
    return ""


def _purpose_zh(sentence: str) -> str:
    for pattern in _PURPOSES_ZH:
        if found := pattern.match(sentence):
            task = found["a"].strip()
            return task if _DOES_ZH.match(task) and not _VAGUE_ZH.search(task) and len(task) > SHORTEST_TASK else ""
    return ""


def _imports(listing: _Listing) -> Iterator[tuple[str, str, str]]:
    """Yield where names are imported from, if the sentence before the listing says so as well."""
    found = _IMPORTS.fullmatch(listing.body) if len(listing.body) < LONGEST_LISTING else None
    if found is None or listing.said is None or f"`{found['module']}`" not in listing.said.text:
        return
    if re.search(r"\bimport(?:ed|s)?\b", listing.said.text, re.I) and not _DENIED.search(listing.said.text):
        listed = [name.strip() for name in (found["many"] or found["few"]).split(",")]
        names = [name for name in listed if re.fullmatch(r"\w+", name)]  # "Mail as M" names two
        for name in names[:MOST_IMPORTED]:
            yield f"Where can I import `{name}` from?", f"`{found['module']}`", "imported_from"
