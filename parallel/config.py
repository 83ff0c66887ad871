"""The knobs of the layout: how many ranks each axis takes and what ZeRO shards."""

import math
from dataclasses import dataclass, field

ZERO_STAGES = (0, 1, 2, 3)
PIPELINE_SCHEDULES = ("1f1b", "interleaved_1f1b", "zbv")
SEQUENCE_LAYOUTS = ("zigzag", "balanced", "contiguous")


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
    # Seconds a collective may wait for a peer before the run is declared dead.
    timeout_seconds: int = 1800

    def problems(self) -> list[str]:
        """Every rule this layout breaks by itself, one line each."""
        found = []
        for axis in ("tensor", "pipeline", "sequence"):
            size = getattr(self, axis)
            if size != 1:
                found.append(
                    f"parallel.{axis}={size}: this version runs data parallelism with ZeRO only; "
                    f"use parallel.{axis}=1"
                )
        if self.zero_stage not in ZERO_STAGES:
            found.append(f"parallel.zero_stage={self.zero_stage}: unknown stage; use 0, 1, 2 or 3")
        for name in ("bucket_elements", "timeout_seconds"):
            if getattr(self, name) < 1:
                found.append(f"parallel.{name}={getattr(self, name)}: must be positive")
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
