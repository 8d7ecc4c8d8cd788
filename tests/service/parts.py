"""Small real parts for fast tests: a hashing embedder and a generator that follows a script."""

from __future__ import annotations

import hashlib
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from data.errors import ContextOverflow
from data.protocols import Delta, GenerationRequest, GenerationResult, TokenChoice, Vectors, WrittenToken
from data.records import Adapter, Model, Usage

MODEL = Model("scripted", "tests", "scripted.gguf", "scripted.gguf", "0" * 64, "llama")
DOCUMENTS = {
    "lighthouse.md": "# Lighthouse\n\nThe lighthouse of Orrin was built in 1842. Its keeper was Mara Venn. "
    "It stands on a red cliff above the bay.\n",
    "garden.md": "# Garden\n\nThe garden of Tolm grows blue roses. It was planted by the brothers Ask and Embla.\n",
}

POLL_S = 0.02


def wait_until(condition: Callable[[], object], timeout_s: float = 30) -> None:
    """Wait for what another process or thread does; fail where it does not come about in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(POLL_S)


class HashEmbedder:
    """A bag of words, each hashed to one of ``dimension`` directions."""

    fingerprint = "hash-256"
    dimension = 256

    def _embed(self, texts: Sequence[str]) -> Vectors:
        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()) or [""]:
                row[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big") % self.dimension] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    embed_documents = _embed
    embed_queries = _embed

    def count_tokens(self, text: str) -> int:
        return len(text.split())


class ScriptedGenerator:
    """Answers what ``reply`` says, word by word; overflows above ``n_ctx`` prompt words."""

    model = "scripted"

    def __init__(self, reply: str | Callable[[GenerationRequest], str] = "forty-two [1]", n_ctx: int = 100_000) -> None:
        self.reply = reply
        self.n_ctx = n_ctx
        self.requests: list[GenerationRequest] = []
        self.error: Exception | None = None
        self.closed = threading.Event()
        self.hold: threading.Event | None = None
        self.logprob: Callable[[GenerationRequest], float] = lambda _request: -0.1

    def stream(self, request: GenerationRequest) -> Iterator[Delta]:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        prompt = sum(len(message.content.split()) for message in request.messages)
        if prompt > self.n_ctx:
            raise ContextOverflow("Too long", got=f"{prompt} tokens", wanted=f"at most {self.n_ctx}")
        text = self.reply if isinstance(self.reply, str) else self.reply(request)
        pieces = re.findall(r"\s*\S+", text)[: request.max_tokens]
        try:
            for number, piece in enumerate(pieces):
                if number and self.hold is not None:
                    self.hold.wait(20)
                yield Delta(piece, tokens=self._tokens(piece, request))
            reason = "length" if len(pieces) == request.max_tokens else "stop"
            usage = Usage(prompt, 0, len(pieces))
            sure = self.logprob(request)
            places = tuple((TokenChoice(piece, sure),) for piece in pieces) if request.top_logprobs else ()
            logprobs = (sure,) * len(pieces)
            yield Delta("", GenerationResult("".join(pieces), reason, usage, 1.0, 2.0, logprobs, 3.0, places))
        finally:
            self.closed.set()

    def _tokens(self, piece: str, request: GenerationRequest) -> tuple[WrittenToken, ...]:
        if not request.logprobs:
            return ()
        likeliest = (TokenChoice(piece, -0.1, tuple(piece.encode())), TokenChoice("\ufffd", -math.inf, (0xE2,)))
        return (WrittenToken(likeliest[0], likeliest[: request.top_logprobs]),)

    def generate(self, request: GenerationRequest) -> GenerationResult:
        for delta in self.stream(request):
            if delta.result is not None:
                return delta.result
        raise AssertionError("the stream has no end")


def adapter(name: str = "house", version: int = 1, base: str = MODEL.sha256, **changes: object) -> Adapter:
    """Return an adapter that passed its parity check; the scripted generator needs no file of it."""
    values = {
        "name": name, "version": version, "base_model": MODEL.name, "base_sha256": base, "recipe": {"r": 8},
        "rows_sha256": "1" * 64, "attention": "full", "files": {}, "stage": "candidate", "lineage": {},
        "metrics": {"parity": {"greedy_agreement": 1.0, "kl": 0.0, "passed": True}},
    }  # fmt: skip
    return Adapter(**{**values, **changes})  # type: ignore[arg-type]
