"""Every command through the console script's own entry, over small real parts."""

from __future__ import annotations

import json
import threading

import pytest

from data.records import QAPair
from service.jobs import submit
from tests.service.parts import DOCUMENTS, MODEL, ScriptedGenerator
from tests.service.shells import Shell

pytestmark = pytest.mark.slow


def test_a_restored_backup_answers_as_the_state_it_was_made_of(filled, shell, tmp_path, generator):
    saved = tmp_path / "saved.tar"
    assert shell.json("backup", saved)["files"] > 3
    other = Shell(tmp_path / "other", generator)
    assert other.json("restore", saved)["state_dir"] == str(tmp_path / "other")
    found = [s.json("search", "Who was the keeper?")["passages"][0]["document_id"] for s in (shell, other)]
    assert found[0] == found[1]
    assert other.json("index", "verify")["problems"] == []
    assert "something already" in shell("restore", saved, code=1).output


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
    dropped = filled.json("index", "compact")["dropped"]
    assert set(dropped) == {"vectors", "replaced_documents", "uploads", "bytes"}
    assert dropped["bytes"] >= 0
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
