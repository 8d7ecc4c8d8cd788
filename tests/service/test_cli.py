"""Every command through the console script's own entry, over small real parts."""

from __future__ import annotations

import json
import threading

import pytest
from typer.testing import CliRunner

from data.records import QAPair
from service.cli import app
from service.commands.session import Session
from service.jobs import submit
from service.settings import Settings
from service.workspace import Workspace
from tests.service.conftest import DOCUMENTS
from tests.service.parts import MODEL, HashEmbedder, ScriptedGenerator, adapter

pytestmark = pytest.mark.slow

PAIR_JSON = '{"question": "When was the lighthouse of Orrin built?", "answer": "1842"}'


class Shell:
    """Runs command lines against one state directory."""

    def __init__(self, state, generator):
        self.state = state
        self.generator = generator

    def __call__(self, *words, code=0):
        session = Session(lambda s: Workspace(s, embedder=HashEmbedder(), generator=self.generator, model=MODEL))
        found = CliRunner().invoke(app, ["--state-dir", str(self.state), *map(str, words)], obj=session)
        assert found.exit_code == code, f"{found.output}\n{found.exception!r}"
        return found

    def json(self, *words, code=0):
        return json.loads(self(*words, "--json", code=code).stdout)

    def open(self):
        settings = Settings.load(state_dir=self.state)
        return Workspace(settings, embedder=HashEmbedder(), generator=self.generator, model=MODEL)


@pytest.fixture
def shell(tmp_path, generator):
    return Shell(tmp_path / "state", generator)


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "documents"
    made.mkdir()
    for name, text in DOCUMENTS.items():
        (made / name).write_text(text, encoding="utf-8")
    return made


def test_a_restored_backup_answers_as_the_state_it_was_made_of(filled, shell, tmp_path, generator):
    saved = tmp_path / "saved.tar"
    assert shell.json("backup", saved)["files"] > 3
    other = Shell(tmp_path / "other", generator)
    assert other.json("restore", saved)["state_dir"] == str(tmp_path / "other")
    found = [s.json("search", "Who was the keeper?")["passages"][0]["document_id"] for s in (shell, other)]
    assert found[0] == found[1]
    assert other.json("index", "verify")["problems"] == []
    assert "something already" in shell("restore", saved, code=1).output


@pytest.fixture
def filled(shell, folder):
    shell("ingest", folder)
    return shell


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [
        {"id": "built", "question": "When was the lighthouse of Orrin built?", "answers": ["1842"]},
        {"id": "mayor", "question": "Who is the mayor of Orrin?", "answers": [], "answerable": False},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_ingest_tells_what_became_of_each_file(shell, folder):
    first = shell.json("ingest", folder)
    assert {row["source"] for row in first["indexed"]} == set(DOCUMENTS)
    assert set(first) == {"indexed", "unchanged", "moved", "deleted", "failed"}
    assert len(shell.json("ingest", folder)["unchanged"]) == 2
    (folder / "garden.md").unlink()
    assert shell.json("ingest", folder, "--sync")["deleted"] == ["garden.md"]
    assert "1 unchanged" in shell("ingest", folder).stdout


def test_ingest_moves_and_tags(shell, folder):
    shell("ingest", folder, "--tag", "old", "--tag", "garden")
    (folder / "garden.md").rename(folder / "park.md")
    (moved,) = shell.json("ingest", folder, "--sync")["moved"]
    assert (moved["from"], moved["to"]) == ("garden.md", "park.md")
    with shell.open() as workspace:
        row = workspace.store.documents.row(moved["id"])
    assert (row.source, row.tags) == ("park.md", ("old", "garden"))
    assert "0 moved" in shell("ingest", folder, "--sync").stdout


@pytest.mark.slow
def test_ingest_watch_follows_until_it_is_stopped(shell, folder, monkeypatch):
    """Ctrl-C comes with the batch in which the new file is found."""
    from retrieval import watch

    (folder / "late.md").write_text("")

    def interrupted(*arguments, **options):
        for batch in follow(*arguments, **options):
            yield batch
            if any(row["source"] == "late.md" for row in batch.report.indexed):
                raise KeyboardInterrupt
            (folder / "late.md").write_text("# Late\n\nThe late ferry of Orrin.\n")

    follow = watch.follow
    monkeypatch.setattr(watch, "follow", interrupted)
    lines = [json.loads(line) for line in shell("ingest", folder, "--watch", "--json").stdout.splitlines()]
    assert [row["source"] for row in lines[0]["failed"]] == ["late.md"]
    assert [row["source"] for row in lines[-1]["indexed"]] == ["late.md"]
    assert shell.json("search", "late ferry")["passages"][0]["source"] == "late.md"


def test_chunks_are_shown_and_nothing_is_stored(shell, folder):
    found = shell.json("chunks", folder / "lighthouse.md", "--chunk-size", "12", "--chunk-overlap", "2")
    assert (found["source"], found["chunk_size"], found["chunk_overlap"]) == ("lighthouse.md", 12, 2)
    text = (folder / "lighthouse.md").read_text()
    assert len(found["chunks"]) > 1
    for chunk in found["chunks"]:
        assert text[chunk["start"] : chunk["end"]] == chunk["text"]
        assert 0 < chunk["tokens"] <= 12
        assert chunk["heading"] == "Lighthouse"
        assert chunk["page"] is None
    assert "chunks of at most" in shell("chunks", folder / "lighthouse.md").stdout
    shell("chunks", folder / "lighthouse.md", "--chunk-size", "5", "--chunk-overlap", "5", code=1)
    with shell.open() as workspace:
        assert workspace.store.documents.count() == 0


def test_what_documents_say_is_printed_letter_for_letter(shell, tmp_path):
    """Names of emoji, markup of consoles and links are text like any other."""
    text = "Entry root:x:0:0 is [red]urgent[/red] :warning: [link=http://a.example]here[/link] [/] end."
    (tmp_path / "passwd.md").write_text(text, encoding="utf-8")
    shell("ingest", tmp_path / "passwd.md")
    assert text in shell("search", "urgent entry").stdout
    assert text in shell("chunks", tmp_path / "passwd.md").stdout


def test_what_documents_say_does_not_steer_the_terminal(shell, tmp_path):
    (tmp_path / "told.json").write_text(
        r'{"text": "zebu \u001b[31mred \u001b]0;owned\u0007 \u009b2J end"}', encoding="utf-8"
    )
    name = "odd\x1b[2J.md"
    (tmp_path / name).write_text("The okapi sleeps.", encoding="utf-8")
    shown = shell("ingest", tmp_path).output + shell("search", "zebu").stdout + shell("search", "okapi").stdout
    assert "\u241b[31mred \u241b]0;owned\u2407 \ufffd2J end" in shown
    assert "odd\u241b[2J.md" in shown
    assert not {"\x1b", "\x07", "\x9b"} & set(shown)
    assert "odd\u241b[2J.md" in shell("documents", "list").stdout


def test_index_verify_and_compact(filled):
    assert filled.json("index", "verify")["ok"]
    assert "Sound" in filled("index", "verify").stdout
    with filled.open() as workspace:
        files = [path for path in workspace.state.index("default", 1).rglob("*") if path.is_file()]
    max(files, key=lambda path: path.stat().st_size).write_bytes(b"broken")
    broken = filled.json("index", "verify", code=1)
    assert "generation-damaged" in {problem["kind"] for problem in broken["problems"]}
    assert "wrong: generation-damaged" in filled("index", "verify", code=1).stdout
    assert filled.json("index", "verify", "--repair")["ok"]
    assert filled.json("index", "verify")["problems"] == []
    assert set(filled.json("index", "compact")["dropped"]) == {"vectors", "replaced_documents", "uploads", "bytes"}
    assert filled.json("search", "lighthouse")["passages"]


def test_ingest_of_bad_files(shell, folder, tmp_path):
    (folder / "empty.md").write_text("")
    mixed = shell.json("ingest", folder)
    assert [row["type"] for row in mixed["failed"]] == ["empty-document"]
    alone = tmp_path / "alone.md"
    alone.write_text("")
    failed = shell.json("ingest", alone, code=1)
    assert [row["source"] for row in failed["failed"]] == ["alone.md"]
    assert "alone.md" in shell("ingest", alone, code=1).stderr
    assert shell("ingest", tmp_path / "nothing", code=1).stderr.startswith("error:")
    strange = tmp_path / "strange.bin"
    strange.write_bytes(bytes(range(256)) * 8)
    assert "Markdown" in shell("ingest", strange, code=1).stderr


def test_a_rebuild_of_nothing_says_so(shell):
    assert "Nothing is indexed" in shell("index", "rebuild", code=1).stderr


def test_a_question_that_is_no_text(filled):
    """A terminal in another encoding hands over bytes that are no UTF-8."""
    for command in ("ask", "search"):
        assert "error:" in filled(command, "caf\udce9", code=1).stderr


def test_search(filled):
    found = filled.json("search", "lighthouse keeper", "--top-k", 1)
    assert found["passages"][0]["source"] == "lighthouse.md"
    assert found["index_generation"] == 1
    assert "lighthouse.md" in filled("search", "lighthouse").stdout
    filled("search", "x", "--method", "magic", code=2)
    assert "No such collection" in filled("search", "x", "-C", "absent", code=1).stderr
    assert "empty" in filled("search", " ", code=1).stderr


def test_ask_streams_the_answer_then_its_sources(filled, generator):
    generator.reply = "1842 [1]"
    shown = filled("ask", "When was the lighthouse of Orrin built?")
    assert shown.stdout.startswith("1842 [1]\n[1] lighthouse.md")
    assert "rag, scripted" in shown.stderr
    answer = filled.json("ask", "When was the lighthouse of Orrin built?", "--mode", "base")
    assert (answer["mode"], answer["passages"]) == ("base", [])


def test_ask_with_what_does_not_exist(shell):
    assert "Ingest" in shell("ask", "Anything?", code=1).stderr or "ingest" in shell("ask", "Anything?", code=1).stderr
    assert "No such mode" in shell("ask", "Anything?", "--mode", "rug", code=1).stderr
    assert "No such adapter" in shell("ask", "Anything?", "--adapter", "none", code=1).stderr
    assert "too long" in shell("ask", "why " * 30_000, code=1).stderr


def test_index(filled):
    assert filled.json("index", "status")["documents"] == 2
    assert filled.json("index", "rebuild")["index_generation"] == 2
    assert filled.json("index", "rollback")["index_generation"] == 1
    assert "up_to_date" in filled("index", "status").stdout
    assert "Generation 3" in filled("index", "rebuild").stdout
    assert "Generation" in filled("index", "rollback").stdout


def test_evaluate_retrieval(shell, tmp_path):
    corpus, queries, qrels = (tmp_path / name for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"))
    rows = [{"id": name, "title": name, "text": text} for name, text in DOCUMENTS.items()]
    corpus.write_text("\n".join(map(json.dumps, rows)))
    queries.write_text(json.dumps({"id": "q", "text": "Who planted the garden of Tolm?"}))
    qrels.write_text("query-id\tcorpus-id\tscore\nq\tgarden.md\t1\n")
    words = ("evaluate", "retrieval", "--corpus", corpus, "--queries", queries, "--qrels", qrels)
    result = shell.json(*words)
    assert set(result["methods"]) == {"hybrid", "dense", "lexical"}
    assert result["methods"]["hybrid"]["ndcg@10"] == 1.0
    assert "lexical" in shell(*words, "--methods", "lexical").stdout
    shell(*words, "--methods", "magic", code=2)
    shell("evaluate", "retrieval", "--corpus", tmp_path / "absent", "--queries", queries, "--qrels", qrels, code=2)
    shell(*words, "--out", tmp_path / "report", code=2)


def test_evaluate_retrieval_writes_a_report_of_one_s_own_questions(filled, questions, tmp_path):
    out = tmp_path / "report"
    words = ("evaluate", "retrieval", "--questions", questions, "--methods", "lexical,dense", "--out", out)
    assert set(filled.json(*words)["methods"]) == {"dense", "lexical"}
    assert sorted(path.name for path in out.iterdir()) == ["index.html", "ranks.csv", "result.json"]
    assert "ragtune evaluate retrieval --questions" in (out / "index.html").read_text()


def test_compare_writes_a_report_and_prints_the_verdict(filled, questions, generator, tmp_path):
    generator.reply = "1842 [1]"
    result = filled.json("compare", "--questions", questions, "--arms", "base,rag", "--out", tmp_path / "out")
    assert set(result["arms"]) == {"base", "rag"}
    assert result["arms"]["rag"]["f1"] == 50.0
    assert "rag-base" in result["difference"]
    assert (tmp_path / "out" / "index.html").exists()
    asked = len(generator.requests)
    shown = filled("compare", "--questions", questions, "--arms", "base,rag", "--out", tmp_path / "out")
    assert result["verdict"] in shown.stdout.replace("\n", " ")
    assert "2 questions can show differences" in shown.stderr
    assert len(generator.requests) == asked  # kept from the first run
    filled("compare", "--questions", questions, "--arms", "rag", "--out", tmp_path / "out", "--fresh")
    assert len(generator.requests) == asked + 2


def test_compare_of_what_cannot_be_compared(filled, questions, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    assert "no questions" in filled("compare", "--questions", empty, code=1).stderr
    assert "No such arm" in filled("compare", "--questions", questions, "--arms", "rug", code=1).stderr
    assert "calibrated" in filled("compare", "--questions", questions, "--max-false-answer-rate", 0.1, code=1).stderr
    filled("compare", "--questions", tmp_path / "absent.jsonl", code=2)


def test_pairs(filled, generator, tmp_path):
    generator.reply = lambda request: PAIR_JSON if request.grammar else "1842 [1]"
    ledger = filled.json("pairs", "generate", "--limit", 4, "--exclude", "garden.md")
    assert ledger["requested"] == 4 == ledger["accepted"] + sum(ledger["rejected"].values()) + ledger["failed"]
    assert ledger["accepted"] >= 1
    assert "4 proposed" in filled("pairs", "generate", "--limit", 4, "--exclude", "garden.md").stdout  # the same run
    listed = filled.json("pairs", "list", "--status", "accepted")
    assert listed["pairs"][0]["answer"] == "1842"
    assert "1842" in filled("pairs", "list").stdout
    exported = filled.json("pairs", "export", "--out", tmp_path / "rows", "--format", "chat", "--eval-share", 0)
    assert exported["train"] >= 1
    assert (tmp_path / "rows" / "train.jsonl").exists()
    assert "rows to train on" in filled("pairs", "export", "--out", tmp_path / "rows").stdout
    filled("pairs", "export", "--out", tmp_path / "rows", "--format", "csv", code=2)
    assert "No document has this source" in filled("pairs", "generate", "--exclude", "absent.md", code=1).stderr
    filled("pairs", "list", "--status", "odd", code=2)


def test_pairs_import(filled, questions, tmp_path):
    assert filled.json("pairs", "import", questions)["imported"] == 2
    assert "2 known already" in filled("pairs", "import", questions).stdout
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{not json\n")
    assert "failed" in filled("pairs", "import", bad, code=1).stderr
    assert filled.json("pairs", "import", bad, code=1)["imported"] == 0
    assert filled.json("jobs", "list")[0]["kind"] == "import_pairs"


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_pairs_import_of_an_empty_file(filled, tmp_path, content):
    empty = tmp_path / "empty.jsonl"
    empty.write_text(content)
    told = filled("pairs", "import", empty, code=1).stderr
    assert "holds no rows" in told
    assert "got: empty.jsonl" in told
    assert "wanted: JSONL" in told
    assert '{"question"' in told


def test_train_without_pairs_says_how_to_get_some(filled):
    assert "ragtune pairs generate" in filled("train", "--name", "mine", code=1).stderr


def test_train_refuses_a_bad_recipe(filled, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("rank = 8\n")
    assert "rank" in filled("train", "--recipe", recipe, code=1).stderr
    filled("train", "--recipe", tmp_path / "absent.toml", code=2)


def test_adapters(shell):
    with shell.open() as workspace:
        for name in ("house", "other"):
            workspace.store.adapters.add(adapter(name))
    assert {row["name"] for row in shell.json("adapters", "list")} == {"house", "other"}
    assert "candidate" in shell("adapters", "list").stdout
    shown = shell.json("adapters", "show", "house")
    assert {"name", "version", "stage", "base_model", "recipe", "parity", "metrics", "lineage", "stale"} <= set(shown)
    assert shown["parity"]["greedy_agreement"] == 1.0
    assert "parity" in shell("adapters", "show", "house").stdout
    assert shell.json("adapters", "promote", "house")["stage"] == "live"
    assert "in place of house@1" in shell("adapters", "promote", "other").stdout
    assert shell.json("adapters", "rollback")["name"] == "house"
    assert "was live before" in shell("adapters", "rollback", code=1).stderr
    assert shell.json("adapters", "delete", "other") == {"deleted": ["other@1"]}
    assert "No such adapter" in shell("adapters", "show", "other", code=1).stderr


def test_adapters_import_of_an_incomplete_folder(shell, tmp_path):
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    assert "missing" in shell("adapters", "import", folder, "--name", "mine", code=1).stderr
    assert shell.json("jobs", "list")[0]["kind"] == "import_adapter"
    shell("adapters", "import", tmp_path / "absent", code=2)
    page = tmp_path / "house.zip"
    page.write_text("<!doctype html>")
    assert "Download it again" in shell("adapters", "import", page, code=1).stderr


def test_bundle_says_what_is_missing(shell, tmp_path):
    bundle = ("bundle", "colab", "--out", tmp_path / "out")
    assert "--with-model" in shell(*bundle, code=1).stderr
    assert "ragtune pairs generate" in shell(*bundle, "--base-model", "Qwen/Qwen2.5-0.5B-Instruct", code=1).stderr
    assert not (tmp_path / "out").exists()
    shell("bundle", "moon", "--out", tmp_path / "out", code=2)
    shell("bundle", "colab", code=2)


def test_export_of_what_cannot_be_exported(shell):
    assert "No such adapter" in shell("export", "none", code=1).stderr
    with shell.open() as workspace:
        workspace.store.adapters.add(adapter())
        workspace.store.adapters.add(adapter("foreign", base="f" * 64))
    assert "Only a merged model" in shell("export", "house", "--quantize", "q8_0", code=1).stderr
    assert "No such quantization" in shell("export", "house", "--merge", "--quantize", "q9", code=1).stderr
    assert "another base model" in shell("export", "foreign", code=1).stderr


def test_export_copies_the_gguf(shell, tmp_path):
    with shell.open() as workspace:
        file = workspace.state.adapters("house", 1) / "adapter.gguf"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"GGUF of the adapter")
        workspace.store.adapters.add(adapter(files={"adapter.gguf": str(file.relative_to(workspace.state.root))}))
    done = shell.json("export", "house", "--out", tmp_path / "new" / "house.gguf")
    assert (tmp_path / "new" / "house.gguf").read_bytes() == b"GGUF of the adapter"
    assert done["bytes"] == 19
    assert "sha256" in shell("export", "house@1").stdout


def test_models(shell, tmp_path):
    assert shell.json("models", "list") == []
    assert "starter" in shell("models", "list").stdout
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    assert shell("models", "add", broken, "--name", "mine", code=1).stderr.startswith("error:")
    for words in (("add", broken, "--name", "starter"), ("pull", "someone/starter")):
        assert "got: starter" in shell("models", *words, code=1).stderr


def test_models_pull_does_nothing_behind_ones_back_when_offline(shell, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert shell("models", "pull", "nobody/no-such-model", code=1).stderr.startswith("error:")


def test_jobs(filled):
    (row,) = filled.json("jobs", "list")
    assert (row["kind"], row["status"]) == ("ingest", "succeeded")
    assert "ingest" in filled("jobs", "list", "--status", "succeeded").stdout
    assert filled.json("jobs", "show", row["id"])["outputs"]["indexed"]
    assert "succeeded" in filled("jobs", "show", row["id"]).stdout
    with filled.open() as workspace:
        queued = submit(workspace.store, "rebuild", {"collection": "default"})
    assert filled.json("jobs", "cancel", queued.id)["status"] == "cancelled"
    assert "No such job" in filled("jobs", "show", "absent", code=1).stderr
    filled("jobs", "list", "--status", "odd", code=2)


def test_keys(shell):
    made = shell.json("keys", "create", "laptop")
    with shell.open() as workspace:
        assert workspace.store.keys.find(made["key"])
    assert [row["name"] for row in shell.json("keys", "list")] == ["laptop"]
    assert made["key"] not in shell("keys", "list").output
    shell("keys", "revoke", made["id"])
    with shell.open() as workspace:
        assert not workspace.store.keys.find(made["key"])


def test_doctor(shell, generator):
    report = shell.json("doctor")
    assert {row["check"] for row in report["checks"]} >= {"python", "compiler", "disk", "state", "store", "engine"}
    assert report["healthy"]
    assert "python" in shell("doctor", "--no-engine").stdout
    from data.errors import InvalidModel

    generator.error = InvalidModel("The model file is truncated", hint="Download it again.")
    broken = shell.json("doctor", code=1)
    assert next(row for row in broken["checks"] if row["verdict"] == "failed")["hint"] == "Download it again."


def test_serve_refuses_a_port_in_use(shell):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "in use" in shell("serve", "--port", taken.getsockname()[1], code=1).stderr


def test_changing_commands_take_the_lock_and_reading_ones_do_not(filled, folder):
    with filled.open() as workspace, workspace.lock("http://127.0.0.1:8000"):
        refused = filled("ingest", folder, code=1)
        assert "in use by process" in refused.stderr
        assert "http://127.0.0.1:8000" in refused.stderr
        assert filled.json("index", "status")["documents"] == 2
        assert filled.json("search", "garden")["passages"]
        filled("adapters", "rollback", code=1)


def test_ctrl_c_exits_130_and_says_how_to_go_on(filled, generator, questions, tmp_path):
    asked = threading.Event()

    def interrupt(request):
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        return "1842 [1]"

    generator.reply = interrupt
    words = ("compare", "--questions", questions, "--arms", "rag", "--out", tmp_path / "out")
    stopped = filled(*words, code=130)
    assert "Stopped at: compare  " in stopped.stderr
    assert "1/2" in stopped.stderr.partition("Stopped at: ")[2]
    assert "run again: ragtune --state-dir" in stopped.stderr.replace("\n", "")
    generator.reply = "1842 [1]"
    before = len(generator.requests)
    filled(*words)
    assert len(generator.requests) == before + 1  # only the second question was left


def test_the_hint_after_ctrl_c_keeps_the_finished_work(filled, generator, questions, tmp_path):
    def interrupt(_request):
        raise KeyboardInterrupt

    generator.reply = interrupt
    stopped = filled("compare", "--questions", questions, "--out", tmp_path / "out", "--fresh", code=130)
    hint = stopped.stderr.replace("\n", "")
    assert "run again: ragtune" in hint
    assert "--fresh" not in hint


def test_compare_and_promote_of_a_bare_name_mean_the_same_version(filled, questions):
    """Trained again while version 1 is live."""
    with filled.open() as workspace:
        workspace.store.adapters.add(adapter())
        workspace.store.adapters.promote("house", 1)
        workspace.store.adapters.add(adapter(version=2))
    words = ("compare", "--questions", questions, "--arms", "rag,combined", "--adapter", "house")
    assert filled.json(*words)["arms"]["combined"]["adapter"] == "house@2"
    assert "combined house@2" in filled(*words).stdout
    assert filled.json("adapters", "show", "house")["version"] == 2
    answer = filled.json("ask", "When was the lighthouse of Orrin built?", "--adapter", "house")
    assert answer["adapter"] == "house@1", "an answer comes from what is live"
    scaled = ("ask", "When was the lighthouse of Orrin built?", "--adapter", "house@1=0.5", "--adapter", "house@2=-1")
    used = filled.json(*scaled)["adapters"]
    assert used == [{"name": "house@1", "scale": 0.5}, {"name": "house@2", "scale": -1.0}]
    for wrong in ("house=much", "house=", "house=5", "house=nan"):
        assert "is no scale" in filled("ask", "When?", "--adapter", wrong, code=2).stderr
    assert filled.json("adapters", "promote", "house", "--dry-run")["promote"]
    assert filled.json("adapters", "promote", "house")["version"] == 2
    assert filled.json("adapters", "show", "house@1")["stage"] == "retired"
    newest = filled.json("adapters", "log", "house@2")[0]
    assert (newest["event"], newest["actor"][:4]) == ("promoted", "cli ")
    assert "house@2 promoted (candidate → live) by cli" in filled("adapters", "log").stdout
    assert filled.json("adapters", "policy")["facts"]["measure"] == "containment"
    assert "shadow" in filled("adapters", "shadow", "house@1").stdout
    assert filled.json("adapters", "retire", "house@1", "--reason", "old")["stage"] == "retired"
    assert filled.json("adapters", "delete", "house@1") == {"deleted": ["house@1"]}


def test_compare_measures_the_style_of_a_house(filled, questions, tmp_path):
    house = tmp_path / "house.jsonl"
    rows = [{"instruction": "", "input": f"When {i}?", "output": f"**Answer:** {1830 + i}."} for i in range(10)]
    house.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("compare", "--questions", questions, "--arms", "rag,base", "--style", house)
    assert filled.json(*words)["style"]["examples"] == 10
    assert "10 examples reach" in filled(*words).stdout
    house.write_text(json.dumps(rows[0]) + "\n")
    assert "Too few examples" in filled(*words, code=1).stderr


def test_wrong_usage_exits_2(shell):
    assert "No such command 'injest'. Did you mean 'ingest'?" in shell("injest", code=2).stderr
    shell("ingest", code=2)
    shell("search", "x", "--top-k", 0, code=2)
    assert "ragtune 0" in shell("--version").stdout


def test_a_setting_out_of_range_is_named(shell, monkeypatch):
    monkeypatch.setenv("RAGTUNE_CHUNK_SIZE", "3")
    assert "RAGTUNE_CHUNK_SIZE" in shell("jobs", "list", code=1).stderr


def test_a_state_directory_that_cannot_be_written(tmp_path, generator):
    (tmp_path / "file").write_text("")
    assert "Cannot write" in Shell(tmp_path / "file" / "state", generator)("jobs", "list", code=1).stderr


def test_a_pair_that_was_reviewed_is_shown_so(filled):
    with filled.open() as workspace:
        pair = QAPair("p", "Q?", "A", (), "free", "test", "rejected", "not_grounded")
        workspace.store.pairs.add("default", None, [pair])
    assert "not_grounded" in filled("pairs", "list", "--status", "rejected").stdout.replace("\n", "")


def test_scripted_generators_are_enough_for_every_command_above():
    assert ScriptedGenerator().model == MODEL.name


def test_calibrate_then_keep_to_a_share_of_false_answers(shell, tmp_path, generator):
    towns = tmp_path / "towns.md"
    towns.write_text("\n\n".join(f"Tower {n} was built in {1700 + n}." for n in range(0, 50, 2)), encoding="utf-8")
    shell("ingest", towns)
    path = tmp_path / "towers.jsonl"
    rows = [
        {"id": f"t{n}", "question": f"When was tower {n} built?", "answers": [str(1700 + n)], "answerable": n % 2 == 0}
        for n in range(50)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    generator.reply = lambda request: f"{1700 + tower(request)} [1]"
    generator.logprob = lambda request: -0.1 if tower(request) % 2 == 0 else -1.5
    refused = shell("compare", "--questions", path, "--arms", "rag", "--max-false-answer-rate", "0.1", code=1)
    assert "ragtune calibrate --questions FILE --mode rag" in refused.stderr
    figures = shell.json("calibrate", "--questions", path, "--mode", "rag")
    assert {"n", "auroc", "ece", "aurc", "bins", "thresholds"} <= set(figures)
    assert "questions it had not seen" in shell("calibrate", "--questions", path, "--mode", "rag").stdout
    arm = shell.json("compare", "--questions", path, "--arms", "rag", "--max-false-answer-rate", "0.1")["arms"]["rag"]
    assert arm["false_answer_rate"] <= 0.1
    assert arm["coverage_answerable"] == 1.0
    asked = ("ask", "When was tower 7 built?", "--mode", "rag", "--max-false-answer-rate", "0.1")
    assert shell.json(*asked)["abstained_by"] == "confidence"
    assert "1707" not in shell(*asked).stdout
    path.write_text(json.dumps(rows[0]))
    assert "at least 10 right ones" in shell("calibrate", "--questions", path, "--mode", "rag", code=1).stderr


def tower(request):
    return int(request.messages[-1].parts[-1].split("tower ")[1].split()[0])
