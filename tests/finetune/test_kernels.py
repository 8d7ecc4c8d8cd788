"""The fast layers compute what torch's and transformers' own compute, gradients included."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from finetune.kernels import low_rank_linear, speed_up_norms, tree_attention

pytestmark = pytest.mark.slow


def gradients(compute: Callable[[], torch.Tensor], inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The result, and the gradients of a weighted sum of it."""
    result = compute()
    weights = torch.linspace(-1, 1, result.numel()).view(result.shape)
    return [result, *torch.autograd.grad((result.float() * weights).sum(), inputs)]


def assert_close(ours: list[torch.Tensor], theirs: list[torch.Tensor], tolerance: float) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        error = (one.float() - other.float()).norm()
        assert error < tolerance * (other.float().norm() + 1)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("length", [1, 200, 256, 600])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_tree_attention_is_masked_attention(batch: int, length: int, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    query = torch.randn(batch, 6, length, 16, dtype=dtype, requires_grad=True)
    key, value = (torch.randn(batch, 2, length, 16, dtype=dtype, requires_grad=True) for _ in range(2))
    later = torch.ones(length, length).triu(1).bool()
    hidden = (later | (torch.rand(batch, 1, length, length) < 0.5)) & ~torch.eye(length).bool()
    mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)
    module = torch.nn.Module()

    def stock() -> torch.Tensor:
        wide = (tensor.float().repeat_interleave(3, dim=1) for tensor in (key, value))
        out = scaled_dot_product_attention(query.float(), *wide, attn_mask=mask.float(), scale=0.3)
        return out.transpose(1, 2)

    ours = gradients(lambda: tree_attention(module, query, key, value, mask, scaling=0.3)[0], [query, key, value])
    assert_close(ours, gradients(stock, [query, key, value]), tolerance)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_low_rank_linear_is_a_linear_layer_with_its_update(bias: bool, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    base = torch.nn.Linear(24, 40, bias=bias).to(dtype).requires_grad_(False)
    a, b = torch.randn(4, 24, requires_grad=True), torch.randn(40, 4, requires_grad=True)
    x = torch.randn(2, 7, 24, dtype=dtype, requires_grad=True)

    def stock() -> torch.Tensor:
        return base.float()(x.float()) + 0.7 * (x.float() @ a.t()) @ b.t()

    ours = gradients(lambda: low_rank_linear(x, base, a, b, 0.7), [x, a, b])
    assert [tensor.dtype for tensor in ours] == [dtype, dtype, torch.float32, torch.float32]
    assert_close(ours, gradients(stock, [x, a, b]), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_a_sped_up_norm_is_the_norm(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(LlamaRMSNorm(32, eps=1e-5)).requires_grad_(False).to(dtype)
    torch.nn.init.uniform_(model[0].weight, 0.5, 1.5)
    x = (3 * torch.randn(2, 5, 32)).to(dtype).requires_grad_()
    stock = gradients(lambda: model(x), [x])
    speed_up_norms(model)
    ours = gradients(lambda: model(x), [x])
    assert ours[0].equal(stock[0])
    assert ours[1].dtype == dtype
    assert_close(ours, stock, tolerance)
