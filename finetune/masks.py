"""Which mask each kind of layer gets: some models' layers look back over a window only.

Knows nothing of rows; distances are those of positions, so branches of a tree count theirs from the context.
"""

from __future__ import annotations

from typing import Any

import torch


def layer_masks(config: Any, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
    """Return ``mask`` as it is, or for a model that mixes both kinds of layers a mask for each.

    Args:
        config: transformers' configuration of the model.
        mask: additive, shape (rows, 1, length, length).
        positions: of the tokens, shape (rows, length).
    """
    if "sliding_attention" not in (getattr(config, "layer_types", None) or ()):
        return mask
    distance = positions[:, None, :, None] - positions[:, None, None, :]
    near = mask.masked_fill(distance >= config.sliding_window, torch.finfo(mask.dtype).min)
    return {"full_attention": mask, "sliding_attention": near}
