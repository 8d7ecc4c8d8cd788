"""What is trained on and what is held out: whole documents, no question on both sides, nothing where pairs are few."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data.errors import NoAcceptedPairs, RecipeInvalid
from data.records import Model, QAPair, content_id
from data.splits import assert_disjoint
from finetune.estimate import Estimate
from service.cli import app
from service.commands.session import Session
from service.settings import Settings
from service.training_set import training_set
from service.workspace import Workspace
from tests.finetune.tiny import save_model
from tests.service.parts import HashEmbedder, ScriptedGenerator

pytestmark = pytest.mark.slow  # a tiny random model is made
HOUSES = [
    "Alder", "Birch", "Cedar", "Dogwood", "Ebony", "Fennel", "Ginkgo", "Hazel", "Ivory", "Juniper", "Kauri", "Larch",
]  # fmt: skip
DOCUMENTS, QUESTIONS = len(HOUSES), 10


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = str(save_model(tmp_path_factory.mktemp("model"), "llama"))
    return Model("scripted", folder, folder, folder, "0" * 64, "llama")


@pytest.fixture(scope="module")
def state(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state with 120 accepted pairs about twelve documents; one question is asked about all of them."""
    root = tmp_path_factory.mktemp("root")
    (root / "documents").mkdir()
    for n, name in enumerate(HOUSES):
        text = "".join(f"In year {1000 + 17 * n + i} house {name} got room {i}. " for i in range(QUESTIONS))
        (root / "documents" / f"{name}.md").write_text(f"# House {name}\n\n{text}\n", encoding="utf-8")
    with opened(root / "state", model) as workspace:
        workspace.ingestor.ingest("default", [root / "documents"])
        pairs = {}
        for _key, chunk, title in workspace.store.chunks.iterate("default"):
            house = title.split()[-1]
            for i in range(QUESTIONS):
                question = f"When did house {house} get room {i}?" if i else "When did the house get its room?"
                answer = str(1000 + 17 * HOUSES.index(house) + i)
                if answer in chunk.text:
                    name = content_id(question, answer)
                    pairs[name] = QAPair(name, question, answer, (chunk.id,), "span", "test", "accepted")
        assert len(pairs) == DOCUMENTS * QUESTIONS
        workspace.store.pairs.add("default", None, list(pairs.values()))
    return root / "state"


def opened(state: Path, model: Model) -> Workspace:
    settings = Settings.load(state_dir=state, log_level="WARNING")
    return Workspace(settings, embedder=HashEmbedder(), generator=ScriptedGenerator(), model=model)


@pytest.fixture
def workspace(state: Path, model: Model) -> Iterator[Workspace]:
    with opened(state, model) as workspace:
        yield workspace


def prepared(workspace: Workspace, **recipe: object):
    return training_set(workspace, {"recipe": {"init_adapter": "", **recipe}}, lambda _: None)


def test_whole_documents_are_held_out_and_no_question_is_on_both_sides(workspace: Workspace, tmp_path: Path) -> None:
    found = prepared(workspace)
    chunks = workspace.store.chunks.by_ids({p.chunk_ids[0] for p in (*found.pairs, *found.held_out_pairs)})
    trained, held = (
        {chunks[pair.chunk_ids[0]][0].document_id for pair in side} for side in (found.pairs, found.held_out_pairs)
    )
    assert len(held) == 1
    assert not trained & held
    # The question that is asked about every document is trained on, so it is no held-out one.
    assert (len(found.pairs), len(found.held_out_pairs)) == ((DOCUMENTS - 1) * QUESTIONS, QUESTIONS - 1)
    assert_disjoint(found.pairs, found.held_out_pairs)
    assert found.held_out.branches >= QUESTIONS - 1
    (tmp_path / "eval.jsonl").write_text("of an earlier run")
    found.write(tmp_path)
    lines = {name: (tmp_path / name).read_text().splitlines() for name in ("train.jsonl", "eval.jsonl")}
    assert len(lines["train.jsonl"]) == len(found.found)
    assert len(lines["eval.jsonl"]) == len(found.held_out_found) > 0


@pytest.mark.parametrize("recipe", [{"eval_share": 0}, {"eval_share": 0.01}])
def test_nothing_is_held_out_where_it_would_be_too_much_or_is_not_wanted(
    workspace: Workspace, recipe: dict[str, object]
) -> None:
    # A hundredth of 120 pairs is one pair; the smallest document has ten.
    found = prepared(workspace, **recipe)
    assert (len(found.pairs), found.held_out_pairs) == (DOCUMENTS * QUESTIONS, ())


def test_few_pairs_are_all_trained_on(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.training_set.HELD_OUT_FROM", DOCUMENTS * QUESTIONS + 1)
    assert prepared(workspace).held_out_pairs == ()


def test_rslora_pissa_and_dora_are_trained_and_a_blockwise_dora_is_refused(workspace: Workspace) -> None:
    assert prepared(workspace, use_rslora=True).recipe.use_rslora
    assert prepared(workspace, init_lora_weights="pissa").recipe.init_lora_weights == "pissa"
    assert prepared(workspace, use_dora=True).recipe.use_dora
    with pytest.raises(RecipeInvalid, match="full attention"):
        prepared(workspace, use_dora=True, attention="blockwise")


def test_a_model_with_windows_is_not_trained_blockwise(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.training_set.WINDOWED", frozenset((workspace.model.architecture,)))
    with pytest.raises(RecipeInvalid, match="window"):
        prepared(workspace, attention="blockwise")
    assert prepared(workspace).recipe.attention == "full"


@pytest.fixture
def run(state: Path, model: Model):
    session = Session(lambda s: Workspace(s, embedder=HashEmbedder(), generator=ScriptedGenerator(), model=model))

    def command(*words: str, code: int = 0):
        found = CliRunner().invoke(app, ["--state-dir", str(state), "train", *words], obj=session)
        assert found.exit_code == code, f"{found.output}\n{found.exception!r}"
        return found

    return command


def test_an_estimate_is_of_these_rows_and_trains_nothing(run, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def estimate(recipe, rows, _model, held_out):
        given.append((recipe.init_adapter, len(rows.rows), len(held_out.rows)))
        return Estimate(60.0, 5.0, 2**30, 2**31, "cpu", 10, len(rows.rows), 999, 99, ((99, 1.0),))

    monkeypatch.setattr("finetune.estimate.estimate", estimate)
    found = json.loads(run("--estimate", "--json").stdout)
    assert (found["seconds"], found["steps"], found["fits"]) == (60.0, 10, True)
    assert "About 1 min 00 s for 10 steps" in run("--estimate").stdout
    assert given[0][0] is None
    assert min(given[0][1:]) > 0
    assert not any((state / "adapters").iterdir())


def test_a_row_is_shown_with_what_is_trained(run) -> None:
    shown = run("--inspect", "1").stdout
    assert shown.startswith("Row 1 of ")
    assert "question 1 (" in shown
    assert "«" in shown
    tokens = json.loads(run("--inspect", "1", "--json").stdout)["tokens"]
    assert {"token", "text", "position", "branch", "passage", "copied", "trained"} == set(tokens[0])
    assert any(token["trained"] for token in tokens)
    assert not any(token["trained"] for token in tokens if token["branch"] == 0)
    assert "1 to " in run("--inspect", "1000000", code=1).stderr


def test_facts_that_no_passage_bears_out_are_not_trained_on(state: Path, model: Model) -> None:
    answers = {
        f"Room {i} came in the year {1000 + i}, kind reader.": "When did house Alder get room 1?" for i in range(9)
    }
    answers["The **Treaty of Utrecht** ended Queen Anne's War, kind reader."] = "What ended Queen Anne's War?"
    pairs = [
        QAPair(content_id(question, answer), question, answer, (), "style", "test", "accepted")
        for answer, question in answers.items()
    ]
    with opened(state, model) as workspace:
        workspace.store.pairs.add("house", None, pairs)
        workspace.ingestor.ingest("house", [state.parent / "documents"])
        inputs = {"collection": "house"}
        kept = training_set(workspace, inputs, lambda _progress: None)
        assert kept.refused["closed_book"] >= 1
        assert not any("Utrecht" in (example.answer or "") for example in kept.found)
        recipe = {"closed_book": True}
        every = training_set(workspace, inputs | {"recipe": recipe}, lambda _progress: None)
        assert any("Utrecht" in (example.answer or "") for example in every.found)
        assert "closed_book" not in every.refused
        workspace.store.pairs.add("alone", None, [replace(pairs[-1], id="alone")])
        workspace.ingestor.ingest("alone", [state.parent / "documents"])
        with pytest.raises(NoAcceptedPairs, match="No answer rests on a passage"):
            training_set(workspace, {"collection": "alone"}, lambda _progress: None)


def test_harder_forms_are_off_and_counted_where_they_are_asked_for(workspace: Workspace) -> None:
    plain = prepared(workspace)
    assert set(plain.sorts) == {"answering", "abstaining"}
    shares = {"contradicting_share": 0.1, "multi_turn_share": 0.2, "other_language_share": 0.3}
    found = prepared(workspace, **shares)
    answering = plain.sorts["answering"]
    assert found.sorts == plain.sorts | {
        "contradicting": round(0.1 * answering),
        "multi_turn": round(0.2 * answering),
    }, "there is no other language"
    assert found.rows.branches == sum(found.sorts.values()) - sum(found.rows.refused.values())
    assert found.held_out_found == plain.held_out_found
    with pytest.raises(RecipeInvalid, match="multi_turn_share"):
        prepared(workspace, multi_turn_share=1.5)
