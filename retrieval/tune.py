"""Tune an embedder on questions and the passages that answer them.

The loss is multiple-negatives ranking (InfoNCE, van den Oord et al. 2018; over a batch's other passages,
Henderson et al. 2017): each question has to find its passage among those of its batch and the hard
negatives of all of them. A run writes a checkpoint after each epoch and goes on from it when it is
started again. Knows nothing of stores, indexes or how negatives are found.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from data.errors import InvalidRequest
from data.protocols import Report
from data.records import Progress, content_id
from data.state import map_os_error

_CHECKPOINT = "checkpoint.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_MAX_NORM = 1.0
_TOGETHER = 8
FULL_PARAMETERS = 150_000_000
"""Models up to this size are tuned whole."""
LAST_PARAMETERS = 50_000_000
"""Of larger ones, the last layers that have at most this many: memory and forgetting stay in bounds."""


class Trainable(Protocol):
    """A model whose vectors have gradients and no randomness; ``retrieval.embed.TrainableModel`` is one."""

    def named_parameters(self) -> list[tuple[str, Any]]:
        """Return the weights by name, in the order of the forward pass."""

    def embed(self, texts: Sequence[str], kind: Literal["query", "document"]) -> Any:
        """Return a tensor of unit rows, one for each text."""


@dataclass(frozen=True, slots=True)
class TuneRecipe:
    """How to tune; ``negatives`` are hard ones for each question and step, ``warmup`` a share of the steps."""

    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 3e-5
    warmup: float = 0.1
    temperature: float = 0.05
    negatives: int = 1
    weight_decay: float = 0.01
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Contrast:
    """A question, a passage that answers it, and passages that seem to and do not.

    ``answering`` holds every passage known to answer it: none of them is a negative of it, wherever
    in the batch it comes from.
    """

    question: str
    positive: str
    negatives: tuple[str, ...] = ()
    answering: frozenset[str] = frozenset()


def data_id(contrasts: Sequence[Contrast]) -> str:
    """Return the content id of what is trained on."""
    return content_id(*(part for each in contrasts for part in (each.question, each.positive, *each.negatives)))


def tune(
    model: Trainable, contrasts: Sequence[Contrast], recipe: TuneRecipe, folder: Path, report: Report, *, base: str
) -> dict[str, Any]:
    """Tune ``model`` where it is; return the run's figures.

    Args:
        model: its weights are changed.
        contrasts: what to learn from.
        recipe: how.
        folder: keeps the checkpoint; the caller removes it when it has the model.
        report: receives the progress in steps, with the loss.
        base: names the weights tuned from; a checkpoint of another base, recipe or data is not taken up.

    Raises:
        InvalidRequest: nothing to learn from, or an impossible recipe.
        JobCancelled: ``report`` said so; the next call goes on after the last whole epoch.
        InsufficientStorage: the disk is full.
    """
    if not contrasts or min(recipe.epochs, recipe.batch_size) < 1:
        raise InvalidRequest("Nothing to tune on.", got=f"{len(contrasts)} questions, {recipe.epochs} epochs")
    run = _Run(model, recipe, math.ceil(len(contrasts) / recipe.batch_size), report)
    key = content_id(base, data_id(contrasts), json.dumps(asdict(recipe), sort_keys=True))
    first = run.restore(folder / _CHECKPOINT, key)
    with _one_thread():
        for epoch in range(first, recipe.epochs):
            run.epoch(contrasts, epoch)
            run.save(folder / _CHECKPOINT, key, epoch + 1)
    return run.figures(first)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in one thread: threads that share an operation wait for each other at every one.

    Where other work keeps a core busy each wait costs a time slice: on two cores under load, two
    threads took ten to thirty times as long as one.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Run:
    """The state of one training: optimizer, step, losses."""

    def __init__(self, model: Trainable, recipe: TuneRecipe, steps_per_epoch: int, report: Report) -> None:
        import torch

        self._model, self._recipe, self._report = model, recipe, report
        self._steps_per_epoch, self._steps = steps_per_epoch, steps_per_epoch * recipe.epochs
        self._tuned = _choose(model.named_parameters())
        self._optimizer = torch.optim.AdamW(
            list(self._tuned.values()), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self._losses: list[float] = []
        self._step = 0
        self._started = time.monotonic()

    def epoch(self, contrasts: Sequence[Contrast], epoch: int) -> None:
        """See every question once, in an order that seed and epoch alone decide."""
        order = list(range(len(contrasts)))
        random.Random(f"{self._recipe.seed} {epoch}").shuffle(order)  # noqa: S311  (sampling, no secret)
        self._step, size = epoch * self._steps_per_epoch, self._recipe.batch_size
        for start in range(0, len(order), size):
            batch = [contrasts[row] for row in order[start : start + size]]
            self._learn(batch, epoch)
            self._tell()

    def _learn(self, batch: Sequence[Contrast], epoch: int) -> None:
        """Take one step, of which only a few texts' activations are in memory at a time.

        Every text is embedded without gradients, the loss gives each vector its gradient, and texts are
        embedded once more, a few at a time, to pass it on (GradCache, Gao et al. 2021).
        """
        import torch

        for group in self._optimizer.param_groups:
            group["lr"] = self._recipe.learning_rate * self._rate()
        texts = list(dict.fromkeys([each.positive for each in batch] + _hard(batch, self._recipe.negatives, epoch)))
        parts = [*_parts([each.question for each in batch], "query"), *_parts(texts, "document")]
        with torch.no_grad():
            found = [self._model.embed(part.texts, part.kind) for part in parts]
        width = found[0].shape[1]
        sides = {"query": torch.empty(len(batch), width), "document": torch.empty(len(texts), width)}
        for part, vectors in zip(parts, found, strict=True):
            sides[part.kind][part.rows] = vectors
        for vectors in sides.values():
            vectors.requires_grad_()
        loss = _loss(batch, texts, sides["query"] @ sides["document"].T / self._recipe.temperature)
        loss.backward()
        self._optimizer.zero_grad(set_to_none=True)
        for part in parts:
            gradients: Any = sides[part.kind].grad
            self._model.embed(part.texts, part.kind).backward(gradients[part.rows])
        torch.nn.utils.clip_grad_norm_(list(self._tuned.values()), _MAX_NORM)
        self._optimizer.step()
        self._losses.append(float(loss.detach()))
        self._step += 1

    def _rate(self) -> float:
        """Return the factor of the learning rate: up during the warmup, then down to nothing."""
        warm = max(1, round(self._recipe.warmup * self._steps))
        if self._step < warm:
            return (self._step + 1) / warm
        return max(0.0, (self._steps - self._step) / max(1, self._steps - warm))

    def _tell(self) -> None:
        took = (time.monotonic() - self._started) / len(self._losses)
        eta_s = round(took * (self._steps - self._step), 1)
        metrics = {"loss": round(self._losses[-1], 4), "epoch": (self._step - 1) // self._steps_per_epoch + 1}
        self._report(Progress(self._step, self._steps, "steps", eta_s, "train", metrics))

    def figures(self, first: int) -> dict[str, Any]:
        """Return what the run was like; losses are means over the first and last tenth of the steps done here."""
        tenth = max(1, len(self._losses) // 10)
        return {
            "steps": self._steps,
            "tuned_parameters": sum(values.numel() for values in self._tuned.values()),
            "loss_first": round(sum(self._losses[:tenth]) / tenth, 4) if self._losses else None,
            "loss_last": round(sum(self._losses[-tenth:]) / tenth, 4) if self._losses else None,
            "seconds": round(time.monotonic() - self._started, 1),
            "resumed_after_epoch": first,
        }

    def save(self, path: Path, key: str, epochs: int) -> None:
        """Write weights and the optimizer's state, whole or not at all."""
        from safetensors.torch import save_file

        tensors = {f"weight/{name}": values.detach().contiguous() for name, values in self._tuned.items()}
        for name, values in self._tuned.items():
            state = self._optimizer.state.get(values, {})
            tensors |= {f"{moment}/{name}": state[moment].contiguous() for moment in _MOMENTS if moment in state}
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_suffix(".part")
        try:
            save_file(tensors, whole, {"key": key, "epochs": str(epochs)})
            whole.replace(path)
        except OSError as error:
            raise map_os_error(error, path) from error

    def restore(self, path: Path, key: str) -> int:
        """Go on from the checkpoint of the same run; return how many epochs it had done, 0 if there is none."""
        import torch
        from safetensors import SafetensorError, safe_open

        if not path.is_file():
            return 0
        try:
            with safe_open(path, "pt") as file:
                facts = file.metadata() or {}
                if facts.get("key") != key:
                    return 0
                held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        except SafetensorError:
            return 0
        epochs = int(facts["epochs"])
        with torch.no_grad():
            for name, values in self._tuned.items():
                values.copy_(held[f"weight/{name}"])
                if f"{_MOMENTS[0]}/{name}" in held:
                    step = torch.tensor(float(epochs * self._steps_per_epoch))
                    moments = {moment: held[f"{moment}/{name}"] for moment in _MOMENTS}
                    self._optimizer.state[values] = {"step": step, **moments}
        return epochs


def _choose(named: Sequence[tuple[str, Any]]) -> Mapping[str, Any]:
    """Return the weights to tune, and freeze the others: all of a small model, the last ones of a large one."""
    whole = sum(values.numel() for _, values in named) <= FULL_PARAMETERS
    left = math.inf if whole else LAST_PARAMETERS
    chosen = {}
    for name, values in reversed(named):
        left -= values.numel()
        values.requires_grad_(left >= 0)
        if left >= 0:
            chosen[name] = values
    return dict(reversed(chosen.items()))


@dataclass(frozen=True, slots=True)
class _Part:
    """Texts of one kind that are embedded together, and their rows among all of that kind."""

    kind: Literal["query", "document"]
    texts: list[str]
    rows: list[int]


def _parts(texts: Sequence[str], kind: Literal["query", "document"]) -> list[_Part]:
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    cuts = [order[start : start + _TOGETHER] for start in range(0, len(order), _TOGETHER)]
    return [_Part(kind, [texts[row] for row in rows], rows) for rows in cuts]


def _loss(batch: Sequence[Contrast], texts: Sequence[str], scores: Any) -> Any:
    """Return the mean cross-entropy of each question's own passage among all that do not answer it too."""
    import torch

    places = {text: place for place, text in enumerate(texts)}
    hidden = torch.zeros(scores.shape, dtype=torch.bool)
    for row, each in enumerate(batch):
        hidden[row, [places[text] for text in each.answering if text in places and text != each.positive]] = True
    targets = torch.tensor([places[each.positive] for each in batch])
    return torch.nn.functional.cross_entropy(scores.masked_fill(hidden, -torch.inf), targets)


def _hard(batch: Sequence[Contrast], count: int, epoch: int) -> list[str]:
    """Return each question's hard negatives of this epoch: they take turns."""
    return [
        each.negatives[(epoch * count + place) % len(each.negatives)]
        for each in batch
        for place in range(min(count, len(each.negatives)))
    ]
