"""Choose the next token from logits: greedy, or by temperature, top-k, top-p, min-p and penalties.

Knows nothing of models; a grammar is whatever can say which tokens it allows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How tokens are chosen.

    Attributes:
        temperature: 0 is greedy.
        top_p: the likeliest tokens that together have this probability stay; 1 keeps all.
        top_k: so many of the likeliest tokens stay; 0 keeps all.
        min_p: tokens at least this share as likely as the likeliest stay (Nguyen et al., 2024); 0 keeps all.
        repeat_penalty: divides the positive logits of tokens written before and multiplies their negative ones
            (Keskar et al., 2019, CTRL); 1 does nothing.
        presence_penalty: subtracted from the logit of a token written before, as in OpenAI's API.
        frequency_penalty: subtracted once for each time it was written.
        logit_bias: added to the logits of these tokens.
        seed: of the choices; None draws one.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None


class Sampler:
    """Chooses the tokens of one generation."""

    def __init__(self, options: SamplingOptions) -> None:
        self._options = options
        self._random = np.random.default_rng(None if options.seed is None else options.seed % _SEEDS)
        self._written: Counter[int] = Counter()
        o = options
        self._penalizes = (o.repeat_penalty, o.presence_penalty, o.frequency_penalty) != (1.0, 0.0, 0.0)

    def choose(self, logits: Logits, grammar: TokenGrammar | None = None) -> int | None:
        """Return the next token, or None if the grammar allows none.

        With a grammar a token is chosen first and checked then; only a rejected one costs a look at
        the whole vocabulary. For plain temperature sampling that gives exactly the distribution
        over the allowed tokens: p + (1 - allowed) * p / allowed = p / allowed.
        """
        logits = self._adjusted(logits)
        token = self._pick(logits)
        if grammar is not None and not grammar.allows(token):
            allowed = grammar.allowed()
            if not allowed.any():
                return None
            token = self._pick(np.where(allowed, logits, np.float32(-np.inf)))
        return token

    def accept(self, token: int) -> None:
        """Take note of a token that was written."""
        if self._penalizes:
            self._written[token] += 1

    def _adjusted(self, logits: Logits) -> Logits:
        options = self._options
        if not options.logit_bias and not self._written:
            return logits
        logits = logits.copy()
        for token, bias in options.logit_bias.items():
            if 0 <= token < len(logits):
                logits[token] += bias
        if self._written:
            tokens = np.fromiter(self._written, np.int64)
            counts = np.fromiter(self._written.values(), np.float32)
            values = logits[tokens]
            values = np.where(values > 0, values / options.repeat_penalty, values * options.repeat_penalty)
            logits[tokens] = values - options.presence_penalty - counts * options.frequency_penalty
        return logits

    def _pick(self, logits: Logits) -> int:
        options = self._options
        if options.temperature <= 0:
            return int(logits.argmax())
        tokens = np.arange(len(logits))
        if 0 < options.top_k < len(logits):
            tokens = np.argpartition(logits, -options.top_k)[-options.top_k :]
        exact = logits[tokens].astype(np.float64)
        with np.errstate(over="ignore"):  # a tiny temperature leaves the likeliest alone: exp(-inf) is 0
            weights = np.exp((exact - exact.max()) / options.temperature)
        if options.min_p > 0:
            likely = weights >= options.min_p  # the likeliest weighs 1
            tokens, weights = tokens[likely], weights[likely]
        weights /= weights.sum()
        if options.top_p < 1.0:
            order = np.argsort(-weights, kind="stable")
            kept = order[: int(np.searchsorted(np.cumsum(weights[order]), options.top_p)) + 1]
            tokens, weights = tokens[kept], weights[kept] / weights[kept].sum()
        return int(self._random.choice(tokens, p=weights))


def log_normalizers(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return log(sum(exp(row))) of each row; rows (n, n_vocab), result (n,). NaN where a row holds one."""
    peaks = rows.max(axis=1)
    return np.asarray(peaks + np.log(np.exp(rows - peaks[:, None]).sum(axis=1)), np.float64)


def likeliest(logits: Logits, count: int) -> list[int]:
    """Return the ``count`` tokens of the highest logits, the highest first."""
    count = min(count, len(logits))
    top = np.argpartition(logits, -count)[-count:]
    return [int(token) for token in top[np.argsort(-logits[top], kind="stable")]]
