"""Choose the next token from logits: greedy, or by temperature, top-k and top-p.

Knows nothing of models; a grammar is whatever can say which tokens it allows.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
"""Shape (n_vocab,)."""


_SEEDS = 2**64
"""Seeds are taken modulo this: clients may send negative ones, numpy takes none."""


class TokenGrammar(Protocol):
    """Says which tokens may come next, and moves on with the one that came."""

    def allows(self, token: int) -> bool:
        """Tell whether ``token`` may come next."""

    def allowed(self) -> NDArray[np.bool_]:
        """Return which tokens may come next; shape (n_vocab,). Slow: it looks at every token."""

    def accept(self, token: int) -> None:
        """Move on; ``token`` must be allowed."""


class Sampler:
    """Chooses tokens. ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 switch the cuts off."""

    def __init__(
        self, *, temperature: float = 0.0, top_p: float = 1.0, top_k: int = 0, seed: int | None = None
    ) -> None:
        self._temperature = temperature
        self._top_p = top_p
        self._top_k = top_k
        self._random = np.random.default_rng(None if seed is None else seed % _SEEDS)

    def choose(self, logits: Logits, grammar: TokenGrammar | None = None) -> int | None:
        """Return the next token, or None if the grammar allows none.

        With a grammar a token is chosen first and checked then; only a rejected one costs a look at
        the whole vocabulary. For plain temperature sampling that gives exactly the distribution
        over the allowed tokens: p + (1 - allowed) * p / allowed = p / allowed.
        """
        token = self._pick(logits)
        if grammar is None or grammar.allows(token):
            return token
        allowed = grammar.allowed()
        if not allowed.any():
            return None
        return self._pick(np.where(allowed, logits, np.float32(-np.inf)))

    def _pick(self, logits: Logits) -> int:
        if self._temperature <= 0:
            return int(logits.argmax())
        tokens = np.arange(len(logits))
        if 0 < self._top_k < len(logits):
            tokens = np.argpartition(logits, -self._top_k)[-self._top_k :]
        scaled = logits[tokens].astype(np.float64) / self._temperature
        weights = np.exp(scaled - scaled.max())
        weights /= weights.sum()
        if self._top_p < 1.0:
            order = np.argsort(-weights, kind="stable")
            kept = order[: int(np.searchsorted(np.cumsum(weights[order]), self._top_p)) + 1]
            tokens, weights = tokens[kept], weights[kept] / weights[kept].sum()
        return int(self._random.choice(tokens, p=weights))


def logprob(logits: Logits, token: int) -> float:
    """Return the natural log-probability of ``token`` under softmax(logits)."""
    peak = float(logits.max())
    return float(logits[token]) - peak - float(np.log(np.exp(logits - peak).sum(dtype=np.float64)))
