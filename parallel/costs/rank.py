"""What a layout costs, in bytes: what the rank that holds most needs of its device in one step.

The sum of the parts in `held.py`, for a stream that is one document: the keys that windowed layers receive and keep
are most then. Not counted: the framework's own memory, NCCL's, workspaces of kernels, fragmentation; about a tenth of
the device. A model whose regions are compiled keeps less than is said here.
"""

from collections import Counter
from dataclasses import dataclass

from model.config import ModelConfig
from model.documents import Documents
from model.layer_pattern import expand_pattern
from parallel.config import ParallelConfig
from parallel.costs.held import (
    head_memory,
    layer_activations,
    logits_chunk,
    micro_batches_in_flight,
    model_memory,
    rank_parameters,
    ring_buffers,
    stage_activations,
)
from parallel.costs.received import StageShape, stages_of_rank
from parallel.engine.optimizers import Optimizer
from parallel.pipeline.placement import place_stages
from parallel.pipeline.split import split_layers
from parallel.sequence.dealing import deal
from parallel.sequence.plan import plan_keys

# Of one chunk's logits, float32, on a GPU (`model/loss.py`); and tables of that size that are alive together.
_CHUNK_BYTES = 1 << 30
_CHUNKS_ALIVE = 4


@dataclass(frozen=True)
class Step:
    """One optimizer step of a model on `world_size` ranks.

    sequence_length, micro_batch_tokens, batch_tokens: in tokens, as a stage of the schedule has them. element: bytes
    of a weight. keep_for_backward, recompute_layers: as the settings of those names.
    """

    model: ModelConfig
    layout: ParallelConfig
    world_size: int
    sequence_length: int
    micro_batch_tokens: int
    batch_tokens: int
    element: int
    keep_for_backward: str
    recompute_layers: int | None
    optimizer: Optimizer


@dataclass(frozen=True)
class RankMemory:
    """Bytes of one rank. model: weights, gradients and optimizer. activations: all that a step makes besides."""

    parameters: int
    model: int
    activations: int

    @property
    def total(self) -> int:
        """Both."""
        return self.model + self.activations


def rank_memory(step: Step) -> RankMemory:
    """What the rank that holds most needs."""
    placement = place_stages(step.layout)
    layers = split_layers(step.model, step.layout, step.sequence_length)
    tokens = step.micro_batch_tokens // step.layout.sequence
    data = step.layout.topology(step.world_size).data
    in_flight = micro_batches_in_flight(
        placement, max(1, step.batch_tokens // step.micro_batch_tokens // data)
    )
    found = []
    for rank, number in enumerate(in_flight):
        stages = stages_of_rank(
            step.model,
            placement,
            layers,
            rank,
            tensor=step.layout.tensor,
            element=step.element,
        )
        parameters = rank_parameters(stages)
        memory = model_memory(
            parameters,
            optimizer=step.optimizer,
            ranks=data * step.layout.sequence,
            zero_stage=step.layout.zero_stage,
            element=step.element,
            bucket_elements=step.layout.bucket_elements,
        )
        kept = max(_kept(step, stage, tokens) for stage in stages)
        working = max(_working(step, stage, tokens) for stage in stages)
        found.append(RankMemory(parameters[0], memory.total, number * kept + working))
    return max(found, key=lambda memory: memory.total)


def _kept(step: Step, stage: StageShape, tokens: int) -> int:
    """Between forward and backward, of one micro-batch."""
    return stage_activations(
        stage,
        tokens,
        keep_for_backward=step.keep_for_backward,
        recompute_layers=step.recompute_layers,
        received_keys=_received_keys(step, stage),
    )


def _received_keys(step: Step, stage: StageShape) -> int:
    """Tokens whose keys the windowed layers keep, of a stream that is one document."""
    if step.layout.sequence == 1 or step.keep_for_backward != "everything":
        return 0
    specs = expand_pattern(step.model)
    windows = Counter(specs[layer].window for layer in stage.layers)
    chunks = 2 * step.layout.sequence
    stream = [max(chunks, step.micro_batch_tokens // chunks * chunks)]
    # `balanced` deals one document in chunks as fine as it needs; those of `zigzag` are the usual ones.
    dealt = "contiguous" if step.layout.sequence_layout == "contiguous" else "zigzag"
    dealing = deal(dealt, stream, step.layout.sequence, windows)
    found = 0
    for window, layers in windows.items():
        if window is not None:
            plan = plan_keys(dealing, Documents.of(stream), window)
            ranks = range(step.layout.sequence)
            found += layers * max(plan.tokens_received(rank) for rank in ranks)
    return found


def _working(step: Step, stage: StageShape, tokens: int) -> int:
    """What is there for a moment: the layer that is being worked on, the ring's buffers, the loss."""
    layer = layer_activations(stage, tokens) if stage.layers else 0
    found = layer if step.keep_for_backward == "everything" else 2 * layer
    if step.layout.sequence > 1:
        found += ring_buffers(stage, tokens)
    if stage.has_head:
        rows = max(1, min(tokens, _CHUNK_BYTES // (step.model.vocab_size * stage.wide)))
        found += head_memory(stage, tokens) + _CHUNKS_ALIVE * logits_chunk(stage, rows=rows)
    return found
