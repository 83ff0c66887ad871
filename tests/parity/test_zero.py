"""One optimizer step, however it is sharded, equals plain AdamW on one process.

Oracle: the same hybrid model, dense attention, `F.cross_entropy` over the whole global batch,
`torch.nn.utils.clip_grad_norm_` and `torch.optim.AdamW`. DeepSpeed computes in float32 at best, so
these are float32 comparisons; Adam's epsilon is large so that rounding of near-zero gradients does
not show in the weights.
"""

from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.batch import PackedBatch
from data.loader import GlobalBatch
from data.packing.spans import BatchShape, starts_of
from model.attention.core import choose_core
from model.config import ModelConfig
from model.initialization import initialize
from model.packed_layout import PackedLayout
from model.transformer import Transformer
from parallel.config import OptimizerConfig, ParallelConfig
from parallel.engine.optimizers import has_decay
from parallel.mesh import Mesh, start
from ranks import run_on_ranks
from tests.parity.engine_steps import small_configuration
from train.build_trainer import build_trainer
from train.schedule.rope_base import BaseCurve
from train.schedule.stages import Point, Stage
from train.step import optimizer_step
from train.trainer import Trainer

CPU = torch.device("cpu")
TOKENS = 64
MODEL = ModelConfig(
    hidden_size=24,
    intermediate_size=40,
    num_heads=2,
    num_kv_heads=1,
    head_dim=12,
    vocab_size=61,
    window=8,
)
OPTIMIZER = OptimizerConfig(epsilon=1e-4, weight_decay=0.2, gradient_clipping=0.5)
# Documents of one stream each: a long one, lengths of 1, padding without labels at the end.
LENGTHS = [(64,), (1, 1, 30, 32), (40, 24), (3, 61)]
STEPS = 3


def stream(step: int, row: int, labelled: int) -> PackedBatch:
    """One micro-batch whose labels stop after `labelled` tokens: streams hold unequal numbers of them."""
    generator = torch.Generator().manual_seed(100 * step + row)
    tokens_T = torch.randint(0, MODEL.vocab_size, (TOKENS,), generator=generator)
    targets_T = tokens_T.roll(-1)
    for end in torch.tensor(LENGTHS[row]).cumsum(0).tolist():
        targets_T[end - 1] = -100
    targets_T[labelled:] = -100
    valid = int((targets_T != -100).sum())
    lengths = LENGTHS[row]
    return PackedBatch(tokens_T, targets_T, lengths, starts_of(lengths), valid, 0, ())


def streams(step: int) -> list[PackedBatch]:
    # The last stream of the second step has no label at all.
    return [stream(step, row, [64, 50, 9, 0 if step == 1 else 33][row]) for row in range(4)]


def share(step: int, rank: int, ranks: int) -> GlobalBatch:
    everything = streams(step)
    mine = tuple(everything[rank::ranks])
    shape = BatchShape(TOKENS, 4 * TOKENS, TOKENS, (1.0,))
    return GlobalBatch(shape, mine, (sum(s.valid_tokens for s in everything),), 0, {})


def point() -> Point:
    shape = BatchShape(TOKENS, 4 * TOKENS, TOKENS, (1.0,))
    return Point(Stage("only", 0, 0, STEPS, shape, BaseCurve(((0, 1e4),)), None), 1e-2, 1e4, MODEL)


@pytest.fixture(autouse=True, scope="module")
def composed() -> None:
    """Before ranks are forked."""
    small_configuration()


def engine(mesh: Mesh, zero_stage: int, precision: str, **train: Any) -> Trainer:
    config = deepcopy(small_configuration())
    config.model = MODEL
    config.optimizer = OPTIMIZER
    config.parallel = ParallelConfig(zero_stage=zero_stage)
    config.train.precision = precision
    for key, value in train.items():
        setattr(config.train, key, value)
    return build_trainer(config, mesh, config.parallel, sequence_length=TOKENS)


def oracle() -> tuple[list[float], list[float], dict[str, Tensor]]:
    model = Transformer(MODEL, choose_core("dense", CPU, torch.float32))
    initialize(model, MODEL, seed=0)
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in model.named_parameters() if has_decay(n)], "weight_decay": 0.2},
        {
            "params": [p for n, p in model.named_parameters() if not has_decay(n)],
            "weight_decay": 0.0,
        },
    ]
    adam = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-4)
    losses, norms = [], []
    for step in range(STEPS):
        batch = streams(step)
        logits = [
            model.logits(model(b.tokens_T, PackedLayout.from_lengths(b.lengths, CPU), 1e4))
            for b in batch
        ]
        targets = torch.cat([b.targets_T for b in batch])
        loss = F.cross_entropy(torch.cat(logits), targets)
        adam.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.5)))
        losses.append(float(loss.detach()))
        adam.step()
    return losses, norms, {n: p.detach() for n, p in model.named_parameters()}


def steps(ranks: int, zero_stage: int, precision: str = "float32", **train: Any) -> Any:
    def work(rank: int, world_size: int) -> Any:
        mesh = start(CPU, 60)
        trained = engine(mesh, zero_stage, precision, **train)
        results = [
            optimizer_step(trained, mesh, share(s, rank, world_size), point=point(), stop=False)
            for s in range(STEPS)
        ]
        weights = {
            n: trained.engine.full_tensors(n)["weight"].clone()
            for n in trained.engine.parameters.named
        }
        return [r.loss for r in results], [r.gradient_norm for r in results], weights

    return run_on_ranks(work, ranks)[0]


@pytest.mark.parametrize(
    ("ranks", "zero_stage"), [(1, 0), (4, 0), (1, 1), (2, 1), (4, 1), (2, 2), (2, 3), (4, 3)]
)
def test_sharded_step_equals_one_process(ranks: int, zero_stage: int) -> None:
    losses, norms, weights = oracle()
    found_losses, found_norms, found_weights = steps(ranks, zero_stage)
    # float32: a few units in the last place over sums of some hundred terms.
    assert found_losses == pytest.approx(losses, rel=2e-6)
    assert found_norms == pytest.approx(norms, rel=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(found_weights[name], weight, rtol=1e-4, atol=2e-6, msg=name)


@pytest.mark.parametrize("keep", ["input", "input_on_cpu"])
def test_recomputation_changes_nothing(keep: str) -> None:
    plain = steps(2, 1)
    recomputed = steps(2, 1, keep_for_backward=keep)
    assert recomputed[:2] == plain[:2]
    assert all(torch.equal(recomputed[2][name], plain[2][name]) for name in plain[2])


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_bfloat16_stays_near_float32(zero_stage: int) -> None:
    losses, norms, _ = oracle()
    found_losses, found_norms, _ = steps(2, zero_stage, "bfloat16")
    # bfloat16 has 8 bits: 2^-8 = 4e-3 relative an operation, averaged over tokens.
    assert found_losses == pytest.approx(losses, rel=4e-3)
    assert found_norms == pytest.approx(norms, rel=4e-2)


@pytest.mark.parametrize(
    ("zero_stage", "precision"),
    [(0, "float32"), *((stage, p) for stage in (1, 2, 3) for p in ("float32", "bfloat16"))],
)
def test_a_loss_that_is_not_finite_on_one_rank_or_too_high_leaves_everything_untouched(
    zero_stage: int, precision: str
) -> None:
    def work(rank: int, world_size: int) -> Any:
        mesh = start(CPU, 60)
        trained = engine(mesh, zero_stage, precision)
        first = optimizer_step(trained, mesh, share(0, rank, 2), point=point(), stop=False)
        before = {n: trained.engine.full_tensors(n) for n in trained.engine.parameters.named}
        before = {n: {k: t.clone() for k, t in tensors.items()} for n, tensors in before.items()}
        bad = Point(point().stage, 1e-2, float("nan") if rank == 1 else 1e4, MODEL)
        spoilt = optimizer_step(trained, mesh, share(1, rank, 2), point=bad, stop=False)
        too_high = optimizer_step(
            trained,
            mesh,
            share(1, rank, 2),
            point=point(),
            stop=False,
            limit=first.loss / 2,
        )
        same = all(
            torch.equal(tensor, trained.engine.full_tensors(name)[kind])
            for name, tensors in before.items()
            for kind, tensor in tensors.items()
        )
        after = optimizer_step(trained, mesh, share(2, rank, 2), point=point(), stop=False)
        return (
            first.applied,
            spoilt.applied,
            spoilt.loss,
            too_high.applied,
            too_high.loss > first.loss / 2,
            same,
            trained.engine.optimizer_steps().most,
            after.applied,
            after.loss,
        )

    for (
        first,
        spoilt,
        loss,
        high,
        is_high,
        same,
        optimizer_steps,
        after,
        after_loss,
    ) in run_on_ranks(work, 2):
        assert (first, spoilt, high, after) == (True, False, False, True)
        assert loss != loss
        assert is_high
        assert same
        assert optimizer_steps == 2
        assert after_loss == after_loss


def test_gradients_of_ranks_and_micro_batches_add_up_in_float64() -> None:
    """The normalisation alone, without DeepSpeed's float32: every gradient to 1e-12."""
    model = Transformer(MODEL, choose_core("dense", CPU, torch.float64)).double()
    initialize(model, MODEL, seed=0)

    def gradients(batches: list[PackedBatch], valid: int) -> dict[str, Tensor]:
        model.zero_grad()
        for batch in batches:
            hidden_TD = model(batch.tokens_T, PackedLayout.from_lengths(batch.lengths, CPU), 1e4)
            (model.loss(hidden_TD, batch.targets_T, z_loss=1e-3).total / valid).backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    batch = streams(1)
    valid = sum(b.valid_tokens for b in batch)
    whole = gradients(batch, valid)

    def work(rank: int, world_size: int) -> dict[str, Tensor]:
        mine = gradients(batch[rank::world_size], valid)
        for gradient in mine.values():
            torch.distributed.all_reduce(gradient)
        return mine

    for ranks in (2, 4):
        for found in run_on_ranks(work, ranks):
            for name, gradient in whole.items():
                torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_bfloat16_gradients_are_accumulated_in_float32(zero_stage: int) -> None:
    """32 equal micro-batches give the gradient of one; summed in bfloat16 they would not, by 1e-2."""

    def norm(copies: int) -> float:
        def work(rank: int, world_size: int) -> float:
            mesh = start(CPU, 60)
            trained = engine(mesh, zero_stage, "bfloat16")
            one = stream(0, 0, 64)
            shape = BatchShape(TOKENS, copies * TOKENS, TOKENS, (1.0,))
            batch = GlobalBatch(shape, (one,) * copies, (copies * one.valid_tokens,), 0, {})
            result = optimizer_step(trained, mesh, batch, point=point(), stop=False)
            return result.gradient_norm

        return float(run_on_ranks(work, 1)[0])

    assert norm(32) == pytest.approx(norm(1), rel=1e-5)
