"""The layers, the single importer of each heavy library, and the size limits of design.md, enforced."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("data", "retrieval", "finetune", "service")
ALLOWED = {
    "data": {"data"},
    "retrieval": {"data", "retrieval"},
    "finetune": {"data", "finetune"},
    "service": {"data", "retrieval", "finetune", "service"},
}
# Where each heavy library may be imported: one module, or the one folder that exists for it (two for the hub:
# base models and embedders come from it, in different layers).
IMPORTER: dict[str, str | tuple[str, ...]] = {
    "alembic": "data/store/",
    "defusedxml": "retrieval/parsers/book.py",
    "docutils": "retrieval/parsers/rst.py",
    "faiss": "retrieval/segments.py",
    "gguf": "finetune/gguf_tensors.py",
    "huggingface_hub": ("data/hub.py", "retrieval/embed.py"),
    "langchain_text_splitters": "retrieval/blocks.py",
    "liteparse": "retrieval/parsers/pdf.py",
    "llama_cpp": "service/engine/llama/",
    "lxml": "retrieval/parsers/markup.py",
    "mammoth": "retrieval/parsers/office.py",
    "markdown_it": "retrieval/",
    "matplotlib": "service/compare/charts.py",
    "mcp": "service/mcp_server.py",
    "opentelemetry": "service/traces.py",
    "peft": "finetune/",
    "pptx": "retrieval/parsers/office.py",
    "pymilvus": "retrieval/milvus.py",
    "pypdfium2": "retrieval/parsers/pdf.py",
    "python_calamine": "retrieval/parsers/sheets.py",
    "ray": "retrieval/ray/",
    "sentence_transformers": "retrieval/embed.py",
    "sqlalchemy": "data/store/",
    "tantivy": "retrieval/lexical.py",
    "trafilatura": "retrieval/parsers/web.py",
    "transformers": "finetune/",
    "typer": "service/",
    "uvicorn": "service/serve.py",
    "watchfiles": "retrieval/watch.py",
}
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
OWN_SOURCES = [path for path in SOURCES if "migrations" not in path.parts]


@dataclass(frozen=True)
class Facts:
    """What a file says of itself: the modules it imports, its functions with their lines of code."""

    modules: frozenset[str]
    functions: tuple[tuple[str, int], ...]


@cache
def facts(path: Path) -> Facts:
    """Read a file once; its syntax tree is not kept, a tree of every file slows the tests that come later."""
    modules: set[str] = set()
    functions = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            modules.add(node.module)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            functions.append((node.name, lines - docstring_lines(node)))
    return Facts(frozenset(modules), tuple(functions))


def imported_modules(path: Path) -> frozenset[str]:
    return facts(path).modules


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_imports_point_down() -> None:
    upward = []
    for path in SOURCES:
        own = {module.split(".")[0] for module in imported_modules(path)} & set(PACKAGES)
        wrong = own - ALLOWED[path.relative_to(ROOT).parts[0]]
        upward += [f"{name(path)} imports {sorted(wrong)}"] if wrong else []
    assert not upward


@pytest.mark.parametrize("library", sorted(IMPORTER))
def test_each_heavy_library_has_one_importer(library: str) -> None:
    importers = [name(path) for path in SOURCES if library in {m.split(".")[0] for m in imported_modules(path)}]
    assert importers, f"nothing imports {library}: take it out of this table and of the dependencies"
    outside = [importer for importer in importers if not importer.startswith(IMPORTER[library])]
    assert not outside, f"{library} is imported by {outside}, not only by {IMPORTER[library]}"
    where = IMPORTER[library]
    if isinstance(where, str) and not where.endswith("/"):
        assert importers == [IMPORTER[library]]


def test_files_stay_small() -> None:
    files = [*OWN_SOURCES, *ROOT.glob("tests/**/*.py"), *ROOT.glob("bench/**/*.py")]
    long = {str(path): lines for path in files if (lines := len(path.read_text().splitlines())) > 400}
    assert not long, f"over 400 lines: {long}"


def test_functions_stay_small() -> None:
    long = [
        f"{name(path)}: {function} ({lines} lines)"
        for path in OWN_SOURCES
        for function, lines in facts(path).functions
        if lines > 40
    ]
    assert not long, f"over 40 lines of code: {long}"


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return len((ast.get_docstring(node, clean=False) or "").splitlines())


def test_no_unsafe_loading() -> None:
    pattern = r"^\s*(?:import pickle|from pickle)|trust_remote_code\s*=\s*True|shell\s*=\s*True"
    unsafe = {name(path): found for path in SOURCES if (found := re.findall(pattern, path.read_text(), re.M))}
    assert not unsafe


def test_only_settings_reads_the_environment() -> None:
    readers = [name(path) for path in SOURCES if re.search(r"os\.(environ|getenv)", path.read_text())]
    assert readers == ["service/settings.py"], f"read the environment through service/settings.py, not in {readers}"
