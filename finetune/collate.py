"""Rows of tokens to tensors: positions, the tree attention mask, and where the loss is.

Knows nothing of models beyond "additive 4D mask", and nothing of text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import torch

from finetune.recipe import Attention
from finetune.rows import Row

PADDING = -1
"""Branch number of padding tokens: they see the context and are seen by nobody."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each token of a row stands; every tensor has shape (length,), int64.

    ``branch`` is 0 for the context and counts branches from 1; ``passage`` is 0 outside passages. ``before`` is the
    passage that has the token before it: of the instruction the first, of its copies the others, else 0.
    """

    ids: torch.Tensor
    position: torch.Tensor
    branch: torch.Tensor
    passage: torch.Tensor
    before: torch.Tensor
    copied: torch.Tensor


def lay_out(row: Row, attention: Attention = "full") -> Layout:
    """Put the branches one after the other behind the context, each continuing its positions.

    Under ``blockwise`` a copy of the instruction for every passage but the first comes before all: served, each
    passage is read right behind the instruction and then moved to its place, so it has to see the instruction at the
    distance that it had. Only distances count (rotary position embedding), so a copy stands right before its passage.
    """
    start = len(row.context_ids)
    ids, position = list(row.context_ids), list(range(start))
    branch, passage = [0] * start, list(row.passages)
    for number, item in enumerate(row.branches, 1):
        ids += item.tail_ids + item.completion_ids
        position += range(start, start + len(item))
        branch += [number] * len(item)
        passage += [0] * len(item)
    places = {number: place for place, number in reversed(list(enumerate(row.passages))) if number}
    instruction = min(places.values(), default=0)
    others = sorted(places, key=places.__getitem__)[1:] if attention == "blockwise" else []
    copies = [number for number in others for _ in range(instruction)]
    first = row.passages[instruction] if places else 0
    before = [*copies, *[first] * instruction, *[0] * (len(ids) - instruction)]
    position = [places[number] - instruction + i for number in others for i in range(instruction)] + position
    ids = list(row.context_ids[:instruction]) * len(others) + ids
    none = [0] * len(copies)
    copied = [1] * len(copies) + [0] * (len(ids) - len(copies))
    columns = (ids, position, none + branch, none + passage, before, copied)
    return Layout(*(torch.tensor(values, dtype=torch.int64) for values in columns))


def allowed(layout: Layout, attention: Attention) -> torch.Tensor:
    """Return who may see whom: (length, length) bool, True where the row's token sees the column's.

    Everything is causal; a branch sees the context and itself. Under ``blockwise`` a passage's tokens
    see only the instruction, or their copy of it, and their own passage, while instruction and
    branches see everything before them but copies, and a copy itself.
    """
    length = len(layout.ids)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    tree = (layout.branch[None] == 0) | (layout.branch[None] == layout.branch[:, None])
    mask = causal & tree
    if attention == "blockwise":
        own = layout.passage[:, None] == layout.passage[None]
        introduces = layout.passage[:, None] == layout.before[None]
        original = (layout.copied[:, None] == 0) & (layout.copied[None] == 0)
        same_copy = (layout.copied[:, None] == 1) & (layout.before[:, None] == layout.before[None])
        in_passage = layout.passage[:, None] != 0
        mask &= torch.where(in_passage, own | introduces, original | (same_copy & (layout.copied[None] == 1)))
    return mask


def losses(row: Row) -> tuple[list[int], list[int]]:
    """Return, for every trained token, the place that predicts it and the token.

    A completion's first token is predicted by the last prompt token: of the branch's own tail, or
    of the context where the branch has none.
    """
    sources: list[int] = []
    targets: list[int] = []
    start = len(row.context_ids)
    for branch in row.branches:
        first = start + len(branch.tail_ids)
        before = first - 1 if branch.tail_ids else len(row.context_ids) - 1
        sources += [before, *range(first, first + len(branch.completion_ids) - 1)]
        targets += branch.completion_ids
        start += len(branch)
    return sources, targets


class Collator:
    """Makes batches of rows.

    Args:
        attention: who sees whom, see ``allowed``.
        dtype: of the additive mask: the model's, so that attention does not convert it.
        pad_id: any valid token id.
        full_share: share of the rows that get full attention whatever ``attention`` is; which ones follows from
            their tokens, so that a run that is continued makes the same choice.
    """

    def __init__(self, attention: Attention, dtype: torch.dtype, pad_id: int = 0, full_share: float = 0.0) -> None:
        self.attention = attention
        self.dtype = dtype
        self.pad_id = pad_id
        self.full_share = full_share

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Return one batch, rows padded to the longest.

        Returns:
            ``input_ids`` and ``position_ids`` (rows, length); ``attention_mask`` (rows, 1, length,
            length), 0 where attention may go and the dtype's minimum elsewhere; ``sources`` and
            ``targets`` (trained tokens,): the flat index row * length + place that predicts each
            trained token, and that token; ``counts`` (2,): tokens (padding left out) and branches.
        """
        ways = [self._attention(row) for row in rows]
        layouts = [lay_out(row, way) for row, way in zip(rows, ways, strict=True)]
        copies = [len(layout.ids) - len(row) for row, layout in zip(rows, layouts, strict=True)]
        length = max(len(layout.ids) for layout in layouts)
        layouts = [_pad(layout, length, self.pad_id) for layout in layouts]
        visible = torch.stack([allowed(layout, way) for layout, way in zip(layouts, ways, strict=True)])
        mask = torch.zeros(visible.shape, dtype=self.dtype).masked_fill_(~visible, torch.finfo(self.dtype).min)
        sources: list[int] = []
        targets: list[int] = []
        for number, row in enumerate(rows):
            places, tokens = losses(row)
            sources += [number * length + copies[number] + place for place in places]
            targets += tokens
        counts = (sum(map(len, rows)), sum(len(row.branches) for row in rows))
        return {
            "input_ids": torch.stack([layout.ids for layout in layouts]),
            "position_ids": torch.stack([layout.position for layout in layouts]),
            "attention_mask": mask[:, None],
            "sources": torch.tensor(sources, dtype=torch.int64),
            "targets": torch.tensor(targets, dtype=torch.int64),
            "counts": torch.tensor(counts, dtype=torch.int64),
        }

    def _attention(self, row: Row) -> Attention:
        drawn = crc32(repr(row.context_ids).encode()) / 2**32
        return "full" if drawn < self.full_share else self.attention


def _pad(layout: Layout, length: int, pad_id: int) -> Layout:
    missing = length - len(layout.ids)
    if not missing:
        return layout
    fills = {"ids": pad_id, "position": 0, "branch": PADDING, "passage": 0, "before": 0, "copied": 0}
    return Layout(
        **{
            name: torch.nn.functional.pad(getattr(layout, name), (0, missing), value=fill)
            for name, fill in fills.items()
        }
    )
