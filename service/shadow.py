"""The shadow: an adapter answers a share of the real questions again, after their answers were sent; nobody sees it.

It never delays or fails an answer: a question waits in a bounded queue until no request is under way, and a request
that comes meanwhile ends the generation in the shadow before its next step. What could not be answered so is counted.
Knows nothing of HTTP but which paths generate.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from data.errors import ClientLeft, RagtuneError
from data.prompt import strip_citations
from data.records import Adapter, Answer
from data.scoring import exact_match, token_f1
from data.store import ShadowAnswer
from service.answerer import AskRequest
from service.arms import Arm, adapter_label
from service.hangup import Hangup
from service.policy import load_policy

if TYPE_CHECKING:
    from service.workspace import Workspace

log = logging.getLogger(__name__)

QUEUE = 32
"""Questions that wait for the shadow; a further one takes the place of the oldest."""
QUIET_S = 0.2
"""No request for so long before the shadow begins: who sends one question after another is not interrupted."""
BUSY = frozenset(("/mcp", *map("/v1/{}".format, ("answers", "compare", "chat/completions", "search", "embeddings"))))
"""The paths whose requests the shadow gives way to."""
DROPPED_FULL, DROPPED_INTERRUPTED = "queue full", "interrupted by a request"


@dataclass(frozen=True, slots=True)
class _Asked:
    ask: AskRequest
    answer: Answer


class Shadow:
    """Answers in the shadow of one server. Thread-safe; its thread starts with the first question it takes.

    Args:
        workspace: what answers; the policy's ``share`` of the questions is taken.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._share = load_policy(workspace.settings.promotion_policy).shadow.share
        self._queue: deque[_Asked] = deque()
        self._dropped: dict[str, Counter[str]] = defaultdict(Counter)
        self._requests = 0
        self._running: Hangup | None = None
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()

    def offer(self, ask: AskRequest, answer: Answer) -> None:
        """Take a question that was just answered, if it is one of the share and a promotion would change its answer.

        That is: it names no adapter, the mode is auto or combined, passages were used, and it may be kept. Returns at
        once.
        """
        names_none = ask.adapter is None and not ask.adapters
        changes = ask.mode in ("auto", "combined") and answer.mode in ("rag", "combined")
        chosen = int(answer.id[:8], 16) < self._share * 2**32
        if not (ask.keep and names_none and changes and chosen):
            return
        with self._changed:
            if self._stopping:
                return
            if len(self._queue) >= QUEUE:
                gone = self._queue.popleft()
                self._dropped[gone.ask.collection][DROPPED_FULL] += 1
            self._queue.append(_Asked(ask, answer))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def request_begins(self) -> None:
        """Give way to a request: what is being generated in the shadow ends before its next step."""
        with self._changed:
            self._requests += 1
            running = self._running
        if running is not None:
            running.hang_up()

    def request_ends(self) -> None:
        """Note that a request, its response included, is over."""
        with self._changed:
            self._requests -= 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Stop; questions that wait are forgotten."""
        with self._changed:
            self._stopping = True
            running, thread = self._running, self._thread
            self._changed.notify_all()
        if running is not None:
            running.hang_up()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while (found := self._next()) is not None:
            asked, hangup = found
            try:
                self._answer(asked, hangup)
                self._write_drops()
            except Exception:
                log.exception("the shadow failed; it goes on")
            finally:
                with self._changed:
                    self._running = None
        self._write_drops()

    def _next(self) -> tuple[_Asked, Hangup] | None:
        """Wait for a question and for quiet; None at the end."""
        with self._changed:
            while not self._stopping:
                if self._requests or not self._queue:
                    self._changed.wait()
                elif not self._changed.wait_for(lambda: self._stopping or self._requests > 0, QUIET_S):
                    self._running = Hangup()
                    return self._queue.popleft(), self._running
            return None

    def _answer(self, asked: _Asked, hangup: Hangup) -> None:
        adapter = self._adapter(asked.ask.collection)
        if adapter is None:
            return
        try:
            kept = self._compared(adapter, asked, hangup)
            self._workspace.store.shadows.add(adapter.name, adapter.version, kept)
        except ClientLeft:
            with self._changed:
                self._dropped[asked.ask.collection][DROPPED_INTERRUPTED] += 1

    def _adapter(self, collection: str) -> Adapter | None:
        return self._workspace.store.adapters.shadowing(self._workspace.model.sha256, collection)

    def _write_drops(self) -> None:
        """Keep what was counted; where no adapter is in the shadow nothing was dropped."""
        with self._changed:
            dropped, self._dropped = self._dropped, defaultdict(Counter)
        for collection, counted in dropped.items():
            adapter = self._adapter(collection)
            if adapter is not None:
                self._workspace.store.shadows.drop(adapter.name, adapter.version, counted)

    def _compared(self, adapter: Adapter, asked: _Asked, hangup: Hangup) -> ShadowAnswer:
        """Answer with ``adapter`` and compare.

        Raises:
            ClientLeft: a request came.
        """
        arm = Arm(adapter_label(adapter), passages=True, adapter=adapter_label(adapter))
        # A candidate has no calibration yet: it answers as it likes.
        ask = replace(asked.ask, arm=arm, keep=False, max_false_answer_rate=None)
        try:
            answer = self._workspace.answerer.answer(ask, hangup)
        except ClientLeft:
            raise
        except RagtuneError as error:
            return _failed(asked.answer, f"{error.type}: {error}")
        return compare_answers(asked.answer, answer)


def compare_answers(live: Answer, shadow: Answer) -> ShadowAnswer:
    """Return how an answer in the shadow compares with the one that was given."""
    texts = strip_citations(live.text), strip_citations(shadow.text)
    both = live.abstained and shadow.abstained
    one = live.abstained != shadow.abstained
    return ShadowAnswer(
        answer_id=live.id,
        against=live.adapter or "",
        text=shadow.text,
        agrees=both or (not one and bool(exact_match(texts[1], [texts[0]]))),
        f1=100.0 * (both or (not one and token_f1(texts[1], [texts[0]]))),
        abstained=shadow.abstained,
        live_abstained=live.abstained,
        latency_ms=float(shadow.timings["total"]),
        live_latency_ms=float(live.timings["total"]),
    )


def _failed(live: Answer, error: str) -> ShadowAnswer:
    return ShadowAnswer(
        answer_id=live.id,
        against=live.adapter or "",
        text="",
        agrees=False,
        f1=0.0,
        abstained=False,
        live_abstained=live.abstained,
        latency_ms=0.0,
        live_latency_ms=float(live.timings["total"]),
        error=error,
    )


class ShadowGate:
    """Tells the shadow when a request that generates begins, and when its response was sent."""

    def __init__(self, app: ASGIApp, shadow: Shadow) -> None:
        self._app = app
        self._shadow = shadow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on between the two."""
        if scope["type"] != "http" or scope["path"] not in BUSY:
            await self._app(scope, receive, send)
            return
        self._shadow.request_begins()
        try:
            await self._app(scope, receive, send)
        finally:
            self._shadow.request_ends()
