"""The knobs of the layout: how many ranks each axis takes and what ZeRO shards."""

import math
from dataclasses import dataclass, field

from parallel.topology import Topology

ZERO_STAGES = (0, 1, 2, 3)
PIPELINE_SCHEDULES = ("1f1b", "interleaved_1f1b", "zbv")
SEQUENCE_LAYOUTS = ("zigzag", "balanced", "contiguous")
# Four months: what backends count in nanoseconds stays within 64 bits.
MOST_SECONDS = 10_000_000
# Whom a rank may wait for: an axis (data: whoever ZeRO shards over), or the groups of the whole world.
TIMED = ("tensor", "sequence", "pipeline", "data", "control", "checkpoint")


@dataclass
class ParallelConfig:
    """How one training step is spread over ranks. The data axis takes what is left of the world."""

    # Ranks that share every matrix (tensor parallelism).
    tensor: int = 1
    # Ranks that share the layers (pipeline parallelism).
    pipeline: int = 1
    # Ranks that share every stream (ring attention; elsewhere: context parallelism).
    sequence: int = 1
    # Order of micro-batches on the pipeline: 1f1b, interleaved_1f1b or zbv.
    pipeline_schedule: str = "1f1b"
    # Layers of every pipeline stage, in order; empty: balanced by FLOPs.
    pipeline_split: list[int] = field(default_factory=list)
    # How a stream's chunks are dealt to the sequence ranks: zigzag, balanced or contiguous.
    sequence_layout: str = "zigzag"
    # 0: nothing is sharded (float32 only); 1: optimizer states are; 2: gradients too; 3: parameters too.
    zero_stage: int = 1
    # Elements reduced and gathered at once by ZeRO; part of what bit-identical resume means.
    bucket_elements: int = 50_000_000
    # Seconds a rank may wait for its peers before the run is declared hung, named, and ended.
    timeout_seconds: float = 600.0
    # The same for single axes: {tensor: 60, pipeline: 300}; also control (verdicts, preparation) and checkpoint.
    timeouts: dict[str, float] = field(default_factory=dict)
    # The same for everything before the first step of a layout is done (kernels are compiled, caches are cold), for
    # what follows the last one, and for the writing of checkpoints.
    first_step_seconds: float = 1800.0

    def topology(self, world_size: int) -> Topology:
        """The grid of this layout on `world_size` ranks; ask `world_problem` first."""
        data = world_size // (self.tensor * self.sequence * self.pipeline)
        return Topology(self.tensor, self.sequence, data, self.pipeline)

    def world_problem(self, world_size: int) -> str:
        """Why this layout does not fit `world_size` ranks; empty if it does."""
        product = self.tensor * self.sequence * self.pipeline
        if world_size % product == 0:
            return ""
        return (
            f"parallel: tensor x sequence x pipeline = {self.tensor} x {self.sequence} x {self.pipeline} = "
            f"{product} must divide the number of ranks, {world_size}; start a multiple of {product}"
        )

    def problems(self) -> list[str]:
        """Every rule this layout breaks by itself, one line each."""
        found = [
            f"parallel.{axis}={getattr(self, axis)}: must be at least 1"
            for axis in ("tensor", "pipeline", "sequence")
            if getattr(self, axis) < 1
        ]
        for name, known in (
            ("pipeline_schedule", PIPELINE_SCHEDULES),
            ("sequence_layout", SEQUENCE_LAYOUTS),
        ):
            if getattr(self, name) not in known:
                found.append(
                    f"parallel.{name}={getattr(self, name)}: must be one of {', '.join(known)}"
                )
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
                "parallel.zero_stage=0: is for the data axis alone, its gradient norm knows no other; "
                "use parallel.zero_stage=1"
            )
        if self.zero_stage not in ZERO_STAGES:
            found.append(f"parallel.zero_stage={self.zero_stage}: unknown stage; use 0, 1, 2 or 3")
        if self.bucket_elements < 1:
            found.append(f"parallel.bucket_elements={self.bucket_elements}: must be positive")
        return found + self._timeout_problems()

    def _timeout_problems(self) -> list[str]:
        found = [
            f"parallel.timeouts.{name}: unknown; there are {', '.join(TIMED)}"
            for name in self.timeouts
            if name not in TIMED
        ]
        named = {f"timeouts.{name}": seconds for name, seconds in self.timeouts.items()}
        for name in ("timeout_seconds", "first_step_seconds"):
            named[name] = getattr(self, name)
        found += [
            f"parallel.{name}={seconds}: must be a number of seconds, from 1 to {MOST_SECONDS}"
            for name, seconds in named.items()
            if not 1.0 <= seconds <= MOST_SECONDS
        ]
        return found


@dataclass
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101); the learning rate is the schedule's."""

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    # Decoupled decay of matrices; embeddings and norm weights are never decayed.
    weight_decay: float = 0.1
    # Global gradient norm above which gradients are scaled down; 0 clips nothing.
    gradient_clipping: float = 1.0

    def problems(self) -> list[str]:
        """Every rule these numbers break, one line each."""
        found = []
        for name in ("beta1", "beta2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                found.append(f"optimizer.{name}={getattr(self, name)}: must be in [0, 1)")
        if not 0.0 < self.epsilon < math.inf:
            found.append(f"optimizer.epsilon={self.epsilon}: must be positive; usual is 1e-8")
        for name in ("weight_decay", "gradient_clipping"):
            if not 0.0 <= getattr(self, name) < math.inf:
                found.append(
                    f"optimizer.{name}={getattr(self, name)}: must be a finite number, 0 or more"
                )
        return found
