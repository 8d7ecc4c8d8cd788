"""The reference pages, written from the code: commands, routes, errors, settings, the recipe.

``python docs/reference.py`` writes them into ``docs/reference``, and so does the site's build. Knows nothing of Sphinx.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from finetune.recipe import Recipe
from service.app import create_app
from service.cli import app as commands
from service.description import problem_types
from service.settings import Settings
from service.workspace import Workspace

FOLDER = Path(__file__).parent / "reference"
METHODS = ("get", "put", "post", "patch", "delete")


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return a Markdown table, and nothing for no rows."""
    lines = [_row(cells) for cells in rows]
    names = list(header)
    return ["", _row(names), _row("---" for _ in names), *lines, ""] if lines else []


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def commands_page() -> str:
    """Return every command with its arguments and options."""
    lines = ["# Commands", "", "Every command that reads takes `--json`. Exit status: 0 done, 1 failed, 2 wrong usage."]
    root = typer.main.get_command(commands)
    for names, command in _walk(root, ("ragtune",)):
        shown = [param for param in command.params if not getattr(param, "hidden", False) and param.name != "help"]
        lines += ["", f"## {' '.join(names)}", "", inspect.cleandoc(command.help or "")]
        rows = [(f"`{_spelled(param)}`", getattr(param, "help", None) or "", _default(param)) for param in shown]
        lines += table(("argument or option", "what it is", "default"), rows)
    return "\n".join(lines) + "\n"


def _walk(command: Any, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield names, command
    for name, child in sorted(getattr(command, "commands", {}).items()):
        if not child.hidden:
            yield from _walk(child, (*names, name))


def _spelled(param: Any) -> str:
    if param.param_type_name == "argument":
        return f"{str(param.name).upper()}{'…' if param.nargs == -1 else ''}"
    return ", ".join((*param.opts, *param.secondary_opts))


def _default(param: Any) -> str:
    value = param.default
    plain = isinstance(value, str | int | float | Path) and value != ""
    return f"`{value}`" if plain and not isinstance(value, bool) else ""


def routes_page() -> str:
    """Return every route with what it takes and gives."""
    with tempfile.TemporaryDirectory() as folder, Workspace(Settings.load(state_dir=Path(folder))) as workspace:
        schema = create_app(workspace, run_jobs=False).openapi()
    lines = [
        "# HTTP",
        "",
        "JSON both ways; `Authorization: Bearer KEY` where the service wants a key. A refusal is a problem object "
        "(`application/problem+json`, see [errors](errors.md)). The same is at `/openapi.json` of a running service.",
    ]
    for path, operations in schema["paths"].items():
        for method in METHODS:
            if method in operations:
                lines += _route(method, path, operations[method], schema["components"]["schemas"])
    return "\n".join(lines) + "\n"


def _route(method: str, path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> list[str]:
    lines = ["", f"## {method.upper()} {path}", "", operation.get("description") or operation.get("summary", "")]
    parameters = [
        (f"`{one['name']}` ({one['in']})", shape(one.get("schema", {})), one.get("description", ""))
        for one in operation.get("parameters", ())
    ]
    lines += table(("parameter", "type", "what it is"), parameters)
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        lines += ["", f"Takes `{media}`:", *_fields(content.get("schema", {}), schemas), *_example(content)]
    for status, response in operation.get("responses", {}).items():
        for media, content in response.get("content", {}).items():
            if status.startswith("2"):
                lines += ["", f"Gives {status}, `{media}`:", *_fields(content.get("schema", {}), schemas)]
                lines += _example(content)
    return lines


def _example(content: Mapping[str, Any]) -> list[str]:
    if "example" not in content:
        return []
    told = content["example"]
    text = told if isinstance(told, str) else json.dumps(told, ensure_ascii=False, indent=1)
    return ["", "````text" if isinstance(told, str) else "````json", *text.rstrip().splitlines(), "````"]


def _fields(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> list[str]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found = schemas.get(name, schema)
    required = set(found.get("required", ()))
    rows = [
        (f"`{field}`", shape(about), _value(about, field in required), about.get("description", ""))
        for field, about in found.get("properties", {}).items()
    ]
    return table(("field", "type", "default", "what it is"), rows) or ["", shape(schema), ""]


def _value(about: Mapping[str, Any], required: bool) -> str:
    return "required" if required else f"`{about['default']}`" if about.get("default") not in (None, "") else ""


def shape(schema: Mapping[str, Any]) -> str:
    """Return a JSON schema's type in words: ``string or null``, ``list of Citation``."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(shape(one) for one in schema[several]))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {shape(schema.get('items', {}))}"
    return str(schema.get("type", "any JSON"))


def errors_page() -> str:
    """Return every error with its type and status."""
    lines = [
        "# Errors",
        "",
        "Over HTTP an error is a problem object of RFC 9457: `type` (below, stable), `title`, `status`, `detail`, and "
        "`got`, `wanted` and `hint`: what was given, what would do, and the next step. On the command line the same "
        "goes to standard error, and with `--json` to standard output.",
    ]
    rows = [(f"`{name}`", str(status), about) for name, (status, about) in problem_types().items()]
    return "\n".join([*lines, *table(("type", "status", "what it means"), rows)]) + "\n"


def settings_page() -> str:
    """Return every setting with its environment variable and default."""
    lines = ["# Settings", "", "A setting is read from its environment variable; command-line options come first."]
    rows = [
        (f"`RAGTUNE_{name.upper()}`", field.description or "", _said(field.get_default()))
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join([*lines, *table(("variable", "what it is", "default"), rows)]) + "\n"


def _said(value: object) -> str:
    return "" if value in (None, "", ()) or "Undefined" in repr(value) else f"`{value}`"


def recipe_page() -> str:
    """Return the recipe's keys with their defaults, and what they mean."""
    lines = ["# Recipe", "", "A recipe is a TOML file: `ragtune train --recipe FILE`, or the name of a packaged one."]
    rows = [
        (f"`{field.name}`", "" if field.default is dataclasses.MISSING else f"`{field.default}`")
        for field in dataclasses.fields(Recipe)
    ]
    described = inspect.cleandoc(Recipe.__doc__ or "").partition("Attributes:\n")[2]
    entries = ["", *(f"- {entry}" for entry in _entries(described))]
    return "\n".join([*lines, *table(("key", "default"), rows), *entries]) + "\n"


def _entries(described: str) -> Iterator[str]:
    entry: list[str] = []
    for line in described.splitlines():
        if not line.startswith("     ") and entry:
            yield " ".join(entry)
            entry = []
        entry.append(line.strip().replace("``", "`"))
    if entry:
        yield " ".join(entry)


PAGES = {
    "commands": commands_page,
    "http": routes_page,
    "errors": errors_page,
    "settings": settings_page,
    "recipe": recipe_page,
}


def write(folder: Path = FOLDER) -> list[Path]:
    """Write every page into ``folder``; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, page in PAGES.items():
        path = folder / f"{name}.md"
        path.write_text(page().replace("``", "`"), encoding="utf-8")
        written.append(path)
    return written


if __name__ == "__main__":
    write()
