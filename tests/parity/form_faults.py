"""Faults of gates, sinks, norms and scales of attention, planted as those of `faults.py`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from model.attention.gate import gated
from model.attention.layer import Attention
from model.attention.sinks import with_sinks
from model.block import ParallelBlock
from model.config import ModelConfig
from model.parameters import Role, role_of
from parallel.mesh import Mesh
from parallel.parallelize import LocalModel
from parallel.tensor.cut import key_heads
from tests.parity import test_layouts
from tests.parity.faults import Fault, Patch, cut_otherwise
from tests.parity.layout_cases import Case


def _summed(patch: Patch, name_part: str) -> None:
    """Tensor ranks hold different heads, and one adds the gradients of the other's to its own."""

    def wrongly(name: str) -> Role:
        role = role_of(name)
        return replace(role, summed=True) if name_part in name else role

    cut_otherwise(patch, name_part, replicas=2)
    patch.setattr("parallel.tensor.gradients.role_of", wrongly)


def _built(patch: Patch, change: Callable[[list[Attention], Mesh], None]) -> None:
    """`change` gets the attention of every layer of this rank, in order."""

    def wrongly(case: Case, mesh: Mesh) -> LocalModel:
        local = _BUILD(case, mesh)
        change([m for s in local.stages for m in s.modules() if isinstance(m, Attention)], mesh)
        return local

    patch.setattr("tests.parity.test_layouts.build", wrongly)


_BUILD = test_layouts.build


# Gates.


def gate_is_made_of_the_residual_stream(patch: Patch) -> None:
    """Of the block's input before its norm."""
    real = ParallelBlock.before

    def before(block: ParallelBlock, x_TD: Tensor, *more: Any) -> Any:
        q, k, v, gate_TW, r_TD = real(block, x_TD, *more)
        proj = block.attention.gate_proj or block.attention.head_gate_proj
        return q, k, v, gate_TW if proj is None else proj(x_TD), r_TD

    patch.setattr(ParallelBlock, "before", before)


def gate_is_that_of_the_next_head(patch: Patch) -> None:
    def wrongly(o_TD: Tensor, product_TW: Tensor, gate: str) -> Tensor:
        heads = product_TW.view(len(product_TW), 2, -1)  # two heads on a rank
        return gated(o_TD, heads.roll(1, 1).flatten(1), gate)

    patch.setattr("model.attention.layer.gated", wrongly)


def gate_multiplies_after_the_projection_on_one_rank(patch: Patch) -> None:
    """Its mean: there are no heads any more."""

    def change(layers: list[Attention], mesh: Mesh) -> None:
        if mesh.tensor.rank == 1:
            patch.setattr(Attention, "output", after)

    def after(layer: Attention, o_TD: Tensor, gate_TW: Tensor | None) -> Tensor:
        y_TD: Tensor = layer.o_proj(o_TD)
        if gate_TW is None:
            return y_TD
        ones_TD = o_TD.new_ones(o_TD.shape)
        return y_TD * gated(ones_TD, gate_TW, layer.gate).mean(dim=1, keepdim=True)

    _built(patch, change)


def gate_gradients_of_other_heads_are_added(patch: Patch) -> None:
    _summed(patch, "attention.gate_proj")


def head_gates_of_one_rank_are_missing_in_the_norm(patch: Patch) -> None:
    cut_otherwise(patch, "head_gate_proj", is_owner=False)


# Sinks.


def sinks_are_those_of_another_kind(patch: Patch) -> None:
    def change(layers: list[Attention], mesh: Mesh) -> None:
        first, other = layers[0], layers[1]
        first.sinks, other.sinks = other.sinks, first.sinks

    _built(patch, change)


def sinks_enter_the_softmax_with_every_part(patch: Patch) -> None:
    """Of a ring layer: two parts, two sinks."""

    def twice(o_THK: Tensor, lse_TH: Tensor, sinks_H: Tensor | None) -> tuple[Tensor, Tensor]:
        return with_sinks(*with_sinks(o_THK, lse_TH, sinks_H), sinks_H)

    patch.setattr("parallel.sequence.ring.with_sinks", twice)


def sinks_gradients_of_other_heads_are_added(patch: Patch) -> None:
    _summed(patch, "sinks")


def sinks_of_one_rank_are_missing_in_the_norm(patch: Patch) -> None:
    cut_otherwise(patch, "sinks", is_owner=False)


# Norms of queries and keys, scale of values.


def projections_are_normalised_before_the_rotation(patch: Patch) -> None:
    """With weights of one the loss is right; the gradients of the weights are those of other channels."""

    def change(layers: list[Attention], mesh: Mesh) -> None:
        for layer in layers:
            layer.normalises_rotated = False

    _built(patch, change)


def values_are_not_scaled_on_one_rank(patch: Patch) -> None:
    def change(layers: list[Attention], mesh: Mesh) -> None:
        for layer in layers if mesh.tensor.rank == 1 else ():
            layer.value_scale = 1.0

    _built(patch, change)


def additions_to_the_stream_are_not_scaled_on_one_rank(patch: Patch) -> None:
    def wrongly(case: Case, mesh: Mesh) -> LocalModel:
        local = _BUILD(case, mesh)
        for layer in (layer for stage in local.stages for layer in stage.layers.values()):
            if mesh.tensor.rank == 1:
                layer.residual_scale = 1.0
        return local

    patch.setattr("tests.parity.test_layouts.build", wrongly)


# Static gates, FoPE.


def static_gate_gradients_of_ranks_are_not_summed(patch: Patch) -> None:
    """Every rank holds the whole gate and computes the gradient by way of its own heads."""
    cut_otherwise(patch, "static_gate", replicas=1)


def series_are_those_of_the_first_groups_on_every_rank(patch: Patch) -> None:
    def from_zero(config: ModelConfig, rank: int, size: int) -> range:
        return range(len(key_heads(config, rank, size)))

    patch.setattr("parallel.tensor.apply.key_heads", from_zero)


TENSOR = Case(2, 1, 1, 1, "-", "-", 1, "gated", "everything")
STATIC = Case(2, 1, 1, 1, "-", "-", 1, "static", "everything")
FOURIER = Case(2, 1, 1, 1, "-", "-", 1, "fourier", "everything")
NORMED = Case(2, 1, 1, 1, "-", "-", 1, "normed", "everything")
SEQUENCE = Case(1, 1, 2, 1, "-", "zigzag", 2, "gated", "everything")
FORM_FAULTS = (
    Fault(gate_is_made_of_the_residual_stream, SEQUENCE, False, "loss", "valid tokens"),
    Fault(gate_is_that_of_the_next_head, TENSOR, False, "loss", "valid tokens"),
    Fault(gate_multiplies_after_the_projection_on_one_rank, TENSOR, False, "loss", "valid tokens"),
    Fault(gate_gradients_of_other_heads_are_added, TENSOR, False, "gate_proj", "loss|[qkvo]_proj"),
    Fault(head_gates_of_one_rank_are_missing_in_the_norm, TENSOR, False, "gradient norm", "loss|layers"),
    Fault(sinks_are_those_of_another_kind, SEQUENCE, False, "loss", "valid tokens"),
    Fault(sinks_enter_the_softmax_with_every_part, SEQUENCE, False, "loss", "valid tokens"),
    Fault(sinks_gradients_of_other_heads_are_added, TENSOR, False, "sinks", "loss|proj"),
    Fault(sinks_of_one_rank_are_missing_in_the_norm, TENSOR, False, "gradient norm", "loss|layers"),
    Fault(projections_are_normalised_before_the_rotation, NORMED, False, "_projection_norm", "loss"),
    Fault(values_are_not_scaled_on_one_rank, NORMED, False, "loss", "valid tokens"),
    Fault(additions_to_the_stream_are_not_scaled_on_one_rank, NORMED, False, "loss", "valid tokens"),
    Fault(static_gate_gradients_of_ranks_are_not_summed, STATIC, False, "static_gate", "loss|proj"),
    Fault(series_are_those_of_the_first_groups_on_every_rank, FOURIER, False, "loss", "valid tokens"),
)  # fmt: skip
