"""Norms against their formulas, and the precision of their statistics."""

import pytest
import torch

from model.norm import HeadsNorm, build_norm


def formula(kind, x, weight, eps):
    if kind == "layernorm":
        x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


@pytest.mark.parametrize("kind", ["layernorm", "rmsnorm"])
def test_equals_the_formula_in_float64(kind):
    torch.manual_seed(0)
    norm = build_norm(kind, 24, 1e-5).double()
    norm.weight.data.normal_()
    x = torch.randn(7, 3, 24, dtype=torch.float64, requires_grad=True)
    out = norm(x)
    expected = formula(kind, x, norm.weight, 1e-5)
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)
    upstream = torch.randn_like(out)
    ours = torch.autograd.grad(out, (x, norm.weight), upstream)
    theirs = torch.autograd.grad(expected, (x, norm.weight), upstream)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", ["layernorm", "rmsnorm", "rmsnorm_plus_one"])
def test_every_head_is_normalised_by_itself_with_its_own_weights(kind):
    torch.manual_seed(0)
    norm = HeadsNorm(kind, 3, 8, 1e-5).double()
    norm.weight.data.normal_()
    x = torch.randn(7, 3, 8, dtype=torch.float64, requires_grad=True)
    weight = norm.weight + 1.0 if kind == "rmsnorm_plus_one" else norm.weight
    out, expected = norm(x), torch.empty(7, 3, 8, dtype=torch.float64)
    for head in range(3):
        expected[:, head] = formula(kind, x[:, head], weight[head], 1e-5)
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)
    upstream = torch.randn_like(out)
    ours, theirs = (torch.autograd.grad(y, (x, norm.weight), upstream) for y in (out, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", ["layernorm", "rmsnorm"])
def test_bfloat16_is_only_rounded_at_the_end(kind):
    # A large common offset makes the variance vanish if it is summed in bfloat16.
    torch.manual_seed(1)
    norm = build_norm(kind, 512, 1e-5).bfloat16()
    x = (torch.randn(4, 512) + 100).bfloat16()
    assert norm(x).dtype == torch.bfloat16
    exact = formula(kind, x.double(), norm.weight.double(), 1e-5)
    assert torch.equal(norm(x), exact.float().bfloat16())


@pytest.mark.parametrize("kind", ["layernorm", "rmsnorm"])
def test_has_a_weight_and_no_bias(kind):
    assert [name for name, _ in build_norm(kind, 8, 1e-5).named_parameters()] == ["weight"]
