"""A model cut over tensor ranks gives the loss and every gradient of the whole model.

Oracle: the single-device Transformer with dense attention, in float64, same seed. What ranks hold is put
together to the logical parameter, so a wrong slice, a missing sum and a sum too many all show.
"""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight

from model import logits
from model.attention.core import AttentionCore, choose_core
from model.config import ModelConfig
from model.initialization import initialize
from model.layer_pattern import KindConfig
from model.logits import IGNORE
from model.packed_layout import PackedLayout
from model.transformer import Transformer
from parallel.mesh import AxisGroup, start
from parallel.tensor.apply import cut_model, initialise_cut
from parallel.tensor.cut import cut_of
from parallel.tensor.gradients import mark_owners, sum_replicated_gradients
from parallel.tensor.vocabulary import VocabularyParallelEmbedding
from parallel.topology import Topology
from ranks import run_on_ranks

CPU = torch.device("cpu")
BASE = 1e4
MODEL = ModelConfig(
    num_layers=2,
    hidden_size=20,
    intermediate_size=36,
    num_heads=12,
    num_kv_heads=12,
    head_dim=4,
    vocab_size=60,
    window=6,
    layer_pattern=["window_rope", "full_nope"],
    qk_norm=True,
    tie_embeddings=False,
    logit_scale=0.5,
    init_std=0.3,
)
# Documents of length 1, one over all ranks, padding without labels. 84 tokens: 42, 28 and 21 a rank,
# which four pieces do not divide.
LENGTHS = (1, 5, 60, 1, 9, 8)
TOKENS = sum(LENGTHS)


@dataclass(frozen=True)
class Found:
    """What one process knows after a backward; weights and gradients by name."""

    sums: tuple[float, float]
    token_losses_T: Tensor
    # Predicted ids and ranks of targets: see model/predictions.py. Then the same where all logits are equal.
    predictions_4T: Tensor
    weights: dict[str, Tensor]
    gradients: dict[str, Tensor]
    # Rows of the residual stream that layers were given.
    rows: set[int]


def stream() -> tuple[Tensor, Tensor, PackedLayout]:
    generator = torch.Generator().manual_seed(3)
    tokens_T = torch.randint(0, MODEL.vocab_size, (TOKENS,), generator=generator)
    targets_T = tokens_T.roll(-1)
    targets_T[torch.tensor(LENGTHS).cumsum(0) - 1] = IGNORE
    targets_T[-LENGTHS[-1] :] = IGNORE
    return tokens_T, targets_T, PackedLayout.from_lengths(LENGTHS)


def measured(model: Transformer, z_loss: float) -> Found:
    tokens_T, targets_T, layout = stream()
    rows: set[int] = set()
    for block in model.layers.values():
        block.register_forward_pre_hook(lambda _, args: rows.add(len(args[0])))
    hidden_TD = model(tokens_T, layout, BASE)
    sums = model.loss(hidden_TD, targets_T, z_loss)
    # An upstream scale, as the mean over the global batch makes it.
    (sums.total * 0.37).backward()
    losses_T = model.token_losses(hidden_TD, targets_T)
    tolerance = (
        1e-12 if losses_T.dtype == torch.float64 else 1e-6
    )  # a unit in the last place of float32
    torch.testing.assert_close(sums.losses_T, losses_T, atol=tolerance, rtol=0)
    predicted = model.predictions(hidden_TD, targets_T)
    torch.testing.assert_close(predicted.losses_T, losses_T, atol=tolerance, rtol=0)
    return Found(
        (float(sums.loss_sum), float(sums.z_sum)),
        losses_T,
        torch.stack(
            [
                *predicted.tensors()[:2],
                *model.predictions(torch.zeros_like(hidden_TD), targets_T).tensors()[:2],
            ]
        ),
        {name: p.detach().clone() for name, p in model.named_parameters()},
        {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
        rows,
    )


def whole_model(config: ModelConfig) -> Transformer:
    model = Transformer(config, core_of(config))
    initialize(model, config, seed=0)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.data.copy_(vector(name, len(parameter)))
    return model.double()


def core_of(config: ModelConfig) -> AttentionCore:
    return choose_core("dense", CPU, torch.float64, softcap=config.attention_softcap)


def vector(name: str, size: int) -> Tensor:
    """What a norm's weight, a bias or sinks could be after training: never all alike, or zero."""
    around = 1.0 if "norm" in name else 0.0
    return around + 0.4 * torch.sin(torch.arange(size) * 1.7 + len(name))


def cut_transformer(config: ModelConfig, group: AxisGroup, **parts: Any) -> Transformer:
    """As a run makes it: built and cut on the meta device, filled by name."""
    with torch.device("meta"):
        model = Transformer(config, core_of(config), **parts)
    cut_model(model, group)
    model.to_empty(device="cpu")
    for name, parameter in model.named_parameters():
        initialise_cut(name, parameter, config, 0, group)
        if parameter.dim() == 1:
            cut = cut_of(name, config, group.rank, group.size)
            (size,) = cut.full_shape(tuple(parameter.shape))
            parameter.data.copy_(vector(name, size)[cut.part((size,))])
    model.double()
    sum_replicated_gradients(model, group)
    mark_owners(model, group)
    return model


def put_together(parts: list[Tensor], name: str, config: ModelConfig) -> list[Tensor]:
    """The logical tensor, once from every set of replicas."""
    cut = cut_of(name, config, 0, len(parts))
    return [torch.cat(parts[r :: cut.replicas], cut.dim) for r in range(cut.replicas)][: len(parts)]


def whole(parts: list[Tensor], name: str, config: ModelConfig) -> Tensor:
    """The logical tensor; replicas must agree in every bit, or they would drift apart."""
    first, *others = put_together(parts, name, config)
    assert all(torch.equal(first, other) for other in others), name
    return first


def close(found: Tensor, truth: Tensor, name: str) -> None:
    error = float((found - truth).norm() / truth.norm())
    assert error <= 1e-12, f"{name}: {error:.1e}"


# What imported models bring.
IMPORTED = {
    "block": "sequential",
    "norm": "rmsnorm",
    "qk_norm_over": "projection",
    "qkv_bias": True,
    "output_bias": True,
    "feed_forward_bias": True,
    "sinks": True,
    "attention_softcap": 2.0,
    "logit_softcap": 3.0,
    "query_scale": 1.5,
    "embedding_scale": 4.0,
}
GATED = {
    "gate": "sigmoid",
    "kinds": {
        "window_rope": KindConfig(sinks=True, gate_over="channel", qk_norm_at="after"),
        "full_nope": KindConfig(gate="softplus", value_scale=0.7, qk_norm_weight=False),
    },
}
CASES: dict[str, tuple[int, dict[str, Any], float]] = {
    "2 ranks": (2, {"norm": "rmsnorm"}, 0.0),
    "2 ranks, sequential, tied": (2, {"block": "sequential", "tie_embeddings": True}, 1e-2),
    "2 ranks, one key head": (2, {"tie_embeddings": True, "num_kv_heads": 1}, 1e-2),
    "3 ranks": (3, {"num_kv_heads": 3, "norm": "rmsnorm"}, 1e-3),
    "3 ranks, one key head, sequential": (3, {"num_kv_heads": 1, "block": "sequential"}, 0.0),
    "4 ranks, two key heads": (4, {"num_kv_heads": 2, "tie_embeddings": True}, 1e-3),
    "4 ranks, one key head, sequential": (4, {"num_kv_heads": 1, "block": "sequential"}, 1e-3),
    "4 ranks, heads not normed": (4, {"num_kv_heads": 2, "qk_norm": False}, 0.0),
    "2 ranks, as OLMo": (
        2,
        {**IMPORTED, "num_kv_heads": 4, "norm_at": "after", "residual_scale": 0.3},
        1e-3,
    ),
    "3 ranks, as Gemma": (
        3,
        {**IMPORTED, "num_kv_heads": 1, "norm": "rmsnorm_plus_one", "norm_at": "both"},
        0.0,
    ),
    "4 ranks, as gpt-oss": (
        4,
        {**IMPORTED, "num_kv_heads": 2, "activation": "clamped_silu", "attention_softcap": 0.0},
        1e-3,
    ),
    "2 ranks, gated": (2, {**GATED, "num_kv_heads": 1}, 0.0),
    "4 ranks, gated, norms of rotated projections": (
        4,
        {**IMPORTED, **GATED, "sinks": False, "num_kv_heads": 2},
        0.0,
    ),
    "2 ranks, parallel, biases": (
        2,
        {
            "qkv_bias": True,
            "output_bias": True,
            "feed_forward_bias": True,
            "sinks": True,
            "residual_scale": 0.7,
        },
        0.0,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_loss_and_every_gradient_are_those_of_one_process(case, monkeypatch) -> None:
    size, changes, z_loss = CASES[case]
    config = replace(MODEL, **changes)
    truth = measured(whole_model(config), z_loss)
    monkeypatch.setattr(logits, "_CPU_ROWS", 24)  # several chunks, the last one short

    def work(rank: int, world_size: int) -> list[Found]:
        mesh = start(CPU, 60, Topology(tensor=world_size))
        found = []
        for kept in ("everything", "input"):
            model = cut_transformer(config, mesh.tensor)
            model.keep_for_backward(kept)
            found.append(measured(model, z_loss))
        return found

    for found in zip(*run_on_ranks(work, size), strict=True):
        for one in found:
            assert one.sums == pytest.approx(truth.sums, rel=1e-12)
            assert one.sums == found[0].sums
            torch.testing.assert_close(one.token_losses_T, truth.token_losses_T, rtol=0, atol=1e-12)
            assert torch.equal(one.predictions_4T, truth.predictions_4T)
            assert one.gradients.keys() == truth.gradients.keys()
            assert one.rows == {TOKENS // size}
        for name, gradient in truth.gradients.items():
            weights = [one.weights[name] for one in found]
            assert torch.equal(whole(weights, name, config), truth.weights[name]), name
            close(whole([one.gradients[name] for one in found], name, config), gradient, name)


def test_stages_of_a_pipeline_hand_the_cut_stream_on() -> None:
    config = replace(MODEL, num_kv_heads=1)
    truth = measured(whole_model(config), 0.0)

    def work(rank: int, world_size: int) -> tuple[float, dict[str, Tensor]]:
        group = start(CPU, 60, Topology(tensor=world_size)).tensor
        first = cut_transformer(config, group, layer_indices=[0], has_head=False)
        middle = cut_transformer(
            config, group, layer_indices=[1], has_embedding=False, has_head=False
        )
        last = cut_transformer(config, group, layer_indices=[], has_embedding=False)
        tokens_T, targets_T, layout = stream()
        x_TD = first(tokens_T, layout, BASE)
        assert x_TD.shape == (TOKENS // world_size, config.hidden_size)
        sums = last.loss(last(middle(x_TD, layout, BASE), layout, BASE), targets_T)
        (sums.total * 0.37).backward()
        stages = (first, middle, last)
        gradients = {n: p.grad for stage in stages for n, p in stage.named_parameters()}
        return float(sums.loss_sum), gradients

    found = run_on_ranks(work, 2)
    assert found[0][0] == pytest.approx(truth.sums[0], rel=1e-12)
    for name, gradient in truth.gradients.items():
        close(whole([gradients[name] for _, gradients in found], name, config), gradient, name)


@pytest.mark.parametrize("block", ["parallel", "sequential"])
def test_a_zero_bubble_pipeline_sums_replicated_gradients_once_and_late(block: str) -> None:
    """It asks for the input's gradient first and for those of the weights later, by `autograd.grad`."""
    config = replace(MODEL, num_kv_heads=1, block=block)

    def work(rank: int, world_size: int) -> Any:
        group = start(CPU, 60, Topology(tensor=world_size)).tensor
        generator = torch.Generator().manual_seed(rank)
        x_TD, dy_TD = torch.randn(2, TOKENS // world_size, 20, generator=generator).double()
        results, calls = [], []
        for split in (False, True):
            model = cut_transformer(config, group, has_embedding=False, has_head=False)
            input_TD = x_TD.clone().requires_grad_()
            output_TD = model(input_TD, stream()[2], BASE)
            if split:
                for name, parameter in model.named_parameters():
                    parameter.register_hook(lambda _, name=name: calls.append(name))
                _, groups = stage_backward_input(
                    [output_TD], [dy_TD], [input_TD], model.parameters()
                )
                assert calls == []
                stage_backward_weight(model.parameters(), groups)
            else:
                output_TD.backward(dy_TD)
            gradients = {name: p.grad for name, p in model.named_parameters()}
            results.append({"input": input_TD.grad} | gradients)
        assert sorted(calls) == sorted(gradients)
        return results

    for together, split in run_on_ranks(work, 2):
        for name, gradient in together.items():
            torch.testing.assert_close(split[name], gradient, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(("size", "heads"), [(2, 12), (4, 2), (3, 1)])
def test_the_norm_counts_every_part_on_exactly_one_rank(size: int, heads: int) -> None:
    config = replace(MODEL, num_kv_heads=heads)
    truth = dict(whole_model(config).named_parameters())

    def work(rank: int, world_size: int) -> dict[str, int]:
        model = cut_transformer(config, start(CPU, 60, Topology(tensor=world_size)).tensor)
        counted = {
            n: p.numel() * p.tensor_model_parallel  # type: ignore[attr-defined]
            for n, p in model.named_parameters()
        }
        # DeepSpeed counts what is not marked on rank 0 too: there must be nothing of the kind.
        assert rank or all(counted.values())
        return counted

    found = run_on_ranks(work, size)
    for name, parameter in truth.items():
        assert sum(counted[name] for counted in found) == parameter.numel(), name


def test_bfloat16_is_no_worse_than_bfloat16_on_one_process() -> None:
    config = replace(MODEL, num_kv_heads=2)
    # The truth computes in float64 with the weights that bfloat16 has.
    truth = measured(whole_model(config).bfloat16().double(), 1e-3)
    plain = measured(whole_model(config).bfloat16(), 1e-3)

    def work(rank: int, world_size: int) -> Found:
        group = start(CPU, 60, Topology(tensor=world_size)).tensor
        return measured(cut_transformer(config, group).bfloat16(), 1e-3)

    found = run_on_ranks(work, 4)

    def error(gradients: dict[str, Tensor]) -> float:
        each = [(gradients[n].double() - g).norm() / g.norm() for n, g in truth.gradients.items()]
        return float(torch.stack(each).mean())

    joined = {n: whole([one.gradients[n] for one in found], n, config) for n in truth.gradients}
    assert error(joined) <= 2 * error(plain.gradients)
    errors = [float((f.token_losses_T - truth.token_losses_T).norm()) for f in (found[0], plain)]
    assert errors[0] <= 2 * errors[1]


@pytest.mark.parametrize("token", [60, 119, 10_000, -1])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_an_id_beyond_the_vocabulary_is_refused_as_one_process_refuses_it(
    rank: int, token: int
) -> None:
    tokens_T = torch.tensor([0, 59, token, 7])
    with pytest.raises(IndexError, match="out of range"):
        torch.nn.functional.embedding(tokens_T, torch.zeros(60, 3))
    weight_VD = torch.nn.Parameter(torch.zeros(20, 3))
    group: Any = SimpleNamespace(rank=rank, size=3)  # it raises before ranks meet
    with pytest.raises(IndexError, match="out of range"):
        VocabularyParallelEmbedding(weight_VD, group)(tokens_T)
