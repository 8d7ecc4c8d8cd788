"""The two places where training time goes, written for one long row on few cores.

A LoRA layer that never leaves the weights' dtype, and attention that uses the plain causal kernel for
the shared context. Knows nothing of peft, rows or optimizers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import AttentionInterface

TREE_ATTENTION = "ragtune_tree"
"""Name of ``tree_attention`` for ``attn_implementation=``."""


class LowRankLinear(torch.autograd.Function):
    """``x @ weight.T + bias + scale * (x @ a.T) @ b.T`` with a frozen weight.

    a and b may be float32 while x and weight are bfloat16: they are rounded for the products, their
    gradients come back in float32, and x is never converted, which stock LoRA layers do both ways.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """Compute the layer; x (..., in), weight (out, in), a (r, in), b (out, r)."""
        rows = x.reshape(-1, x.shape[-1])
        down, up = a.to(x.dtype), (b * scale).to(x.dtype)
        low = rows @ down.t()
        result = linear(rows, weight, bias).addmm_(low, up.t())
        ctx.save_for_backward(rows, weight, down, up, low)
        ctx.scale, ctx.shape = scale, x.shape
        return result.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of x, a and b."""
        rows, weight, down, up, low = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, weight.shape[0])
        through = gradient @ up
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = (gradient @ weight).addmm_(through, down).view(ctx.shape)
        to_a = (through.t() @ rows).float()
        to_b = (gradient.t() @ low).float().mul_(ctx.scale)
        return to_x, None, None, to_a, to_b, None


def tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    causal_places: int = 0,
    **_unused: Any,
) -> tuple[torch.Tensor, None]:
    """Attend under an additive 4D mask whose first ``causal_places`` places are plainly causal.

    Those places go through the causal kernel, which skips the upper triangle and reads no mask; only
    the branches behind them pay for the mask. Shapes as transformers gives them: query (batch, heads,
    length, head_dim), key and value with their own number of heads.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    pieces = []
    if causal_places:
        front = (tensor[:, :, :causal_places] for tensor in (query, key, value))
        pieces.append(scaled_dot_product_attention(*front, dropout_p=dropout, scale=scaling, is_causal=True))
    if causal_places < query.shape[2]:
        back, mask = query[:, :, causal_places:], attention_mask[:, :, causal_places:]
        pieces.append(
            scaled_dot_product_attention(back, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling)
        )
    return torch.cat(pieces, dim=2).transpose(1, 2), None


AttentionInterface.register(TREE_ATTENTION, tree_attention)
