"""Settings of the layout (ranks of each axis, ZeRO stage, timeouts) and of the optimizer."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from parallel.topology import Topology

RankCount = Annotated[int, Ge(1)]
# At most four months: backends count in nanoseconds, in 64 bits.
Seconds = Annotated[float, Ge(1), Le(10_000_000)]
# Groups with a timeout of their own: an axis (data: the ranks over which ZeRO shards), or a group of the whole world.
Timed = Literal["tensor", "sequence", "pipeline", "data", "control", "checkpoint"]
SequenceLayout = Literal["zigzag", "balanced", "contiguous"]
NotNegative = Annotated[float, Ge(0), Lt(math.inf)]
Positive = Annotated[float, Gt(0), Lt(math.inf)]


@dataclass
class ParallelConfig:
    """How one training step is spread over ranks. The data axis takes the ranks that the other axes leave."""

    # Ranks that share every matrix (tensor parallelism).
    tensor: RankCount = 1
    # Ranks that share the layers (pipeline parallelism).
    pipeline: RankCount = 1
    # Ranks that share every stream (ring attention; elsewhere: context parallelism).
    sequence: RankCount = 1
    # Order of micro-batches on the pipeline.
    pipeline_schedule: Literal["1f1b", "interleaved_1f1b", "zbv"] = "1f1b"
    # Layers of every pipeline stage, in order; empty: balanced by FLOPs.
    pipeline_split: list[int] = field(default_factory=list)
    # How the chunks of a stream are assigned to the sequence ranks. zigzag: equal attention work for one long document.
    # balanced: computed from the documents of each stream.
    sequence_layout: SequenceLayout = "zigzag"
    # What ZeRO shards over data and sequence ranks. 0: nothing (float32 only); 1: optimizer states; 2: gradients too;
    # 3: parameters too.
    zero_stage: Literal[0, 1, 2, 3] = 1
    # Elements that ZeRO reduces and gathers at once; a resumed run gives the same bits only with the same value.
    bucket_elements: Annotated[int, Ge(1)] = 50_000_000
    # Seconds that a rank may wait for its peers before the run is ended as hung; a line names the missing rank.
    timeout_seconds: Seconds = 600.0
    # Seconds for single axes in place of parallel.timeout_seconds, for example {tensor: 60, pipeline: 300}; control:
    # decisions of the main rank, and preparation.
    timeouts: dict[Timed, Seconds] = field(default_factory=dict)
    # Seconds in place of shorter timeouts until the first step of a layout is done (kernels are compiled, caches are
    # cold), after the last step, and while a checkpoint is written.
    first_step_seconds: Seconds = 1800.0

    def topology(self, world_size: int) -> Topology:
        """Returns the grid of this layout on `world_size` ranks; check `world_problem` first."""
        data = world_size // (self.tensor * self.sequence * self.pipeline)
        return Topology(self.tensor, self.sequence, data, self.pipeline)

    def world_problem(self, world_size: int) -> str:
        """Returns why this layout does not fit `world_size` ranks; empty if it does."""
        product = self.tensor * self.sequence * self.pipeline
        if world_size % product == 0:
            return ""
        return (
            f"parallel: tensor x sequence x pipeline = {self.tensor} x {self.sequence} x {self.pipeline} = "
            f"{product} must divide the number of ranks, {world_size}; start a multiple of {product}"
        )

    def problems(self) -> list[str]:
        """Returns one line for each broken rule between fields; annotations hold the bounds of single fields."""
        found = []
        if self.pipeline_split and self.pipeline == 1:
            found.append(
                "parallel.pipeline_split: has no effect with parallel.pipeline=1; drop one of them"
            )
        if self.zero_stage in (2, 3) and self.pipeline > 1:
            found.append(
                f"parallel.zero_stage={self.zero_stage}: with parallel.pipeline={self.pipeline} gradients "
                "and weights would be reduced and gathered for every micro-batch; use parallel.zero_stage=1"
            )
        if self.zero_stage == 0 and self.tensor * self.pipeline * self.sequence > 1:
            found.append(
                "parallel.zero_stage=0: is for the data axis alone, its gradient norm covers no other; "
                "use parallel.zero_stage=1"
            )
        return found


@dataclass
class ParameterGroup:
    """Parameters that train differently from the others: see parallel/engine/groups.py."""

    # Kinds of layers whose parameters are in the group, as patterns of their names: [full_nope], ["full_*"]. Empty: all
    # parameters, also those outside layers.
    kinds: list[str] = field(default_factory=list)
    # Names of parameters in the group, as patterns: of the whole name ("layers.3.*", "norm.weight" for the final norm),
    # or of the name inside a layer ("attention.*") where the pattern matches no parameter outside the layers.
    parameters: list[str] = field(default_factory=lambda: ["*"])
    # Factor of the learning rate of the schedule.
    learning_rate_factor: Positive = 1.0
    # Factor of optimizer.weight_decay; parameters without decay stay without.
    weight_decay_factor: NotNegative = 1.0
    # Whether the weights stay as they are: no gradient, no optimizer states.
    frozen: bool = False


@dataclass
class OptimizerConfig:
    """Settings of the optimizer; the learning rate comes from the schedule."""

    # Update rule, a row of parallel/engine/optimizers.py.
    name: Literal["adamw"] = "adamw"
    # Weight of the old value in the running mean of gradients.
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    # Weight of the old value in the running mean of squared gradients.
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.95
    # Added to the root of the mean of squared gradients, so that nothing is divided by zero.
    epsilon: Annotated[float, Gt(0), Lt(math.inf)] = 1e-8
    # Decoupled weight decay of matrices, multiplied by the learning rate in every step; embeddings and norm weights are
    # never decayed.
    weight_decay: NotNegative = 0.1
    # Global gradient norm above which gradients are scaled down; 0 clips nothing.
    gradient_clipping: NotNegative = 1.0
    # Parameters that train differently, by a name of the group's own, for example {rest: {frozen: true}, long:
    # {kinds: [full_nope]}}. A parameter is in the last group that it matches; a stage changes numbers of a group.
    groups: dict[str, ParameterGroup] = field(default_factory=dict)
