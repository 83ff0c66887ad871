"""Products of half-precision matrices on a CPU that has no instructions for them."""

import pytest
import torch
import torch.nn.functional as F

from model import products
from model.products import Linear


def outcome(linear, x_MD, product):
    """Output and gradients of input and weight, in float64."""
    leaves = x_MD.detach().requires_grad_(), linear.weight
    output = product(leaves[0])
    generator = torch.Generator().manual_seed(1)
    upstream = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    gradients = torch.autograd.grad(output, leaves, upstream.to(output.dtype))
    assert {x.dtype for x in (output, *gradients)} == {x_MD.dtype}
    return [x.double() for x in (output.detach(), *gradients)]


@pytest.mark.parametrize("multiplies_half", [True, False])
def test_bfloat16_products_are_no_worse_than_plain_ones(multiplies_half, monkeypatch):
    """Against float64: output and both gradients are rounded once, whatever the machine multiplies."""
    monkeypatch.setattr(products, "MULTIPLIES_HALF", multiplies_half)
    linear = Linear(256, 48).bfloat16()
    x_MD = torch.randn(300, 256).bfloat16()
    exact_linear = Linear(256, 48).double()
    exact_linear.weight = torch.nn.Parameter(linear.weight.detach().double())
    exact = outcome(exact_linear, x_MD.double(), exact_linear)
    plain = outcome(linear, x_MD, lambda x: F.linear(x, linear.weight))
    ours = outcome(linear, x_MD, linear)
    for truth, reference, found in zip(exact, plain, ours, strict=True):
        assert (found - truth).abs().max() <= 1.01 * (reference - truth).abs().max()


@pytest.mark.parametrize(
    ("capability", "fast"),
    [("AVX512", True), ("AVX2", False), ("DEFAULT", False), ("NO AVX", False), ("SVE256", False)],
)
def test_only_instructions_known_to_be_fast_count_as_fast(capability, fast):
    assert products.multiplies_half(capability) is fast


def test_float32_and_float64_are_left_as_they_are(monkeypatch):
    monkeypatch.setattr(products, "MULTIPLIES_HALF", False)
    for dtype in (torch.float32, torch.float64):
        x = torch.zeros(2, dtype=dtype)
        assert products.for_product(x) is x
