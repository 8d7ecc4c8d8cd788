"""Show which tokens of a row are trained, read from the batch that the loss sees.

Nothing here looks at where a row says its completions are: a prompt token that the batch trained by mistake
would be shown as trained. Knows nothing of files or of the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from finetune.collate import Collator, lay_out
from finetune.recipe import Attention
from finetune.rows import Row, Tokenizer


@dataclass(frozen=True, slots=True)
class InspectedToken:
    """One token of a row, in the order of the batch.

    ``text`` is the token decoded alone; a part of a character is shown as the replacement character. ``branch`` is 0
    for the shared context, else the number of the question, from 1; ``passage`` the number of the passage, 0 outside;
    ``copied`` marks the copies of the instruction that blockwise attention puts before passages.
    """

    token: int
    text: str
    position: int
    branch: int
    passage: int
    copied: bool
    trained: bool


def inspect_row(row: Row, tokenizer: Tokenizer, attention: Attention = "full") -> list[InspectedToken]:
    """Return the tokens of ``row`` as they are trained, each with whether the loss counts it."""
    batch = Collator(attention, torch.float32)([row])
    layout = lay_out(row, attention)
    ids, position, branch = batch["input_ids"][0].tolist(), layout.position.tolist(), layout.branch.tolist()
    trained: set[int] = set()
    for source, target in zip(batch["sources"].tolist(), batch["targets"].tolist(), strict=True):
        # The token that comes next after its source, in the source's branch or, after the context, in any.
        trained.add(
            next(
                place
                for place in range(source + 1, len(ids))
                if ids[place] == target
                and position[place] == position[source] + 1
                and branch[source] in {0, branch[place]}
                and place not in trained
            )
        )
    columns = zip(ids, position, branch, layout.passage.tolist(), layout.copied.tolist(), strict=True)
    return [
        InspectedToken(token, tokenizer.decode([token]), where, of, passage, bool(copy), place in trained)
        for place, (token, where, of, passage, copy) in enumerate(columns)
    ]


def marked_text(tokens: Sequence[InspectedToken], tokenizer: Tokenizer) -> str:
    """Return a row for people: the context, then each question, with what is trained in «guillemets»."""
    lines = []
    for branch, group in groupby((token for token in tokens if not token.copied), key=lambda token: token.branch):
        part = list(group)
        name = f"question {branch}" if branch else "context"
        text = "".join(
            f"«{words}»" if trained else words
            for trained, run in groupby(part, key=lambda token: token.trained)
            for words in [tokenizer.decode([token.token for token in run])]
        )
        lines.append(f"{name} ({len(part)} tokens, {sum(t.trained for t in part)} trained):\n{text}")
    return "\n\n".join(lines)
