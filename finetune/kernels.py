"""The places where training time goes, written for one long row on few cores.

A LoRA layer and a norm that never leave the weights' dtype, and attention in large matrix products.
Knows nothing of peft, rows or optimizers.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

TREE_ATTENTION = "ragtune_tree"
"""Name of ``tree_attention`` for ``attn_implementation=``."""

_BLOCK = 256
"""Queries in a block: of 128 to 800 the fastest for rows of 950 tokens on one AMX core."""


class LowRankLinear(torch.autograd.Function):
    """``x @ weight.T + bias + scale * (x @ a.T) @ b.T`` with a frozen weight.

    a and b may be float32 while x and weight are bfloat16: they are rounded for the products, their
    gradients come back in float32, and x is never converted, which stock LoRA layers do both ways.
    """

    @staticmethod
    def forward(  # noqa: PLR0917  (autograd passes positions)
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


class BlockAttention(torch.autograd.Function):
    """Causal attention under an additive mask on the CPU, a block of queries at a time.

    Each block meets only the keys up to its end, so the upper triangle is mostly skipped, and the
    products are large matrix products, which the CPU's matrix units do well; torch's own CPU kernel
    is 1.6 times slower here (its backward pass above all). Keeps the attention weights for the
    backward pass: layers * heads * length**2 / 2 numbers.
    """

    @staticmethod
    def forward(  # noqa: PLR0917  (autograd passes positions)
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Attend; query (n, groups, length, d), key and value (n, length, d), mask (n, 1, length, length)."""
        n, groups, length, d = query.shape
        scaled = query * scale
        out = torch.empty_like(query)
        weights = []
        for a, b in _blocks(length):
            scores = torch.bmm(scaled[:, :, a:b].reshape(n, -1, d), key[:, :b].transpose(1, 2))
            scores.view(n, groups, b - a, b).add_(mask[:, :, a:b, :b])
            weights.append(torch.softmax(scores, dim=-1))
            out[:, :, a:b] = torch.bmm(weights[-1], value[:, :b]).view(n, groups, b - a, d)
        ctx.save_for_backward(scaled, key, value, *weights)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of query, key and value."""
        scaled, key, value, *weights = ctx.saved_tensors
        n, groups, length, d = scaled.shape
        to_query = torch.empty_like(scaled)
        to_key = torch.zeros_like(key, dtype=torch.float32)
        to_value = torch.zeros_like(value, dtype=torch.float32)
        for (a, b), weight in zip(_blocks(length), weights, strict=True):
            gradient = gradients[0][:, :, a:b].reshape(n, -1, d)
            to_value[:, :b] += torch.bmm(weight.transpose(1, 2), gradient)
            to_weight = torch.bmm(gradient, value[:, :b].transpose(1, 2))
            # Of softmax: weight * (gradient - its mean under weight).
            to_score = torch._softmax_backward_data(to_weight, weight, -1, weight.dtype)
            to_query[:, :, a:b] = torch.bmm(to_score, key[:, :b]).view(n, groups, b - a, d)
            to_key[:, :b] += torch.bmm(to_score.transpose(1, 2), scaled[:, :, a:b].reshape(n, -1, d))
        return to_query.mul_(ctx.scale), to_key.to(key.dtype), to_value.to(value.dtype), None, None


class FrozenNorm(torch.autograd.Function):
    """RMS normalization with a frozen weight, whose backward pass stays in the activations' dtype."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """Normalize the last dimension of x in float32, as transformers does."""
        exact = x.float()
        inverse = torch.rsqrt(exact.square().mean(-1, keepdim=True) + epsilon)
        normal = exact.mul_(inverse).to(x.dtype) if x.dtype != torch.float32 else exact * inverse
        ctx.save_for_backward(normal, inverse.to(x.dtype), weight)
        return normal * weight

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradient of x."""
        normal, inverse, weight = ctx.saved_tensors
        gradient = gradients[0] * weight
        along = (gradient * normal).mean(-1, keepdim=True, dtype=torch.float32).to(normal.dtype)
        return gradient.addcmul_(normal, along, value=-1).mul_(inverse), None, None


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + _BLOCK, length)) for start in range(0, length, _BLOCK)]


def tree_attention(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_unused: Any,
) -> tuple[torch.Tensor, None]:
    """Attend under an additive 4D mask that lets nobody see forward.

    Shapes as transformers gives them: query (batch, heads, length, head_dim), key and value with
    their own number of heads; returns (batch, length, heads, head_dim).
    """
    batch, heads, length, width = query.shape
    groups = heads // key.shape[1]
    scale = width**-0.5 if scaling is None else scaling
    if query.device.type == "cpu" and not dropout:
        masks = attention_mask if batch == 1 else attention_mask.repeat_interleave(key.shape[1], dim=0)
        split = query.reshape(-1, groups, length, width)
        out = _apply(BlockAttention, split, key.flatten(0, 1), value.flatten(0, 1), masks, scale)
        return out.view(batch, heads, length, width).transpose(1, 2), None
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    out = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scale)
    return out.transpose(1, 2), None


def speed_up_norms(model: torch.nn.Module) -> None:
    """Let the RMS norms of a frozen Llama, Qwen2 or Qwen3 model compute through ``FrozenNorm``."""
    for module in model.modules():
        if isinstance(module, LlamaRMSNorm | Qwen2RMSNorm | Qwen3RMSNorm):
            module.forward = partial(_normalize, module)


def _normalize(norm: Any, x: torch.Tensor) -> torch.Tensor:
    return _apply(FrozenNorm, x, norm.weight, norm.variance_epsilon)


def low_rank_linear(
    x: torch.Tensor, base: torch.nn.Linear, a: torch.Tensor, b: torch.Tensor, scale: float
) -> torch.Tensor:
    """Return ``base(x) + scale * (x @ a.T) @ b.T``; x (..., in), a (r, in), b (out, r)."""
    return _apply(LowRankLinear, x, base.weight, base.bias, a, b, scale)


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> torch.Tensor:
    result: torch.Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


AttentionInterface.register(TREE_ATTENTION, tree_attention)
