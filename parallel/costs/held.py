"""What a layout costs, in bytes: what every rank holds. `received.py` has what it receives.

`docs/parallelism.md` says these formulas in words; `tests/parity/test_costs.py` compares them with real engines and
real autograd graphs. With P parameters on this rank, n ZeRO ranks, e bytes an element, w = max(4, e), under AdamW:

                weights    gradients                      masters and states              buffer
    ZeRO-1      e P        w P (bfloat16: + e P)          12 P / n                        bucket, while reducing
    ZeRO-2      e P        w P / n                        12 P / n                        bucket, while reducing
    ZeRO-3      e P / n    w P / n                        12 P / n                        bucket

    a layer, t tensor ranks, T tokens on this sequence rank, everything kept for the backward:
        T e D                      the gathered input of the products
        T e (2 H K + 2 G K) / t    queries, keys, values, output of attention      (+ 4 T H / t: log-sum-exp)
        T e 4 F / t                gate, silu(gate), up, their product
        T w D / t                  the norm's input, wide
    its input only:     T e D / t
    and its attention:  T (e H K + 4 H) / t    output and log-sum-exp

Pure integers. Not counted: the framework's own memory, workspaces of kernels, fragmentation.

Letters: T tokens, D width, H query heads, G key/value heads, K head dimension, F feed-forward width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model.layer_pattern import evenly
from model.parameters import layer_names, parameter_names
from parallel.costs.received import (
    StageShape,
    hand_over_bytes,
    key_bytes,
    key_gradient_bytes,
    norms_of_layer,
)
from parallel.engine.optimizers import Optimizer
from parallel.pipeline.placement import Placement
from parallel.tensor.cut import PIECES, part_elements

# At most: columns of targets, masks, losses and log-sum-exps, which the loss makes of every row of logits.
BYTES_OF_ROW = 64


def parameter_elements(stage: StageShape, name: str) -> int:
    """Elements of the parameter called `name` that one tensor rank holds.

    Raises:
        LookupError: the table of parameters has no such row.
    """
    return part_elements(name, stage.config, stage.tensor)


def stage_parameters(stage: StageShape) -> int:
    """Parameters that a stage holds, the copy of a tied embedding in its head included."""
    ends = parameter_names(
        stage.config, [], has_embedding=stage.has_embedding, has_head=stage.has_head
    )
    layer = sum(parameter_elements(stage, name) for name in layer_names(stage.config))
    return len(stage.layers) * layer + sum(parameter_elements(stage, name) for name in ends)


def rank_parameters(stages: Sequence[StageShape]) -> tuple[int, int]:
    """(held, trained) parameters of a rank: a head tied to an embedding elsewhere is held, not trained."""
    held = sum(stage_parameters(stage) for stage in stages)
    tied, head = stages[0].config.tie_embeddings, parameter_elements(stages[0], "lm_head.weight")
    separate = not any(stage.has_embedding and stage.has_head for stage in stages)
    if not (tied and separate and any(stage.has_head for stage in stages)):
        return held, held
    if any(stage.has_embedding for stage in stages):  # both ends on one rank: one tensor
        return held - head, held - head
    return held, held - head


@dataclass(frozen=True)
class ModelMemory:
    """Bytes that a rank holds of its parameters all the time; `buffer` where gradients are being reduced."""

    weights: int
    gradients: int
    masters_and_states: int
    buffer: int

    @property
    def total(self) -> int:
        """All of them."""
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
    """Weights, gradients and optimizer of a rank, sharded over `ranks`.

    parameters: (held, trained), of `rank_parameters`.

    Exact but for what ZeRO adds so that its parts are equal: under ZeRO-1 and 2 at most a few elements a rank
    and group, under ZeRO-3 at most one element a rank and parameter. Without ZeRO (float32 only) weights
    are their own masters.
    """
    held, trained = parameters
    share = -(-trained // ranks)
    bucket = 4 * min(bucket_elements, trained)
    if zero_stage == 0:
        return ModelMemory(4 * held, 4 * trained, optimizer.bytes_of_states * trained, bucket)
    kept = optimizer.bytes_of_kinds * share
    if zero_stage == 3:
        return ModelMemory(element * share, 4 * share, kept, bucket)
    if zero_stage == 2:
        return ModelMemory(element * held, 4 * share, kept, bucket)
    # float32 sums over micro-batches, beside the gradients that autograd made last.
    made = element * trained if element < 4 else 0
    return ModelMemory(element * held, 4 * trained + made, kept, bucket)


def layer_activations(stage: StageShape, num_tokens: int, *, received_keys: int = 0) -> int:
    """What one layer keeps for its backward when it keeps everything.

    num_tokens: T of this sequence rank. received_keys: tokens whose keys an exchange brought (windowed
    layers, and full ones where little moves); ring steps keep none.
    """
    config, element, tensor = stage.config, stage.element, stage.tensor
    heads = config.num_heads // tensor
    gathered = config.hidden_size * element
    attention = 2 * heads * config.head_dim * element + key_bytes(stage) + stage.wide * heads
    feed_forward = 4 * (config.intermediate_size // tensor) * element
    halves = config.halves
    kept = num_tokens * (halves * gathered + attention + feed_forward)
    kept += norms_of_layer(stage) * _norm(stage, num_tokens // tensor, config.hidden_size)
    if config.qk_norm and config.qk_norm_over == "projection":
        kept += _norm(stage, num_tokens, heads * config.head_dim)
        kept += _norm(stage, num_tokens, stage.key_heads * config.head_dim)
    elif config.qk_norm:
        # A sequential block on the tensor axis projects, and normalises, its tokens piece by piece.
        calls = min(PIECES, num_tokens // tensor) if halves == 2 and tensor > 1 else 1
        kept += _norm(stage, num_tokens * heads, config.head_dim, calls)
        kept += _norm(stage, num_tokens * stage.key_heads, config.head_dim, calls)
    return kept + received_keys * key_bytes(stage)


def compiled_layer_activations(stage: StageShape, num_tokens: int) -> int:
    """The same of a layer whose regions are compiled, to about a tenth: what the compiler decides to keep.

    The block's input, what attention takes and gives, gate, up and their product; norms and rotations are
    computed again in the kernels that need them.
    """
    config, heads = stage.config, stage.config.num_heads // stage.tensor
    width = config.hidden_size + 2 * heads * config.head_dim + 3 * config.intermediate_size
    return num_tokens * (width * stage.element + stage.wide * heads + key_bytes(stage))


def _norm(stage: StageShape, rows: int, width: int, calls: int = 1) -> int:
    """A norm keeps its input and each row's statistics, wide, and its weight if that had to be widened.

    calls: how often it is called for these rows; each keeps a widened weight.

    RMSNorm keeps one statistic, not two, and the normalised rows besides (a fused kernel would not).
    """
    per_row = width + 2 if stage.config.norm == "layernorm" else 2 * width + 1
    widened = calls * width if stage.wide > stage.element else 0
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
    """What all layers of a stage keep of one micro-batch on the device, between forward and backward.

    recompute_layers: of the whole model, those that `keep_for_backward` is for; None: all. received_keys:
    summed over the layers that keep received keys. With "input" the layer that is being recomputed holds
    `layer_activations` besides; with "input_on_cpu" its input waits in host memory.
    """
    total = stage.config.num_layers
    recomputed = evenly(total if recompute_layers is None else recompute_layers, total)
    little = 0 if keep_for_backward == "everything" else len(recomputed & set(stage.layers))
    of_layer = compiled_layer_activations if compiled else layer_activations
    everything = (len(stage.layers) - little) * of_layer(stage, num_tokens)
    least = 0 if keep_for_backward == "input_on_cpu" else hand_over_bytes(stage, num_tokens)
    if keep_for_backward == "attention":
        least += attention_output(stage, num_tokens)
    return everything + little * least + received_keys * key_bytes(stage)


def attention_output(stage: StageShape, num_tokens: int) -> int:
    """Output and log-sum-exp of one layer's attention."""
    heads = stage.config.num_heads // stage.tensor
    return num_tokens * heads * (stage.config.head_dim * stage.element + stage.wide)


def ring_buffers(stage: StageShape, num_tokens: int) -> int:
    """At most: two buffers for keys, three for their gradients, of all full layers together."""
    return num_tokens * (2 * key_bytes(stage) + 3 * key_gradient_bytes(stage))


def head_memory(stage: StageShape, num_tokens: int) -> int:
    """What the loss keeps: gradients of hidden states and, wide, of this rank's rows of the head."""
    vocabulary = stage.config.vocab_size // stage.tensor
    return hand_over_bytes(stage, num_tokens) + vocabulary * stage.config.hidden_size * stage.wide


def logits_chunk(stage: StageShape, *, rows: int) -> int:
    """One chunk's logits, wide."""
    return rows * (stage.config.vocab_size // stage.tensor) * stage.wide


def head_workspace(stage: StageShape, *, rows: int, widens: bool) -> int:
    """At most: what the loss takes for a moment besides `head_memory`, on a CPU and one tensor rank.

    rows: tokens of a chunk.

    Two tables of a chunk are wide: its logits and its probabilities. A model in half precision has two narrow ones
    besides, the product and its gradient, where the CPU multiplies half precision. widens: where it does not (see
    `model.products`), the product is one of the wide tables, and both factors are widened.
    """
    table, half = rows * stage.config.vocab_size, stage.element < stage.wide
    workspace = 2 * table * stage.wide + rows * BYTES_OF_ROW
    if half and widens:
        return workspace + (rows + stage.config.vocab_size) * stage.config.hidden_size * stage.wide
    return workspace + (2 * table * stage.element if half else 0)


def micro_batches_in_flight(placement: Placement, micro_batches: int) -> tuple[int, ...]:
    """The most stage inputs that each pipeline rank keeps at once: forwards whose backward is not complete.

    With two stages a rank each counts by itself: multiply by the activations of ONE stage. 1F1B (arXiv 2104.04473):
    a rank runs ahead by the ranks after it. Interleaved: also by a round of each of its stages but the last. A V
    (arXiv 2401.10241): two stages on every rank, once enough micro-batches have come through.
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
