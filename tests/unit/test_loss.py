"""The chunked head loss against plain cross-entropy on whole logits, values and both gradients."""

import inspect
import math

import pytest
import torch
import torch.nn.functional as F

from data import batch
from model import loss as loss_module
from model.logits import IGNORE, Logits
from model.long_ce import ShortContext
from model.loss import ChunkedLoss


def problem(tokens=700, width=12, vocab=37, *, ignored=0.3, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocab, width, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, vocab, (tokens,), generator=generator)
    targets[torch.rand(tokens, generator=generator) < ignored] = IGNORE
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets


def oracle(hidden, weight, targets, logit_scale, z_loss, softcap=0.0):
    """Whole logits, torch's cross-entropy, and the z-loss as written."""
    logits = logit_scale * hidden @ weight.t()
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    loss_sum = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
    z_sum = logits.logsumexp(-1)[targets != IGNORE].square().sum()
    return loss_sum + z_loss * z_sum, loss_sum, z_sum


@pytest.mark.parametrize("tokens", [1, 255, 256, 257, 700])
@pytest.mark.parametrize(
    ("logit_scale", "z_loss", "softcap"),
    [(1.0, 0.0, 0.0), (0.25, 0.0, 0.0), (0.0625, 1e-2, 0.0), (2.0, 1e-2, 3.0)],
)
def test_equals_plain_cross_entropy_in_float64(tokens, logit_scale, z_loss, softcap):
    hidden, weight, targets = problem(tokens)
    targets[0] = 5
    sums = ChunkedLoss().sums(
        hidden, weight, targets, logits=Logits(logit_scale, softcap), z_loss=z_loss
    )
    total, loss_sum, z_sum = oracle(hidden, weight, targets, logit_scale, z_loss, softcap)
    scale = abs(loss_sum.item()) + abs(z_sum.item())
    for ours, theirs in ((sums.total, total), (sums.loss_sum, loss_sum), (sums.z_sum, z_sum)):
        assert abs(ours - theirs).item() <= 1e-12 * scale
    logits = Logits(logit_scale, softcap).of(hidden @ weight.t())
    each = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")
    torch.testing.assert_close(sums.losses_T, each, atol=1e-12, rtol=1e-12)
    assert not sums.losses_T.requires_grad
    # An arbitrary upstream scale, as mean over the global batch makes it.
    ours = torch.autograd.grad(sums.total * -0.37, (hidden, weight))
    theirs = torch.autograd.grad(total * -0.37, (hidden, weight))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


def short_context(losses_T, cap):
    """Losses with a short context that differ from the given ones by up to 3 nats, on both sides."""
    generator = torch.Generator().manual_seed(4)
    difference_T = 6 * torch.rand(len(losses_T), generator=generator, dtype=losses_T.dtype) - 3
    return ShortContext(losses_T + difference_T, cap)


@pytest.mark.parametrize("tokens", [1, 257, 700])
@pytest.mark.parametrize("logits", [Logits(0.25), Logits(2.0, 3.0)])
def test_weights_of_tokens_are_those_of_the_plain_formula_in_float64(tokens, logits):
    hidden, weight, targets = problem(tokens)
    targets[0] = 5
    whole = logits.of(hidden @ weight.t())
    losses_T = F.cross_entropy(whole, targets, ignore_index=IGNORE, reduction="none")
    short = short_context(losses_T.detach(), cap=5.0)
    w_T = torch.exp(short.losses_T - losses_T.detach()).clamp(max=5.0)
    z_sum = whole.logsumexp(-1)[targets != IGNORE].square().sum()
    weighted = (w_T * losses_T).sum()
    sums = ChunkedLoss().sums(hidden, weight, targets, logits=logits, z_loss=1e-2, short=short)
    assert sums.loss_sum.item() == pytest.approx(losses_T.sum().item(), rel=1e-12)
    assert sums.weighted_sum.item() == pytest.approx(weighted.item(), rel=1e-12)
    ours = torch.autograd.grad(sums.total, (hidden, weight))
    theirs = torch.autograd.grad(weighted + 1e-2 * z_sum, (hidden, weight))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


def test_equal_losses_with_both_contexts_change_no_bit_and_huge_differences_stay_finite():
    hidden, weight, targets = problem(dtype=torch.float32)
    plain = ChunkedLoss().sums(hidden, weight, targets, z_loss=1e-3)
    for losses_T, same in ((plain.losses_T, True), (plain.losses_T + 1e4, False)):
        short = ShortContext(losses_T, cap=5.0)
        found = ChunkedLoss().sums(hidden, weight, targets, z_loss=1e-3, short=short)
        assert torch.isfinite(found.total)
        assert torch.equal(found.total, plain.total) == same
        assert torch.equal(found.loss_sum, plain.loss_sum)


def test_the_parts_are_detached_and_the_total_is_not():
    sums = ChunkedLoss().sums(*problem(), z_loss=1e-4)
    assert sums.total.requires_grad
    assert not sums.loss_sum.requires_grad
    assert not sums.z_sum.requires_grad
    assert sums.total.item() == pytest.approx(sums.loss_sum.item() + 1e-4 * sums.z_sum.item())


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_nothing_valid_is_zero_with_zero_gradients(z_loss):
    hidden, weight, targets = problem(ignored=1.1)
    sums = ChunkedLoss().sums(hidden, weight, targets, z_loss=z_loss)
    assert (sums.total.item(), sums.z_sum.item()) == (0.0, 0.0)
    for gradient in torch.autograd.grad(sums.total, (hidden, weight)):
        assert torch.count_nonzero(gradient) == 0


def test_ignored_tokens_do_not_reach_the_weight():
    hidden, weight, targets = problem()
    with torch.no_grad():
        hidden[targets == IGNORE] = 1e6
    sums = ChunkedLoss().sums(hidden, weight, targets, z_loss=1e-2)
    d_hidden, d_weight = torch.autograd.grad(sums.total, (hidden, weight))
    keep = targets != IGNORE
    total, _, _ = oracle(hidden[keep], weight, targets[keep], 1.0, 1e-2)
    torch.testing.assert_close(
        d_weight, torch.autograd.grad(total, weight)[0], atol=1e-12, rtol=1e-12
    )
    assert torch.count_nonzero(d_hidden[~keep]) == 0


def test_uniform_logits_cost_the_logarithm_of_the_vocabulary():
    hidden, weight, targets = problem(ignored=0.0, vocab=64)
    sums = ChunkedLoss().sums(hidden * 0, weight, targets)
    assert sums.loss_sum.item() == pytest.approx(700 * math.log(64), rel=1e-14)
    assert sums.z_sum.item() == pytest.approx(700 * math.log(64) ** 2, rel=1e-14)


def test_huge_logits_do_not_overflow():
    hidden, weight, targets = problem(dtype=torch.float32)
    sums = ChunkedLoss().sums(hidden * 1e4, weight, targets)
    assert torch.isfinite(sums.total)


def test_only_the_gradient_that_is_wanted():
    hidden, weight, targets = problem()
    for frozen, free in ((hidden, weight), (weight, hidden)):
        frozen.requires_grad_(False)
        sums = ChunkedLoss().sums(hidden, weight, targets)
        (gradient,) = torch.autograd.grad(sums.total, free)
        frozen.requires_grad_(True)
        total, _, _ = oracle(hidden, weight, targets, 1.0, 0.0)
        torch.testing.assert_close(
            gradient, torch.autograd.grad(total, free)[0], atol=1e-12, rtol=1e-12
        )


def test_bfloat16_is_no_worse_than_plain_bfloat16():
    hidden, weight, targets = problem(tokens=2000, dtype=torch.bfloat16)
    exact_inputs = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    total, _, _ = oracle(*exact_inputs, targets, 1.0, 1e-3)
    exact = torch.autograd.grad(total, exact_inputs)
    logits = (hidden @ weight.t()).float()
    plain_total = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
    plain_total = plain_total + 1e-3 * logits.logsumexp(-1)[targets != IGNORE].square().sum()
    plain = torch.autograd.grad(plain_total, (hidden, weight))
    sums = ChunkedLoss().sums(hidden, weight, targets, z_loss=1e-3)
    assert sums.total.dtype == torch.float32
    ours = torch.autograd.grad(sums.total, (hidden, weight))
    for truth, reference, gradient in zip(exact, plain, ours, strict=True):
        assert gradient.dtype == torch.bfloat16
        error, reference_error = (g.double().sub(truth).norm() for g in (gradient, reference))
        assert error <= 2 * reference_error


def test_whole_logits_never_exist(monkeypatch):
    rows = []
    original = loss_module.chunk_in_place

    def counted(logits_CV, *arguments, **options):
        rows.append(len(logits_CV))
        return original(logits_CV, *arguments, **options)

    monkeypatch.setattr(loss_module, "chunk_in_place", counted)
    hidden, weight, targets = problem(tokens=1000)
    sums = ChunkedLoss().sums(hidden, weight, targets)
    assert rows == [256, 256, 256, 232]
    rows.clear()
    sums.total.backward()
    assert rows == []


@pytest.mark.parametrize("logits", [Logits(0.25), Logits(2.0, 1.5)])
@pytest.mark.parametrize("wants_gradient", [True, False])
@pytest.mark.parametrize("weighed", [True, False])
def test_the_formulas_for_a_compiler_are_those_that_run_in_place(weighed, wants_gradient, logits):
    torch.manual_seed(0)
    logits_CV = torch.randn(9, 33, dtype=torch.float64)
    targets_C = torch.tensor([0, 32, IGNORE, 5, 5, IGNORE, 31, 1, 2])
    options = {"logits": logits, "z_loss": 1e-2, "wants_gradient": wants_gradient}
    if weighed:
        options["short"] = short_context(torch.zeros(9, dtype=torch.float64), cap=2.0)
    at_once = loss_module.chunk_at_once(logits_CV, targets_C, **options)
    in_place = loss_module.chunk_in_place(logits_CV.clone(), targets_C, **options)
    for mine, theirs in list(zip(at_once, in_place, strict=True))[: 2 + wants_gradient]:
        torch.testing.assert_close(mine, theirs, atol=1e-14, rtol=0)


def test_without_gradients_the_values_are_the_same_and_no_graph_is_made():
    hidden, weight, targets = problem()
    with_graph = ChunkedLoss().sums(hidden, weight, targets, z_loss=1e-2)
    with torch.no_grad():
        without = ChunkedLoss().sums(hidden, weight, targets, z_loss=1e-2)
    assert without.total.grad_fn is None
    assert torch.equal(with_graph.total, without.total)
    assert torch.equal(with_graph.z_sum, without.z_sum)


def test_token_losses_sum_to_the_loss_and_are_zero_where_ignored():
    hidden, weight, targets = problem()
    losses = ChunkedLoss().per_token(hidden, weight, targets, logits=Logits(0.25))
    logits = 0.25 * hidden @ weight.t()
    expected = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")
    torch.testing.assert_close(losses, expected.detach(), atol=1e-12, rtol=0)
    assert torch.count_nonzero(losses[targets == IGNORE]) == 0
    assert not losses.requires_grad
    assert (
        ChunkedLoss().per_token(hidden.bfloat16(), weight.bfloat16(), targets).dtype
        == torch.float32
    )


def test_a_target_without_a_label_is_the_packers_and_torchs() -> None:
    assert (
        IGNORE
        == batch.IGNORE
        == inspect.signature(F.cross_entropy).parameters["ignore_index"].default
    )
