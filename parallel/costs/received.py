"""Bytes that every rank receives on each axis of a layout. `held.py` has the bytes held.

`docs/parallelism.md` explains these formulas; `tests/parity/test_costs_received.py` compares them with counts of
real runs. With n ranks on the axis, T tokens of a micro-batch on this sequence rank, e bytes an element, w = max(4, e):

    tensor     a transfer = T (n - 1) / n D e      a layer: 2 forward, 2 backward (sequential block: 4, 4)
                                                   embedding: 1, 1      head: 2 and 2 w T (n - 1) bytes, 0
    sequence   a key = 2 G K e, its gradient 2 G K w      forward: keys; backward: gradients, in steps keys again
    pipeline   a hand-over = T / tensor D e               a stage and micro-batch: 1 forward, 1 backward
    ZeRO       P (n - 1) / n parameters                   gradients 8 bytes (all-reduce) or 4, weights e

Pure integers. Over all ranks of an axis, as many bytes are sent as are received.

Letters: T tokens, D width, G key/value heads on this rank, K head dimension, P parameters, V vocabulary.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from model.config import ModelConfig
from model.layer_pattern import LayerSpec, expand_pattern, layer_kinds
from model.parameters import layer_names, parameter_names, role_of
from parallel.pipeline.placement import Placement
from parallel.sequence.plan import KeyPlan
from parallel.tensor.cut import cut_of, part_elements

Cost = TypeVar("Cost")


@dataclass(frozen=True)
class Received:
    """Bytes that arrive at one rank."""

    forward: int = 0
    backward: int = 0

    def __add__(self, other: "Received") -> "Received":
        return Received(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: int) -> "Received":
        return Received(self.forward * times, self.backward * times)

    @property
    def total(self) -> int:
        """Both directions."""
        return self.forward + self.backward


@dataclass(frozen=True)
class StageShape:
    """One pipeline stage: some layers, perhaps embedding or head, cut for `tensor` ranks.

    element: bytes of a weight or an activation.
    """

    config: ModelConfig
    layers: Sequence[int]
    has_embedding: bool = True
    has_head: bool = True
    tensor: int = 1
    element: int = 2

    @property
    def wide(self) -> int:
        """Bytes of an element of sums and statistics: float32, or float64 for float64."""
        return max(4, self.element)

    @property
    def key_heads(self) -> int:
        """Key/value heads of this rank; at least one, with fewer heads than ranks a replica."""
        return max(1, self.config.num_kv_heads // self.tensor)


def over_layers(stage: StageShape, cost: Callable[[LayerSpec], Cost]) -> list[Cost]:
    """Returns the cost of every layer of a stage, in order; `cost` is called once for each kind of layer."""
    costs = {kind: cost(spec) for kind, spec in layer_kinds(stage.config).items()}
    specs = expand_pattern(stage.config)
    return [costs[specs[layer].kind] for layer in stage.layers]


def whole_model(config: ModelConfig, *, tensor: int = 1, element: int = 2) -> StageShape:
    """Returns the one stage of a model without a pipeline: all layers, embedding and head."""
    return StageShape(config, range(config.num_layers), tensor=tensor, element=element)


def stages_of_rank(
    config: ModelConfig,
    placement: Placement,
    layers: Sequence[range],
    rank: int,
    *,
    tensor: int,
    element: int,
) -> tuple[StageShape, ...]:
    """Returns the stages of a pipeline rank. layers: as returned by `split_layers`."""
    last = placement.num_stages - 1
    return tuple(
        StageShape(config, layers[stage], stage == 0, stage == last, tensor, element)
        for stage in placement.stages_of(rank)
    )


# Tensor axis.


def tensor_received(stage: StageShape, num_tokens: int, *, recomputed: bool = False) -> Received:
    """Returns the bytes of one micro-batch of `num_tokens` on this sequence rank.

    recomputed: whether layers keep their input only.
    """
    if stage.tensor == 1:
        return Received()
    layers = over_layers(stage, lambda spec: _tensor_layer(stage, spec, num_tokens, recomputed))
    found = sum(layers, Received())
    transfer = _stream_transfer(stage, num_tokens)
    if stage.has_embedding:
        found += Received(transfer, transfer)
    if stage.has_head:
        numbers = 2 * stage.wide * num_tokens * (stage.tensor - 1)
        found += Received(2 * transfer + numbers)
    ends = parameter_names(
        stage.config, [], has_embedding=stage.has_embedding, has_head=stage.has_head
    )
    return found + Received(backward=sum(replica_sum(stage, name) for name in ends))


def _tensor_layer(
    stage: StageShape, spec: LayerSpec, num_tokens: int, recomputed: bool
) -> Received:
    halves = stage.config.halves
    transfer = _stream_transfer(stage, num_tokens)
    means = _head_means(stage, spec, num_tokens)
    sums = sum(replica_sum(stage, name) for name in layer_names(stage.config, spec))
    backward = 2 * halves * transfer + means + sums
    if recomputed:
        # The forward again, without the sums at the end of the block if no norm follows them.
        repeated = 2 * halves - (stage.config.norm_at == "before")
        backward += repeated * transfer + means
    return Received(2 * halves * transfer + means, backward)


def _head_means(stage: StageShape, spec: LayerSpec, num_tokens: int) -> int:
    """Returns the bytes of the mean squares of queries and keys over all heads: a number a token from every rank."""
    if not (spec.qk_norm and stage.config.qk_norm_over == "projection"):
        return 0
    return 2 * num_tokens * (stage.tensor - 1) * stage.wide


def _stream_transfer(stage: StageShape, num_tokens: int) -> int:
    """Returns the bytes of one gather, or one scattered sum, of the residual stream."""
    local = num_tokens // stage.tensor
    return local * (stage.tensor - 1) * stage.config.hidden_size * stage.element


def norms_of_layer(stage: StageShape, spec: LayerSpec) -> int:
    """Returns the number of norms over the residual stream's width in one layer of this specification."""
    roles = [role_of(name) for name in layer_names(stage.config, spec)]
    return sum(role.initial == "norm" and role.shape == "D" for role in roles)


def replica_sum(stage: StageShape, name: str) -> int:
    """Returns the bytes of summing one replicated parameter's gradient in one backward; 0 if it is not summed.

    Raises:
        LookupError: the table of parameters has no such row.
    """
    if not role_of(name).summed:
        return 0
    replicas = cut_of(name, stage.config, 0, stage.tensor).replicas
    return (replicas - 1) * part_elements(name, stage.config, stage.tensor) * stage.element


# Sequence axis.


def key_bytes(stage: StageShape) -> int:
    """Returns the bytes of one token's keys and values in one layer, for this rank's heads."""
    return 2 * stage.key_heads * stage.config.head_dim * stage.element


def key_gradient_bytes(stage: StageShape) -> int:
    """Returns the bytes of the gradients of one token's keys and values, which are sent wide."""
    return 2 * stage.key_heads * stage.config.head_dim * stage.wide


def sequence_received(
    stage: StageShape, plan: KeyPlan, rank: int, *, in_steps: bool, recomputed: bool = False
) -> Received:
    """Returns the bytes of one layer of the plan's kind for one micro-batch.

    in_steps: whether the layer uses ring steps, which receive the keys again for the backward; an exchange keeps
    them. recomputed: whether the layer keeps its input only, so that its forward and its transfers happen twice.
    """
    keys = plan.tokens_received(rank) * key_bytes(stage)
    lent = sum(len(piece) for received in plan.receives for piece in received[rank])
    returned = lent * key_gradient_bytes(stage)
    times = int(in_steps) + int(recomputed)
    return Received(keys, times * keys + returned)


# Pipeline axis.


def pipeline_received(
    placement: Placement, rank: int, *, micro_batches: int, hand_over: int
) -> Received:
    """Returns the bytes of one step. hand_over: bytes of one micro-batch's hidden states, see `hand_over_bytes`."""
    stages = placement.stages_of(rank)
    before = [stage - 1 for stage in stages if stage > 0]
    after = [stage + 1 for stage in stages if stage < placement.num_stages - 1]
    return Received(
        *(
            micro_batches * hand_over * _elsewhere(placement, rank, neighbours)
            for neighbours in (before, after)
        )
    )


def _elsewhere(placement: Placement, rank: int, stages: Iterable[int]) -> int:
    return sum(placement.rank_of(stage) != rank for stage in stages)


def hand_over_bytes(stage: StageShape, num_tokens: int) -> int:
    """Returns the bytes of one micro-batch's hidden states, or of their gradient, on one tensor rank."""
    return num_tokens // stage.tensor * stage.config.hidden_size * stage.element


def tied_received(stage: StageShape, placement: Placement, rank: int) -> int:
    """Returns the bytes of one step for a tied weight: its gradient to the embedding's rank, the new weight back."""
    first, last = placement.rank_of(0), placement.rank_of(placement.num_stages - 1)
    if not stage.config.tie_embeddings or first == last or rank not in (first, last):
        return 0
    elements = part_elements("embedding.weight", stage.config, stage.tensor)
    return elements * (stage.wide if rank == first else stage.element)


# Data axis: ZeRO over data x sequence ranks.


@dataclass(frozen=True)
class ZeroReceived:
    """Bytes received in one step by a ring algorithm: reduction of gradients, gathering of weights."""

    gradients: int
    weights: int


def zero_received(
    num_parameters: int, *, ranks: int, zero_stage: int, element: int, micro_batches: int
) -> ZeroReceived:
    """Returns the bytes of one step for `num_parameters` trained on this rank. Gradients are sent in float32.

    ZeRO-1 reduces gradients once a step, ZeRO-2 and 3 once a micro-batch. DeepSpeed's ZeRO-1 and 2 use an all-reduce,
    twice the bytes of a reduce-scatter, which would suffice. ZeRO-3 gathers weights once for every forward, which is
    counted here; for the backward it gathers again what it did not keep, which is not (`docs/parallelism.md`).
    """
    moved = num_parameters * (ranks - 1) // ranks
    if zero_stage == 3:
        return ZeroReceived(4 * moved * micro_batches, element * moved * micro_batches)
    times = micro_batches if zero_stage == 2 else 1
    weights = 0 if zero_stage == 0 else element * moved
    return ZeroReceived(2 * 4 * moved * times, weights)
