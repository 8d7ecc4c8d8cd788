"""The whole loop on the committed sample documents: one script that tells the whole story.

Every stage names its inputs; a stage whose inputs and products are as they were is not run again.
Knows nothing of how any stage works.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

import data
from data.formats import read_questions
from data.records import Question, content_id
from data.state import sha256_file, write_atomic
from service.answerer import AskRequest
from service.arms import adapter_label, find_adapter
from service.commands.foreground import run_here
from service.commands.pairs import ledger_text
from service.commands.progress import duration
from service.commands.session import WorkspaceFactory, stderr, stdout
from service.compare.outcomes import read_outcomes
from service.compare.table import print_comparison
from service.promotion import Gate, promote
from service.settings import Settings

if TYPE_CHECKING:
    from service.workspace import Workspace


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """Every number of the demo. The stages took 12 minutes on 2 cores without AMX (bench/RESULTS.md)."""

    collection: str = "default"
    adapter: str = "demo"
    proposals: int = 150
    top_k: int = 3
    seed: int = 0
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the defaults; training starts from the packaged reader where it fits."""
    samples: Path = Path(data.__file__).parent / "samples"

    @property
    def corpus(self) -> Path:
        """The folder of sample documents."""
        return self.samples / "corpus"

    @property
    def questions_file(self) -> Path:
        """The held-out human questions."""
        return self.samples / "questions.jsonl"


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the demo.

    ``inputs`` are asked for when the stages before are done; ``check`` tells whether the outputs of
    an earlier run are still there.
    """

    name: str
    inputs: Callable[[], dict[str, Any]]
    run: Callable[[dict[str, Any]], dict[str, Any]]
    check: Callable[[dict[str, Any]], bool]
    summary: Callable[[dict[str, Any]], str]


class Demo:
    """One run of the demo over a workspace whose lock is held."""

    def __init__(self, workspace: Workspace, plan: DemoPlan, console: Console) -> None:
        self._workspace = workspace
        self._plan = plan
        self._console = console
        self._folder = workspace.state.reports / "demo"
        self._done: dict[str, Any] = self._read_state()
        self._questions: list[Question] = read_questions(plan.questions_file)

    def run(self) -> dict[str, Any]:
        """Run every stage that is not finished; return the result of the comparison."""
        stages = self._stages()
        for number, stage in enumerate(stages, 1):
            self._run_stage(stage, f"{number}/{len(stages)}")
        result = dict(self._outputs("compare"))
        result["seconds"] = {stage.name: self._done[stage.name]["seconds"] for stage in stages}
        content = json.dumps(result, ensure_ascii=False, indent=2)
        write_atomic(self._folder / "result.json", content.encode() + b"\n")
        return result

    def ask_one(self) -> tuple[str, dict[str, Any]]:
        """Ask a sample question that the tuned model gets right; return it and the answer."""
        outcomes = read_outcomes(self._folder / "answers.jsonl")
        right = {o.question_id for o in outcomes if o.arm == "combined" and o.em and o.cited}
        chosen = next((q for q in self._questions if q.id in right), self._questions[0])
        ask = AskRequest(chosen.question, self._plan.collection, "combined", top_k=self._plan.top_k)
        answer = self._workspace.answerer.answer(ask)
        cited = [{"source": c.source, "heading": c.heading, "quote": c.quote} for c in answer.citations]
        return chosen.question, {"answer": answer.text, "adapter": answer.adapter, "citations": cited}

    def _read_state(self) -> dict[str, Any]:
        path = self._folder / "state.json"
        if not path.exists():
            return {}
        try:
            return dict(json.loads(path.read_bytes()))
        except ValueError:
            return {}  # damaged: every stage checks its products and is cheap to repeat where they exist

    def _outputs(self, stage: str) -> dict[str, Any]:
        return dict(self._done[stage]["outputs"])

    def _run_stage(self, stage: Stage, number: str) -> None:
        inputs = stage.inputs()
        key = content_id(json.dumps(inputs, sort_keys=True, default=str))
        known = self._done.get(stage.name)
        reused = known is not None and known["key"] == key and stage.check(known["outputs"])
        if not reused:
            started = time.perf_counter()
            outputs = stage.run(inputs)
            spent = time.perf_counter() - started
            self._done[stage.name] = {"key": key, "outputs": outputs, "seconds": spent}
            write_atomic(self._folder / "state.json", json.dumps(self._done, default=str).encode())
        row = self._done[stage.name]
        took = f"{duration(row['seconds'])}{' (kept)' if reused else ''}"
        self._console.print(f"{number} {stage.name:<8} {took:>18}  {stage.summary(row['outputs'])}", markup=False)

    def _stages(self) -> list[Stage]:
        return [
            Stage("models", self._models_inputs, self._models, self._models_there, _models_text),
            Stage("ingest", self._ingest_inputs, self._ingest, self._ingest_there, _ingest_text),
            Stage("pairs", self._pairs_inputs, self._pairs, self._pairs_there, ledger_text),
            Stage("train", self._train_inputs, self._train, self._adapter_there, _train_text),
            Stage("promote", self._promote_inputs, self._promote, self._live_there, _promote_text),
            Stage("compare", self._compare_inputs, self._compare, self._report_there, lambda o: str(o["verdict"])),
        ]

    # models: the starter model is unpacked and quantized, its adapters are converted

    def _models_inputs(self) -> dict[str, Any]:
        return {"model": self._workspace.settings.model}

    def _models(self, _inputs: dict[str, Any]) -> dict[str, Any]:
        workspace = self._workspace
        names = workspace.ensure_starter_adapters()
        for name in names:
            workspace.adapter_gguf(find_adapter(workspace.store, name))
        workspace.ensure_tuned()
        return {"model": workspace.model.name, "gguf": workspace.model.gguf, "adapters": list(names)}

    def _models_there(self, outputs: dict[str, Any]) -> bool:
        # A newer package may bring newer adapters: registering them is quick and changes nothing else.
        names = self._workspace.ensure_starter_adapters()
        return Path(outputs["gguf"]).exists() and list(names) == outputs["adapters"]

    # ingest: the sample documents become an index generation

    def _ingest_inputs(self) -> dict[str, Any]:
        files = sorted(path for path in self._plan.corpus.rglob("*") if path.is_file())
        hashes = {str(path.relative_to(self._plan.corpus)): sha256_file(path) for path in files}
        return {"paths": [str(self._plan.corpus)], "collection": self._plan.collection, "files": hashes}

    def _ingest(self, inputs: dict[str, Any]) -> dict[str, Any]:
        job = {name: inputs[name] for name in ("paths", "collection")}
        outputs = run_here(self._workspace, "ingest", job)
        rows = [*outputs["indexed"], *outputs["unchanged"]]
        return {"documents": {row["source"]: row["id"] for row in rows}, "chunks": sum(row["chunks"] for row in rows)}

    def _ingest_there(self, outputs: dict[str, Any]) -> bool:
        known = {row.id for row in self._workspace.store.documents.by_source(self._plan.collection).values()}
        return set(outputs["documents"].values()) <= known and self._generation() is not None

    def _generation(self) -> int | None:
        return self._workspace.store.collections.current_generation(self._plan.collection)

    # pairs: from the documents that no sample question is about

    def _pairs_inputs(self) -> dict[str, Any]:
        documents: dict[str, str] = self._outputs("ingest")["documents"]
        asked = {question.document for question in self._questions}
        return {
            "collection": self._plan.collection,
            "limit": self._plan.proposals,
            "seed": self._plan.seed,
            "exclude_documents": sorted(identity for source, identity in documents.items() if source in asked),
            "evaluation_questions": [question.question for question in self._questions],
            "fill": True,  # statements of these 18 documents alone are too few to train on
            "top_k": self._plan.top_k,
        }

    def _pairs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return run_here(self._workspace, "pairs", inputs)

    def _pairs_there(self, outputs: dict[str, Any]) -> bool:
        if outputs["run_id"] not in self._workspace.store.pairs.runs(self._plan.collection):
            return False
        return not self._workspace.store.pairs.run(outputs["run_id"])["pending"]

    # train: an adapter that starts from the reader, exported to GGUF and compared with it

    def _train_inputs(self) -> dict[str, Any]:
        accepted = self._workspace.store.pairs.all(self._plan.collection, "accepted", stale=False)
        return {
            "name": self._plan.adapter,
            "collection": self._plan.collection,
            "recipe": dict(self._plan.recipe),
            "top_k": self._plan.top_k,
            "promote": False,
            "pairs": content_id(*(pair.id for pair in accepted)),
        }

    def _train(self, inputs: dict[str, Any]) -> dict[str, Any]:
        job = {name: value for name, value in inputs.items() if name != "pairs"}
        return run_here(self._workspace, "train", job)

    def _adapter_there(self, outputs: dict[str, Any]) -> bool:
        known = self._workspace.store.adapters.list(outputs["name"])
        found = next((adapter for adapter in known if adapter.version == outputs["version"]), None)
        return found is not None and all((self._workspace.state.root / path).exists() for path in found.files.values())

    # promote: the gate, then it serves

    def _promote_inputs(self) -> dict[str, Any]:
        trained = self._outputs("train")
        return {"adapter": f"{trained['name']}@{trained['version']}"}

    def _promote(self, inputs: dict[str, Any]) -> dict[str, Any]:
        done = promote(self._workspace.store, self._workspace.model, inputs["adapter"], gate=Gate(actor="demo"))
        parity = done.live.metrics.get("parity", {})
        return {"adapter": adapter_label(done.live), "parity": dict(parity)}

    def _live_there(self, outputs: dict[str, Any]) -> bool:
        live = self._workspace.store.adapters.live(self._workspace.model.sha256, self._plan.collection)
        return live is not None and adapter_label(live) == outputs["adapter"]

    # compare: every arm over the held-out human questions

    def _compare_inputs(self) -> dict[str, Any]:
        return {
            "questions": [asdict(question) for question in self._questions],
            "collection": self._plan.collection,
            "adapter": self._outputs("promote")["adapter"],
            "top_k": self._plan.top_k,
            "out": str(self._folder),
            "questions_file": str(self._plan.questions_file),
            "index_generation": self._generation(),
        }

    def _compare(self, inputs: dict[str, Any]) -> dict[str, Any]:
        job = {name: value for name, value in inputs.items() if name != "index_generation"}
        return run_here(self._workspace, "evaluate", job, title="compare")

    def _report_there(self, _outputs: dict[str, Any]) -> bool:
        return (self._folder / "index.html").exists()


def _models_text(outputs: dict[str, Any]) -> str:
    adapters = ", ".join(outputs["adapters"]) or "no packaged adapters fit it"
    return f"{outputs['model']} ({Path(outputs['gguf']).name}); {adapters}"


def _ingest_text(outputs: dict[str, Any]) -> str:
    return f"{len(outputs['documents'])} documents, {outputs['chunks']} chunks"


def _train_text(outputs: dict[str, Any]) -> str:
    from service.commands.adapters import trained_text

    return trained_text(outputs)


def _promote_text(outputs: dict[str, Any]) -> str:
    parity = outputs["parity"]
    agreement = parity.get("greedy_agreement")
    measured = (
        f"; the GGUF chooses the trained model's token in {100 * agreement:.1f} %" if agreement is not None else ""
    )
    return f"{outputs['adapter']} is live{measured}"


def curl_command(settings: Settings, question: str, plan: DemoPlan) -> str:
    """Return the command that asks ``question`` over HTTP."""
    body = json.dumps({"question": question, "top_k": plan.top_k}, ensure_ascii=False)
    url = f"http://{settings.host}:{settings.port}/v1/answers"
    return f"curl -s {url} -H 'content-type: application/json' -d {shlex.quote(body)}"


def run_demo(settings: Settings, factory: WorkspaceFactory, plan: DemoPlan | None = None) -> None:
    """Run the demo, print what it found, then serve it (unless ``settings.demo_serve`` is off).

    Raises:
        PortTaken: something serves on the port already; nothing was started.
        StateLocked: another process uses the state directory.
        RagtuneError: a stage failed; the next run goes on from there.
    """
    from service.serve import bind, serve

    plan, console = plan or DemoPlan(), stdout()
    if settings.demo_serve:
        bind(settings.host, settings.port).close()
    started = time.perf_counter()
    with factory(settings) as workspace, workspace.lock():
        run = Demo(workspace, plan, console)
        result = run.run()
        question, answer = run.ask_one()
        page = workspace.state.reports / "demo" / "index.html"
    console.print()
    print_comparison(result, console)
    console.print(f"\nReport: {page}\nTook {duration(time.perf_counter() - started)}.\n", markup=False)
    console.print(curl_command(settings, question, plan), markup=False)
    console.print(json.dumps(answer, ensure_ascii=False, indent=2), markup=False)
    if settings.demo_serve:
        with factory(settings) as workspace:
            serve(workspace, on_ready=lambda url: stderr().print(f"\nServing at {url} until Ctrl-C", markup=False))
