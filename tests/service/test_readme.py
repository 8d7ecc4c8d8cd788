"""The README is kept: its commands, routes, figures, settings and paths are those of the code."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import threading
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.core import TyperGroup

from data.formats import read_questions
from data.model_files import STARTER_INSTALL
from service.cli import app
from service.jobs import run_job
from service.schemas import AnswerBody
from service.settings import Settings
from tests.service.conftest import open_client, real_server
from tests.service.parts import adapter
from tests.service.shells import command_line

ROOT = Path(__file__).parents[2]
READMES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md")}
ENGLISH = READMES["README.md"]
RESULTS = (ROOT / "bench" / "RESULTS.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")

STARTS = ("make", "ragtune", ".venv/bin/ragtune", "curl", "docker")
"""What a command begins with, behind any settings of variables."""


def blocks(text: str, language: str) -> list[str]:
    """Return what stands between fences of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def words_of(command: str) -> list[str]:
    """Return a shell line as words, its comment and the settings of variables in front left out."""
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0], re.S):
        words.pop(0)
    return words


def commands(text: str) -> list[list[str]]:
    """Return every command of a text as words: lines of shell blocks, and inline code that begins like one."""
    lines = [line for block in blocks(text, "sh") for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
    inline = [code for code in inline if " " in code and words_of(code)[0] in STARTS]
    return [words for words in map(words_of, [*lines, *inline]) if words]


def named(words: list[str], *names: str) -> bool:
    return words[0].rpartition("/")[2] in names


DOCS = [path for path in sorted((ROOT / "docs").rglob("*.md")) if path.parent.name not in {"reference", "_build"}]
COMMANDS = commands(ENGLISH)
IN_DOCS = [words for path in DOCS for words in commands(path.read_text(encoding="utf-8"))]
RAGTUNE = [
    list(one) for one in dict.fromkeys(tuple(w[1:]) for w in COMMANDS + IN_DOCS if named(w, "ragtune") and w[1:])
]
CURLS = [words for words in COMMANDS if named(words, "curl")]
TARGETS = sorted({words[1] for words in COMMANDS if named(words, "make")})


def test_both_languages_have_the_same_commands_and_blocks():
    assert commands(READMES["README.zh.md"]) == COMMANDS
    assert blocks(READMES["README.zh.md"], "json") == blocks(ENGLISH, "json")
    fences = [re.findall(r"^```(\w+)$", text, re.M) for text in READMES.values()]
    assert fences[0] == fences[1]
    assert set(fences[0]) == {"sh", "json", "python"}, "another language of block needs a test of its own here"
    assert blocks(READMES["README.zh.md"], "python") == blocks(ENGLISH, "python")


def test_the_python_example_runs(indexed, generator, tmp_path, monkeypatch, capsys):
    """As it is printed, but for the address; its job is run here, as a server would."""
    (program,) = blocks(ENGLISH, "python")
    (tmp_path / "handbook.md").write_text("# Handbook\n\nLeave is 30 days.\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    generator.reply = "Mara Venn [1]"
    over = threading.Event()

    def run_jobs() -> None:
        while not over.wait(0.05):
            for job in indexed.store.jobs.list("queued"):
                run_job(indexed, job.id)

    worker = threading.Thread(target=run_jobs)
    worker.start()
    try:
        with real_server(indexed) as url:
            exec(compile(program.replace("http://127.0.0.1:8000", url), "README.md", "exec"), {})
    finally:
        over.set()
        worker.join()
    printed = capsys.readouterr().out
    assert printed.startswith("Mara")
    assert "Citation(n=1" in printed
    assert "handbook.md" in {row.source for row in indexed.store.documents.by_source("default").values()}


def test_no_command_escapes_these_tests():
    assert all(named(words, "ragtune", "make", "curl", "docker", "ray", "pip") for words in COMMANDS + IN_DOCS)
    assert len(RAGTUNE) >= 40
    assert TARGETS == ["audit", "demo", "docs", "licences", "lock", "sbom", "test"]
    assert CURLS


def test_pip_installs_the_wheel_that_it_builds_and_the_pinned_starter():
    tutorial = commands((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))
    build, wheel, starter = [words[1:] for words in tutorial if words[0] == "pip"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert build == ["wheel", "--no-deps", "-w", "dist", "."]
    file, _, extras = wheel[-1].rstrip("]").partition("[")
    assert file == f"dist/ragtune-{project['version']}-py3-none-any.whl"
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert ["pip", *starter] == shlex.split(STARTER_INSTALL)


@pytest.mark.parametrize("words", RAGTUNE, ids=" ".join)
def test_every_ragtune_command_is_one(words: list[str]):
    """Parsed as the console script parses it, down to the last option; nothing is run."""
    stand_ins = dict.fromkeys(("mine.jsonl", "others.jsonl", "house.zip", "terms.toml", "FILE"), __file__)
    context = command_line(app).make_context("ragtune", [stand_ins.get(word, word) for word in words])
    while isinstance(context.command, TyperGroup):
        name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
    assert context.command.callback is not None


def make_targets(dry: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", "-n", dry, "PYTHON=python3"], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("target", TARGETS)
def test_every_make_target_exists(target: str):
    found = make_targets(target)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("words", CURLS, ids=lambda words: words[1])
def test_the_question_is_answered_with_the_keys_that_are_printed(words, make_workspace, generator):
    url = next(word for word in words if word.startswith("http"))
    host, path = re.fullmatch(r"(http://127\.0\.0\.1:8000)(/.*)", url).groups()
    body = words[words.index("-d") + 1]
    (header,) = [words[i + 1] for i, word in enumerate(words) if word == "-H"]
    AnswerBody.model_validate_json(body)
    generator.reply = "1842 [1]"
    workspace = make_workspace("indexed")
    workspace.store.adapters.add(adapter("demo"))
    workspace.store.adapters.promote("demo", 1)
    with open_client(workspace) as client:
        response = client.post(path, content=body, headers=dict([header.split(": ", 1)]))
        assert response.status_code == 200, response.text
        described = client.get("/openapi.json").json()["paths"]
        for route in set(re.findall(r"`(?:GET |POST )?(/v1/[^`]*)`", ENGLISH)):
            assert re.sub("{id}", "{document_id}", route) in described, route
    (printed,) = map(json.loads, blocks(ENGLISH, "json"))
    real = response.json()
    assert same_shape(printed, real) == []
    assert Settings.model_fields["host"].default in host
    assert host.endswith(f":{Settings.model_fields['port'].default}")


def same_shape(printed: object, real: object, where: str = "reply") -> list[str]:
    """Return where a printed reply has a key, or a kind of value, that the real one lacks."""
    if isinstance(printed, dict) and isinstance(real, dict):
        missing = [f"{where}.{key}" for key in printed if key not in real]
        both = [key for key in printed if key in real]
        return missing + [p for key in both for p in same_shape(printed[key], real[key], f"{where}.{key}")]
    if isinstance(printed, list) and isinstance(real, list):
        return [p for item in printed for p in same_shape(item, real[0] if real else None, f"{where}[]")]
    return [] if type(printed) is type(real) else [f"{where}: {type(printed).__name__} for {type(real).__name__}"]


def test_the_printed_citation_stands_in_the_sample_document():
    (printed,) = map(json.loads, blocks(ENGLISH, "json"))
    for citation in printed["citations"]:
        text = (ROOT / "data" / "samples" / "corpus" / citation["source"]).read_text(encoding="utf-8")
        assert text[citation["start"] : citation["end"]] == citation["quote"]


def variables(text: str) -> set[str]:
    return set(re.findall(r"\bRAGTUNE_[A-Z_]+", text))


SETTINGS = {f"RAGTUNE_{name.upper()}" for name in Settings.model_fields}
COMPOSE_ONLY = {"RAGTUNE_PUBLISH_PORT", "RAGTUNE_DOCUMENTS", "RAGTUNE_GATEWAY_PORT", "RAGTUNE_EXTRAS"}
"""What docker-compose.yml itself reads."""


def test_every_variable_is_a_setting():
    pages = {path.name: path.read_text(encoding="utf-8") for path in DOCS}
    for name, text in {**READMES, **pages, "Makefile": MAKEFILE, "Dockerfile": DOCKERFILE}.items():
        assert variables(text) <= SETTINGS, name
    assert variables(COMPOSE) <= SETTINGS | COMPOSE_ONLY
    assert variables(ENGLISH) == variables(READMES["README.zh.md"])
    assert "DEMO_SERVE=0" in ENGLISH
    aliases = Settings.model_fields["demo_serve"].validation_alias.choices
    assert "DEMO_SERVE" in aliases
    assert all(f"{name} ?=" in MAKEFILE for name in re.findall(r"\b(PIP_ARGS|PYTHON)=", ENGLISH))


def tree(text: str) -> list[str]:
    """Return the paths of the tree's table: the first column, and those in the second that end in / or .md."""
    rows = re.findall(r"^\| (`[^|]+) \| ([^|]+) \|$", text, re.M)
    found: list[str] = []
    for first, second in rows:
        paths = re.findall(r"`([^`]+)`", first)
        inside = [paths[0] + code for code in re.findall(r"`([^`]+)`", second) if paths[0].endswith("/")]
        found += [*paths, *inside]
    return found


def test_every_path_of_the_tree_exists():
    paths = tree(ENGLISH)
    assert len(paths) >= 20
    assert tree(READMES["README.zh.md"]) == paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert all((ROOT / path).is_dir() == path.endswith("/") for path in paths)
    links = {link for text in READMES.values() for link in re.findall(r"\]\((?!http)([^)]+)\)", text)}
    assert [link for link in links if not (ROOT / link).exists()] == []


def arms(text: str) -> dict[str, list[str]]:
    """Return the cells of each arm's row of a table."""
    rows = re.findall(r"^\| (base|rag|tuned|combined|reader) \| (.+) \|$", text, re.M)
    return {name: cells.split(" | ") for name, cells in rows}


def test_the_figures_are_those_that_were_measured():
    """README: F1, interval, exact match, abstained, cites, p50. RESULTS: F1 (interval), exact match, p50, p95."""
    measured = arms(RESULTS)
    for name, text in READMES.items():
        shown = arms(text)
        assert set(shown) == set(measured), name
        for arm, (f1, interval, exact, _, _, p50) in shown.items():
            assert measured[arm][:3] == [f"{f1} ({interval})", exact, p50], f"{name}: {arm}"
    assert arms(ENGLISH) == arms(READMES["README.zh.md"])


def test_the_differences_are_those_that_were_measured():
    rows = re.findall(r"^\| (\S+-\S+) \| \+?(-?[\d.]+) \| (\S+) to (\S+) \|$", RESULTS, re.M)
    against_rag, against_reader = ({row[0]: row[1:] for row in rows}[f"combined-{arm}"] for arm in ("rag", "reader"))
    for name, text in READMES.items():
        flat = " ".join(text.split())
        points, low, high = against_rag
        interval = {"README.md": f"{low} to {high}", "README.zh.md": f"{low} 到 {high}"}[name]
        assert interval in flat, name
        assert re.search(rf"(\+|高 ){re.escape(points)} (F1 points against rag|个 F1 点)", flat), name
        assert re.search(rf"\*reader\*\s?(it is|相比是) \+?{re.escape(against_reader[0])}", flat), name
    (proposals, accepted) = re.search(r"(\d+) proposals gave (\d+) accepted pairs", RESULTS).groups()
    assert int(accepted) < int(proposals)
    assert f"{accepted} generated pairs" in " ".join(ENGLISH.split())
    assert f"{accepted} 个生成的问答对" in READMES["README.zh.md"]


def test_the_counts_of_articles_and_questions_are_those_of_the_samples():
    samples = ROOT / "data" / "samples"
    articles = len(list((samples / "corpus").glob("*.md")))
    questions = read_questions(samples / "questions.jsonl")
    asked = {question.document for question in questions}
    for text, sentences in (
        (ENGLISH, ("indexes {n} Wikipedia articles", "from {used} of them", "asks five arms {q} human questions")),
        (READMES["README.zh.md"], ("为 {n} 篇维基百科文章", "从其中 {used} 篇", "{q} 个人工问题")),
    ):
        flat = " ".join(text.split())
        for sentence in sentences:
            assert sentence.format(n=articles, used=articles - len(asked), q=len(questions)) in flat


def test_the_container_is_watched_keeps_its_state_and_wants_a_key():
    service = yaml.safe_load(COMPOSE)["services"]["ragtune"]
    assert service["environment"]["RAGTUNE_API_KEY"].startswith("${RAGTUNE_API_KEY:?")
    assert service["healthcheck"]["test"][0] == "CMD"
    assert "/healthz" in service["healthcheck"]["test"][-1]
    mounts = {volume.split(":")[1] if volume[0] != "$" else volume.rsplit(":", 2)[1] for volume in service["volumes"]}
    (state,) = re.findall(r"RAGTUNE_STATE_DIR=(\S+)", DOCKERFILE)
    assert {state, "/documents"} == mounts
    assert any(volume.startswith("state:") for volume in service["volumes"])
    (port,) = re.findall(r"RAGTUNE_PORT=(\d+)", DOCKERFILE)
    assert service["ports"][0].endswith(f":{port}")


@pytest.mark.parametrize("code", [0, 1, 127])
def test_a_python_that_does_not_run_is_named(tmp_path, code):
    """A version manager's shim is found on the path, and then fails without a word."""
    shim = tmp_path / "python3.11"
    shim.write_text(f"#!/bin/sh\nexit {code}\n")
    shim.chmod(0o755)
    command = ["make", "preflight", f"PYTHON={shim}"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert f"error: '{shim}' does not run" in found.stderr
    assert "Wanted: Python 3.11, 3.12 or 3.13" in found.stderr
