"""One round of the loop: documents in, pairs for what is new or stale, training, evaluation, promotion or not, report.

Each step's outputs are on disk before the next, so that a round that was stopped goes on; what is live changes only in
the last step, by the policy, so that a round that fails leaves it untouched and says why. Knows nothing of jobs, HTTP
or the command line.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import InvalidRequest, JobCancelled, RagtuneError
from data.numbers import whole_number
from data.protocols import Report
from data.records import Adapter, Question, content_id
from data.state import check_name, write_atomic
from service.arms import adapter_label, find_adapter
from service.evidence import WITHOUT_ADAPTER
from service.feedback import FEEDBACK
from service.loop_report import STEPS, round_report
from service.policy import Policy, load_policy
from service.problems import internal_error, problem
from service.promotion import Gate, decision_on, promote, shadow
from service.questions import PAIRS, leaked_questions, stored_questions
from service.request_ids import current_request_id
from service.work import evaluate, ingest, pairs, train
from service.work.failures import WorkFailed

if TYPE_CHECKING:
    from service.workspace import Workspace

PROPOSALS = 200
"""Pairs proposed in a round at most, unless the inputs say otherwise."""
PROPOSALS_PER_DOCUMENT = 6
"""Pairs proposed for each document that has none."""


@dataclass(frozen=True, slots=True)
class LoopInputs:
    """What a round works on.

    Attributes:
        collection: of the documents.
        name: of the adapter that is trained.
        paths: folders whose files are kept in the collection; none, and the stored documents are taken as they are.
        questions: to evaluate on, beside those from feedback and from pairs that were not trained on.
        style: answers of the house; given, style is measured too.
        recipe: fields of the training recipe.
        proposals: pairs proposed at most.
        top_k: passages.
        seed: of the proposals.
        actor: who started it, for the log.
    """

    collection: str = "default"
    name: str = "house"
    paths: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    style: tuple[str, ...] = ()
    recipe: Mapping[str, Any] | None = None
    proposals: int = PROPOSALS
    top_k: int = 4
    seed: int = 0
    actor: str = ""

    @property
    def key(self) -> str:
        """Return what two rounds share that are one round, stopped and gone on with."""
        described = asdict(self) | {"actor": ""}
        return content_id(json.dumps(described, sort_keys=True, ensure_ascii=False, default=str))


class Round:
    """One round, in ``reports/loop/NAME/current`` until it is over, then in ``reports/loop/NAME/round-N``."""

    def __init__(self, workspace: Workspace, inputs: LoopInputs, report: Report) -> None:
        self._workspace = workspace
        self._inputs = inputs
        self._report = report
        self._root = workspace.state.reports / "loop" / check_name(inputs.name, "adapter name")
        self._folder = self._root / "current"
        self._state = self._read()

    def run(self) -> dict[str, Any]:
        """Do what is left of the round; return its record.

        Raises:
            RoundFailed: a step failed; the round is over, and its record says so.
            JobCancelled: the round was stopped; the next call goes on.
        """
        actions: dict[str, Callable[[], dict[str, Any]]] = {
            "ingest": self._ingest,
            "pairs": self._pairs,
            "train": self._train,
            "evaluate": self._evaluate,
            "promote": self._promote,
        }
        for step in STEPS:
            if step in self._state["steps"]:
                continue
            started = time.perf_counter()
            try:
                outputs = actions[step]()
            except JobCancelled:
                raise
            except WorkFailed as failed:
                raise RoundFailed(failed.error, self._end("failed", step, failed.error)) from failed
            except RagtuneError as error:
                raise RoundFailed(error, self._end("failed", step, error)) from error
            except Exception as error:  # else every round after it would go on at the same place
                self._end("failed", step, error)
                raise
            self._state["steps"][step] = outputs | {"seconds": time.perf_counter() - started}
            self._write()
        return self._end("succeeded")

    # ingest: what is in the folders is in the collection, and what an earlier round took from them is not, once gone

    def _ingest(self) -> dict[str, Any]:
        inputs = self._inputs
        if not inputs.paths:
            return {"skipped": "no folders were named"}
        work = {"paths": list(inputs.paths), "collection": inputs.collection, "sync": False, "strict": True}
        outputs = ingest.run(self._workspace, work, self._report)
        present = {row["source"] for kind in ("indexed", "unchanged", "failed") for row in outputs[kind]}
        known = self._workspace.store.documents.by_source(inputs.collection)
        # What was uploaded, or ingested by hand, is not the loop's to delete.
        gone = sorted((self._taken_before() - present) & known.keys())
        for source in gone:
            self._workspace.ingestor.delete(known[source].id)
        counts = {"indexed": len(outputs["indexed"]), "unchanged": len(outputs["unchanged"]), "deleted": len(gone)}
        return {
            **counts,
            "sources": sorted(present),
            "failed": [{"source": row["source"], "detail": row["detail"]} for row in outputs["failed"]],
        }

    def _taken_before(self) -> set[str]:
        """Return the sources that the newest earlier round over these folders found in them."""
        records = sorted(self._root.glob("round-*/round.json"), key=_number, reverse=True)
        for record in map(json.loads, (path.read_bytes() for path in records)):
            done = record["steps"].get("ingest", {})
            if record["collection"] == self._inputs.collection and "sources" in done:
                return set(done["sources"])
        return set()

    # pairs: for documents that have none (new ones, and those whose pairs became stale)

    def _pairs(self) -> dict[str, Any]:
        """Carry out the plan of this round, or what is left of it: pairs accepted before a stop do not shorten it."""
        plans = self._state.setdefault("plans", {})  # a round that an older version began has none
        if "pairs" not in plans:
            plans["pairs"] = self._plan_pairs()
            self._write()
        plan = plans["pairs"]
        found = {name: value for name, value in plan.items() if name != "work"}
        if "work" not in plan:
            return found
        return found | {"ledger": pairs.run(self._workspace, plan["work"], self._report)}

    def _plan_pairs(self) -> dict[str, Any]:
        store, inputs = self._workspace.store, self._inputs
        stale = len(store.pairs.all(inputs.collection, "accepted", stale=True))
        covered = store.pairs.accepted_by_document(inputs.collection)
        documents = [row.id for row in store.documents.by_source(inputs.collection).values()]
        bare = [identity for identity in documents if identity not in covered]
        found = {"stale": stale, "documents_without_pairs": len(bare)}
        limit = min(inputs.proposals, PROPOSALS_PER_DOCUMENT * len(bare))
        if not limit:
            return {**found, "skipped": "every document has pairs" if documents else "there are no documents"}
        work = {
            "collection": inputs.collection,
            "limit": limit,
            "seed": inputs.seed,
            "top_k": inputs.top_k,
            "exclude_documents": sorted(set(documents) - set(bare)),
            "evaluation_questions": [question.question for question in self._own_questions()],
            "fill": True,  # what is trained on them is measured before it serves
        }
        return found | {"work": work}

    def _own_questions(self) -> tuple[Question, ...]:
        return (*self._inputs.questions, *stored_questions(self._workspace.store, self._inputs.collection, FEEDBACK))

    # train: where the accepted pairs, the recipe or the base model changed since the last adapter of this name

    def _train(self) -> dict[str, Any]:
        workspace, inputs = self._workspace, self._inputs
        accepted = workspace.store.pairs.all(inputs.collection, "accepted", stale=False)
        about = [workspace.model.sha256, json.dumps(dict(inputs.recipe or {}), sort_keys=True, default=str)]
        house = workspace.store.houses.current(inputs.collection)
        about += [house.instructions] if house.instructions else []
        key = content_id(*about, *sorted(pair.id for pair in accepted))
        newest = next(reversed(workspace.store.adapters.list(inputs.name)), None)
        if newest is not None and self._trained_before(newest) == key:
            return {"key": key, "skipped": "nothing changed since", "adapter": adapter_label(newest)}
        if not accepted:
            return {"key": key, "skipped": "there are no accepted pairs", "adapter": None}
        work = {
            "name": inputs.name,
            "collection": inputs.collection,
            "recipe": dict(inputs.recipe or {}),
            "top_k": inputs.top_k,
            "promote": False,
        }
        outputs = train.run(workspace, work, self._report)
        made = f"{outputs['name']}@{outputs['version']}"
        shown = {name: outputs.get(name) for name in ("rows_sha256", "parity", "metrics", "pairs")}
        return {"key": key, "adapter": made, **shown}

    def _trained_before(self, newest: Adapter) -> str | None:
        """Return the key of the training that made ``newest``, if a round of this loop did."""
        for path in sorted(self._root.glob("round-*/round.json"), key=_number, reverse=True):
            step = json.loads(path.read_bytes())["steps"].get("train", {})
            if step.get("adapter") == adapter_label(newest):
                return str(step["key"])
        return None

    # evaluate: the candidate beside what is live, on questions that neither was trained on

    def _evaluate(self) -> dict[str, Any]:
        workspace, inputs = self._workspace, self._inputs
        candidate = self._candidate()
        live = workspace.store.adapters.live(workspace.model.sha256, inputs.collection)
        if candidate is None or candidate.stage == "live":
            return {"skipped": "there is no candidate"}
        both = [candidate, *([live] if live is not None else [])]
        held_out = stored_questions(workspace.store, inputs.collection, PAIRS, both)
        every = (*self._own_questions(), *held_out)
        leaked = leaked_questions(workspace.store, every, both)
        names = {each["id"] for each in leaked}
        questions = [question for question in every if question.id not in names]
        if not questions:
            return {"skipped": "there are no questions to evaluate on", "leaked": leaked}
        work = {
            "questions": [asdict(question) for question in questions],
            "arms": list(dict.fromkeys([WITHOUT_ADAPTER, *(adapter_label(each) for each in reversed(both))])),
            "collection": inputs.collection,
            "top_k": inputs.top_k,
            "temperature": 0.0,  # nobody looks at what this decides, so it is decided by answers that come out the same
            "style": list(inputs.style),
        }
        outputs = evaluate.run(workspace, work, self._report)
        shown = {name: outputs[name] for name in ("evaluation_id", "verdict", "questions")}
        arms = {arm: {name: row[name] for name in ("f1", "f1_ci", "n")} for arm, row in outputs["arms"].items()}
        return {**shown, "arms": arms, "leaked": leaked}

    def _candidate(self) -> Adapter | None:
        """Return the adapter this round is about: what it trained or left as it was; None where there is none."""
        label = self._state["steps"]["train"].get("adapter")
        return find_adapter(self._workspace.store, label) if label else None

    # promote: the policy decides, and here it wants a comparison: nobody is looking

    def _promote(self) -> dict[str, Any]:
        workspace = self._workspace
        candidate = self._candidate()
        live = workspace.store.adapters.live(workspace.model.sha256, self._inputs.collection)
        before = adapter_label(live) if live is not None else None
        if candidate is None or candidate.stage == "live":
            return {"promoted": False, "live": before, "before": before, "reasons": ["there is no candidate"]}
        policy = self._policy()
        decision = decision_on(workspace.store, candidate, policy)
        label, actor = adapter_label(candidate), f"loop of {self._inputs.actor or 'nobody'}"
        failed = [reason.rule for reason in decision.failed]
        record = {"before": before, "decision": decision.view(), "reasons": [str(each) for each in decision.reasons]}
        if failed == ["shadow"] and candidate.stage != "shadow":
            shadow(workspace.store, workspace.model, label, actor=actor, reason="only the shadow is missing")
            return {**record, "promoted": False, "live": before, "shadow": label}
        gate = Gate(policy, refuse_stale=workspace.settings.refuse_stale_adapters, actor=actor)
        try:
            done = promote(workspace.store, workspace.model, label, gate=gate)
        except RagtuneError as error:
            return {**record, "promoted": False, "live": before, "refused": problem(error)}
        return {**record, "promoted": True, "live": adapter_label(done.live)}

    def _policy(self) -> Policy:
        chosen = load_policy(self._workspace.settings.promotion_policy)
        return replace(chosen, evaluation=replace(chosen.evaluation, required=True))

    # the record

    def _read(self) -> dict[str, Any]:
        """Return the record of the round that was stopped, if it has the same inputs, else a new one."""
        path = self._folder / "round.json"
        try:
            known = json.loads(path.read_bytes())
        except (OSError, ValueError):
            known = {}
        if known.get("key") == self._inputs.key and known.get("status") == "running":
            return dict(known)
        return {
            "key": self._inputs.key,
            "status": "running",
            "started_at": time.time(),
            "actor": self._inputs.actor,
            "collection": self._inputs.collection,
            "steps": {},
        }

    def _write(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps(self._state, ensure_ascii=False, indent=2, default=str)
        write_atomic(self._folder / "round.json", content.encode() + b"\n")

    def _end(self, status: str, step: str = "", error: Exception | None = None) -> dict[str, Any]:
        """Write the record and the report, and move them to the round's own folder; return the record."""
        workspace = self._workspace
        live = workspace.store.adapters.live(workspace.model.sha256, self._inputs.collection)
        number = max((_number(path) for path in self._root.glob("round-*/round.json")), default=0) + 1
        self._state |= {
            "number": number,
            "status": status,
            "finished_at": time.time(),
            "live": adapter_label(live) if live is not None else None,
            "lineage": _lineage(workspace, self._inputs.collection, self._state["steps"]),
            "failed_step": step,
            "error": _told(error),
        }
        self._write()
        write_atomic(self._folder / "report.md", round_report(self._state).encode())
        target = self._root / f"round-{number}"
        self._folder.rename(target)
        return self._state | {"folder": str(target)}


def _told(error: Exception | None) -> dict[str, Any] | None:
    """Return what a round's record says of an error; of one that nobody expected where the log tells about it."""
    if error is None or isinstance(error, RagtuneError):
        return None if error is None else problem(error)
    return internal_error(current_request_id())


class RoundFailed(Exception):
    """Ends a round: the error of the step that failed, and the record of the round."""

    def __init__(self, error: RagtuneError, record: Mapping[str, Any]) -> None:
        super().__init__(str(error))
        self.error = error
        self.record = record


def _number(path: Path) -> int:
    return int(path.parent.name.rpartition("-")[2])


def _lineage(workspace: Workspace, collection: str, steps: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the round's products are named by."""
    names = workspace.store.collections.names()
    return {
        "model_sha256": workspace.model.sha256,
        "index_generation": workspace.store.collections.current_generation(collection) if collection in names else None,
        "pair_run": steps.get("pairs", {}).get("ledger", {}).get("run_id"),
        "adapter": steps.get("train", {}).get("adapter"),
        "rows_sha256": steps.get("train", {}).get("rows_sha256"),
        "evaluation": steps.get("evaluate", {}).get("evaluation_id"),
    }


def interval_s(text: str) -> float:
    """Return the seconds of "90s", "30m", "6h" or "1d".

    Raises:
        InvalidRequest: it is none of these, or no time at all.
    """
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    number, unit = text[:-1], text[-1:]
    count = whole_number(number)
    if unit not in units or not count:
        raise InvalidRequest("This is no interval", got=text, wanted="a number and s, m, h or d: 90s, 30m, 6h, 1d")
    return float(count * units[unit])
