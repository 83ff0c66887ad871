"""Bytes that a layout holds on every rank. `received.py` has the bytes received.

`docs/parallelism.md` explains these formulas; `tests/parity/test_costs_held.py` compares them with real engines and
real autograd graphs. With P parameters on this rank, n ZeRO ranks, e bytes an element, w = max(4, e), under AdamW:

                weights    gradients                      masters and states              buffer
    ZeRO-1      e P        w P (bfloat16: + e P)          12 P / n                        bucket, while reducing
    ZeRO-2      e P        w P / n                        12 P / n                        bucket, while reducing
    ZeRO-3      e P / n    w P / n                        12 P / n                        bucket

Of frozen parameters a rank has the weights only; P is those that train in the other columns.

    a layer (parallel block, layernorm), t tensor ranks, T tokens on this sequence rank, everything kept:
        T e D                      the gathered input of the matrix products
        T e (2 H K + 2 G K) / t    queries, keys, values, output of attention      (+ 4 T H / t: log-sum-exp)
        T e 4 F / t                gate, silu(gate), up, their product
        T w D / t                  the norm's input, in float32 (or float64)
    its input kept only:           T e D / t
    its attention kept besides:    T (e H K + 4 H) / t    output and log-sum-exp

"Wide" is w bytes an element: float32, or float64 for float64. Pure integers. Not counted: the framework's own memory,
workspaces of kernels, fragmentation.

Letters: T tokens, D width, H query heads, G key/value heads, K head dimension, F feed-forward width, V vocabulary.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from model.layer_pattern import LayerSpec, evenly
from model.parameters import layer_names, parameter_names
from parallel.costs.received import (
    StageShape,
    hand_over_bytes,
    key_bytes,
    key_gradient_bytes,
    norms_of_layer,
    over_layers,
)
from parallel.engine.optimizers import Optimizer
from parallel.pipeline.placement import Placement
from parallel.tensor.cut import PIECES, part_elements

# Upper bound for what the loss makes for every row of logits: targets, masks, losses, log-sum-exps.
BYTES_OF_ROW = 64


def parameter_elements(stage: StageShape, name: str) -> int:
    """Returns the elements of the parameter called `name` that one tensor rank holds.

    Raises:
        LookupError: the table of parameters has no such row.
    """
    return part_elements(name, stage.config, stage.tensor)


def stage_parameters(stage: StageShape) -> int:
    """Returns the number of parameters of a stage, including a head that is a copy of a tied embedding."""
    ends = parameter_names(
        stage.config, [], has_embedding=stage.has_embedding, has_head=stage.has_head
    )
    layers = over_layers(stage, lambda spec: _elements(stage, layer_names(stage.config, spec)))
    return sum(layers) + _elements(stage, ends)


def _elements(stage: StageShape, names: Iterable[str]) -> int:
    return sum(parameter_elements(stage, name) for name in names)


def rank_parameters(stages: Sequence[StageShape], frozen: Collection[str] = ()) -> tuple[int, int]:
    """Returns a rank's (held, trained) parameters: a head tied to another rank's embedding is held, not trained.

    frozen: names of parameters that do not train.
    """
    held = sum(stage_parameters(stage) for stage in stages)
    still = sum(_elements(stage, _frozen_names(stage, frozen)) for stage in stages)
    tied, head = stages[0].config.tie_embeddings, parameter_elements(stages[0], "lm_head.weight")
    separate = not any(stage.has_embedding and stage.has_head for stage in stages)
    if not (tied and separate and any(stage.has_head for stage in stages)):
        return held, held - still
    if any(stage.has_embedding for stage in stages):  # both ends on one rank: one tensor
        return held - head, held - head - still
    return held, held - head - still


def _frozen_names(stage: StageShape, frozen: Collection[str]) -> list[str]:
    """The frozen parameters of a stage; not a head that is a copy of a tied embedding."""
    names = parameter_names(
        stage.config, stage.layers, has_embedding=stage.has_embedding, has_head=stage.has_head
    )
    return [name for name in names if name in frozen] if frozen else []


@dataclass(frozen=True)
class ModelMemory:
    """Bytes that a rank holds throughout for its parameters; buffer: while gradients are reduced."""

    weights: int
    gradients: int
    masters_and_states: int
    buffer: int

    @property
    def total(self) -> int:
        """Sum of all fields."""
        return self.weights + self.gradients + self.masters_and_states + self.buffer


def model_memory(
    parameters: tuple[int, int],
    *,
    optimizer: Optimizer,
    ranks: int,
    zero_stage: int,
    element: int,
    bucket_elements: int,
) -> ModelMemory:
    """Returns the memory of weights, gradients and optimizer on one rank, sharded over `ranks`.

    parameters: (held, trained), as returned by `rank_parameters`.

    Exact but for ZeRO's padding of unequal parts: under ZeRO-1 and 2 at most a few elements a rank and group,
    under ZeRO-3 at most one element a rank and parameter. Without ZeRO (float32 only) weights are their own
    masters.
    """
    held, trained = parameters
    share = -(-trained // ranks)
    bucket = 4 * min(bucket_elements, trained)
    if zero_stage == 0:
        return ModelMemory(4 * held, 4 * trained, optimizer.bytes_of_states * trained, bucket)
    kept = optimizer.bytes_of_kinds * share
    if zero_stage == 3:
        return ModelMemory(element * -(-held // ranks), 4 * share, kept, bucket)
    if zero_stage == 2:
        return ModelMemory(element * held, 4 * share, kept, bucket)
    # Beside the float32 sums over micro-batches: the gradients that autograd made last.
    made = element * trained if element < 4 else 0
    return ModelMemory(element * held, 4 * trained + made, kept, bucket)


def layer_activations(
    stage: StageShape, spec: LayerSpec, num_tokens: int, *, received_keys: int = 0
) -> int:
    """Returns the bytes one layer of this specification keeps for its backward when it keeps everything.

    num_tokens: T of this sequence rank. received_keys: tokens whose keys were received in an exchange (windowed
    layers, and full layers that receive few keys); ring steps keep none.
    """
    config, element, tensor = stage.config, stage.element, stage.tensor
    heads = config.num_heads // tensor
    gathered = config.hidden_size * element
    attention = 2 * heads * config.head_dim * element + key_bytes(stage) + stage.wide * heads
    attention += _gate(stage, spec)
    feed_forward = 4 * (config.intermediate_size // tensor) * element
    halves = config.halves
    kept = num_tokens * (halves * gathered + attention + feed_forward)
    kept += heads * element if spec.sinks else 0
    kept += norms_of_layer(stage, spec) * _norm(stage, num_tokens // tensor, config.hidden_size)
    kept += _query_key_norms(stage, spec, num_tokens)
    if spec.learns_scale:  # queries before it, and its weight widened
        kept += num_tokens * heads * config.head_dim * element + heads * stage.wide
    return kept + received_keys * key_bytes(stage)


def _gate(stage: StageShape, spec: LayerSpec) -> int:
    """Returns the bytes of a token that a layer keeps for its output gate: the gate, and the product with it.

    The softplus keeps its argument too. A static gate keeps the product with it.
    """
    heads, head_dim = stage.config.num_heads // stage.tensor, stage.config.head_dim
    static = heads * head_dim * stage.element if spec.static_gate != "none" else 0
    if spec.gate == "none":
        return static
    numbers = heads * (head_dim if spec.gate_over == "channel" else 1)
    dynamic = heads * head_dim + numbers * (1 + (spec.gate == "softplus"))
    return static + dynamic * stage.element


def _query_key_norms(stage: StageShape, spec: LayerSpec, num_tokens: int) -> int:
    """Returns the bytes a layer keeps for the norms of queries and keys."""
    config, learned = stage.config, spec.qk_norm_weight
    if not spec.qk_norm:
        return 0
    # A sequential block on the tensor axis projects its tokens, and normalises before the rotation, piece by piece.
    in_pieces = config.halves == 2 and stage.tensor > 1 and spec.qk_norm_at == "before"
    calls = min(PIECES, num_tokens // stage.tensor) if in_pieces else 1
    found = 0
    for heads in (config.num_heads // stage.tensor, stage.key_heads):
        rows, width = num_tokens * heads, config.head_dim
        if config.qk_norm_over == "projection":
            rows, width = num_tokens, heads * config.head_dim
        if config.qk_norm_over == "each_head" and learned:
            # A norm without a weight, then its rows and every head's weights, which are multiplied.
            found += _norm(stage, rows, width, learned=False) + stage.wide * rows * width
            found += calls * heads * width * stage.wide if stage.wide > stage.element else 0
        else:
            found += _norm(stage, rows, width, calls, learned=learned)
    return found


def compiled_layer_activations(stage: StageShape, spec: LayerSpec, num_tokens: int) -> int:
    """`layer_activations` of a layer whose regions are compiled, accurate to about a tenth: the compiler decides.

    It keeps the block's input, inputs and output of attention, its gate and the product, gate, up and their product
    in the feed-forward; norms and rotations are recomputed in the kernels that need them.
    """
    config, heads = stage.config, stage.config.num_heads // stage.tensor
    width = config.hidden_size + 2 * heads * config.head_dim + 3 * config.intermediate_size
    gate = _gate(stage, spec)
    return num_tokens * (width * stage.element + stage.wide * heads + key_bytes(stage) + gate)


def _norm(stage: StageShape, rows: int, width: int, calls: int = 1, *, learned: bool = True) -> int:
    """Returns the bytes a norm keeps: input and statistics of each row, wide, and its weight if it was widened.

    calls: number of calls for these rows; each keeps a widened weight.

    RMSNorm keeps one statistic, not two, and with a weight also the normalised rows (a fused kernel would not).
    """
    per_row = width + 2 if stage.config.norm == "layernorm" else (1 + learned) * width + 1
    widened = calls * width if learned and stage.wide > stage.element else 0
    return stage.wide * (rows * per_row + widened)


def stage_activations(
    stage: StageShape,
    num_tokens: int,
    *,
    keep_for_backward: str,
    recompute_layers: int | None = None,
    compiled: bool = False,
    received_keys: int = 0,
) -> int:
    """Returns the device memory that all layers of a stage keep of one micro-batch between forward and backward.

    recompute_layers: number of layers of the whole model that `keep_for_backward` applies to; None: all.
    received_keys: tokens, summed over the layers that keep received keys. With "input" the layer that is being
    recomputed holds `layer_activations` in addition; with "input_on_cpu" inputs are kept in host memory. "tiles" is
    counted as "input", which is too much.
    """
    total = stage.config.num_layers
    recomputed = evenly(total if recompute_layers is None else recompute_layers, total)
    if keep_for_backward == "everything":
        recomputed = frozenset()
    of_layer = compiled_layer_activations if compiled else layer_activations
    least = 0 if keep_for_backward == "input_on_cpu" else hand_over_bytes(stage, num_tokens)
    if keep_for_backward == "attention":
        least += attention_output(stage, num_tokens)
    everything = over_layers(stage, lambda spec: of_layer(stage, spec, num_tokens))
    kept = (
        least if layer in recomputed else cost
        for layer, cost in zip(stage.layers, everything, strict=True)
    )
    return sum(kept) + received_keys * key_bytes(stage)


def attention_output(stage: StageShape, num_tokens: int) -> int:
    """Returns the bytes of output and log-sum-exp of one layer's attention."""
    heads = stage.config.num_heads // stage.tensor
    return num_tokens * heads * (stage.config.head_dim * stage.element + stage.wide)


def ring_buffers(stage: StageShape, num_tokens: int) -> int:
    """Returns an upper bound: two buffers for keys and three for their gradients, shared by all full layers."""
    return num_tokens * (2 * key_bytes(stage) + 3 * key_gradient_bytes(stage))


def head_memory(stage: StageShape, num_tokens: int) -> int:
    """Returns the bytes the loss keeps: gradients of hidden states and, wide, of this rank's rows of the head."""
    vocabulary = stage.config.vocab_size // stage.tensor
    return hand_over_bytes(stage, num_tokens) + vocabulary * stage.config.hidden_size * stage.wide


def logits_chunk(stage: StageShape, *, rows: int) -> int:
    """Returns the bytes of one chunk's logits, wide."""
    return rows * (stage.config.vocab_size // stage.tensor) * stage.wide


def head_workspace(stage: StageShape, *, rows: int, widens: bool) -> int:
    """Returns an upper bound of the loss's temporary memory beyond `head_memory`, on a CPU with one tensor rank.

    rows: tokens of a chunk. widens: whether products are computed in float32 because the CPU is slow in half
    precision (see `model.products`).

    Two tensors of a chunk are wide: its logits and its probabilities. A model in half precision has two more in half
    precision, the product and its gradient; with `widens` the product is one of the wide tensors, and both factors
    are copied to float32.
    """
    table, half = rows * stage.config.vocab_size, stage.element < stage.wide
    workspace = 2 * table * stage.wide + rows * BYTES_OF_ROW
    if half and widens:
        return workspace + (rows + stage.config.vocab_size) * stage.config.hidden_size * stage.wide
    return workspace + (2 * table * stage.element if half else 0)


def micro_batches_in_flight(placement: Placement, micro_batches: int) -> tuple[int, ...]:
    """Returns the most forwards without a complete backward that each pipeline rank has at once.

    With several stages a rank, one micro-batch in two stages counts twice: multiply by the activations of ONE stage.
    1F1B (arXiv 2104.04473): rank r of p has at most p - r. Interleaved: also one round for each of its stages but the
    last. zbv (arXiv 2401.10241): 2 p on every rank, given enough micro-batches.
    """
    ranks = placement.ranks
    if placement.schedule == "zbv":
        most = min(2 * ranks, 2 * micro_batches)
        return tuple(min(most, micro_batches + 1 + rank) for rank in range(ranks))
    if placement.schedule == "1f1b":
        return tuple(min(ranks - rank, micro_batches) for rank in range(ranks))
    stages = placement.num_stages // ranks
    round_of = micro_batches // max(1, micro_batches // ranks)
    ahead = [(stages - 1) * round_of + 2 * (ranks - 1 - rank) + 1 for rank in range(ranks)]
    return tuple(min(number, stages * micro_batches) for number in ahead)
