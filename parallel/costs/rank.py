"""Device memory of one step, in bytes, on the rank that needs most.

The sum of the parts in `held.py`, for a stream that is one document: then windowed layers receive and keep most
keys. Not counted: the framework's own memory, NCCL's, workspaces of kernels, fragmentation; about a tenth of
the device. A model whose regions are compiled needs less than is computed here.
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
from parallel.costs.received import StageShape, over_layers, stages_of_rank
from parallel.engine.optimizers import Optimizer
from parallel.pipeline.placement import place_stages
from parallel.pipeline.split import split_layers
from parallel.sequence.dealing import deal
from parallel.sequence.plan import needs_few_keys, plan_keys

# Bytes of one chunk's float32 logits on a GPU (`model/logits.py`), and how many tensors of that size are alive at once.
_CHUNK_BYTES = 1 << 30
_CHUNKS_ALIVE = 4


@dataclass(frozen=True)
class Step:
    """One optimizer step of a model on `world_size` ranks.

    sequence_length, micro_batch_tokens, batch_tokens: in tokens, as in a stage of the schedule. element: bytes of a
    weight. keep_for_backward, recompute_layers: the settings of these names. frozen: names of parameters that do not
    train; their layers are counted as if they kept the same for the backward.
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
    frozen: frozenset[str] = frozenset()


@dataclass(frozen=True)
class RankMemory:
    """Memory of one rank.

    parameters: number of parameters held. model: bytes of weights, gradients and optimizer. activations: bytes of
    everything else that a step makes.
    """

    parameters: int
    model: int
    activations: int

    @property
    def total(self) -> int:
        """Bytes of model and activations."""
        return self.model + self.activations


def rank_memory(step: Step) -> RankMemory:
    """Returns the memory of the pipeline rank that needs most."""
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
        parameters = rank_parameters(stages, step.frozen)
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
    """Returns the bytes a stage keeps between forward and backward of one micro-batch."""
    return stage_activations(
        stage,
        tokens,
        keep_for_backward=step.keep_for_backward,
        recompute_layers=step.recompute_layers,
        received_keys=_received_keys(step, stage),
    )


def _received_keys(step: Step, stage: StageShape) -> int:
    """Returns the number of tokens whose keys the stage's layers receive and keep, for one document."""
    if step.layout.sequence == 1 or step.keep_for_backward != "everything":
        return 0
    specs = expand_pattern(step.model)
    layers_of_reach = Counter(specs[layer].reach for layer in stage.layers)
    chunks = 2 * step.layout.sequence
    stream = [max(chunks, step.micro_batch_tokens // chunks * chunks)]
    # For one document `balanced` chooses the number of chunks; `zigzag` has the usual one.
    dealt = "contiguous" if step.layout.sequence_layout == "contiguous" else "zigzag"
    dealing = deal(dealt, stream, step.layout.sequence, layers_of_reach)
    found = 0
    for reach, layers in layers_of_reach.items():
        plan = plan_keys(dealing, Documents.of(stream), reach)
        if reach.window is not None or needs_few_keys(plan, dealing):
            ranks = range(step.layout.sequence)
            found += layers * max(plan.tokens_received(rank) for rank in ranks)
    return found


def _working(step: Step, stage: StageShape, tokens: int) -> int:
    """Returns the temporary bytes: the layer that is being computed, the ring's buffers, the loss."""
    layers = over_layers(stage, lambda spec: layer_activations(stage, spec, tokens))
    layer = max(layers, default=0)
    found = layer if step.keep_for_backward == "everything" else 2 * layer
    if step.layout.sequence > 1:
        found += ring_buffers(stage, tokens)
    if stage.has_head:
        rows = max(1, min(tokens, _CHUNK_BYTES // (step.model.vocab_size * stage.wide)))
        found += head_memory(stage, tokens) + _CHUNKS_ALIVE * logits_chunk(stage, rows=rows)
    return found
