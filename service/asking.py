"""A question and how to answer it, before anything is looked up. Knows nothing of how it is answered."""

from __future__ import annotations

from dataclasses import dataclass, replace

from data.protocols import GenerationRequest
from data.records import Filter, Message, Method
from service.arms import Arm
from service.settings import Rerank
from service.verification import Unsupported


@dataclass(frozen=True, slots=True)
class AskRequest:
    """A question and how to answer it.

    ``filter`` narrows the search; ``rerank`` None takes the configured one.
    ``adapters`` are names and scales of adapters that are summed onto ``adapter``.
    ``arm`` overrides ``mode``, ``adapter`` and their scales. ``system`` replaces the default instruction;
    ``instructions`` stand behind it, None takes the collection's own.
    ``max_tokens`` bounds the answer; ``temperature`` 0 is greedy. ``like`` overrides them and ``seed``: the answer is
    generated with the settings of that request (sampling, stop strings, grammar, log-probabilities).
    ``max_false_answer_rate``: no answer is given where the calibrated confidence is too low for that share.
    ``unsupported``: what becomes of sentences that no passage bears out; None takes the setting.
    ``hidden`` are chunks that the search leaves out, and ``measured`` keeps the answer's signals: to calibrate.
    """

    question: str
    collection: str = "default"
    mode: str = "auto"
    adapter: str | None = None
    adapter_scale: float = 1.0
    adapters: tuple[tuple[str, float], ...] = ()
    top_k: int = 4
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int | None = None
    history: tuple[Message, ...] = ()
    max_false_answer_rate: float | None = None
    system: str | None = None
    instructions: str | None = None
    method: Method = "hybrid"
    filter: Filter | None = None
    rerank: Rerank | None = None
    arm: Arm | None = None
    like: GenerationRequest | None = None
    keep: bool = True
    unsupported: Unsupported | None = None
    hidden: frozenset[str] = frozenset()
    measured: bool = False

    @property
    def unusual(self) -> str:
        """Name what makes this other than a single question answered greedily; "" if nothing does.

        Calibrations are fitted on such questions and say nothing about others.
        """
        like = self.like or GenerationRequest((), temperature=self.temperature)
        kept = {"messages": (), "max_tokens": 1, "seed": None, "timeout_s": 1.0}
        sampled = replace(like, **kept) != replace(GenerationRequest(()), **kept)  # type: ignore[arg-type]
        found = {"history": bool(self.history), "system": self.system is not None, "sampling": sampled}
        found |= {"instructions": self.instructions is not None}
        found |= {"filter": self.filter is not None and self.filter != Filter()}
        return ", ".join(name for name, given in found.items() if given)
