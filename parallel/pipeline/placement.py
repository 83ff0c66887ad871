"""The pipeline rank of every stage.

1f1b               rank 0: stage 0    rank 1: stage 1    rank 2: stage 2    rank 3: stage 3
interleaved_1f1b           0, 4               1, 5               2, 6               3, 7
zbv                        0, 7               1, 6               2, 5               3, 4      (a V)
"""

from dataclasses import dataclass

from parallel.config import ParallelConfig

STAGES_PER_RANK = {"1f1b": 1, "interleaved_1f1b": 2, "zbv": 2}


@dataclass(frozen=True)
class Placement:
    """The assignment of pipeline stages to pipeline ranks."""

    schedule: str
    ranks: int
    num_stages: int

    def rank_of(self, stage: int) -> int:
        """The pipeline rank that holds `stage`."""
        if self.schedule == "zbv" and stage >= self.ranks:
            return 2 * self.ranks - 1 - stage
        return stage % self.ranks

    def stages_of(self, rank: int) -> tuple[int, ...]:
        """The stages of a pipeline rank, ascending."""
        return tuple(stage for stage in range(self.num_stages) if self.rank_of(stage) == rank)


def place_stages(parallel: ParallelConfig) -> Placement:
    """Returns the placement of a layout; with interleaved_1f1b `pipeline_split` may give more stages a rank."""
    ranks, schedule = parallel.pipeline, parallel.pipeline_schedule
    if ranks == 1:
        return Placement("1f1b", 1, 1)
    num_stages = ranks * STAGES_PER_RANK[schedule]
    if schedule == "interleaved_1f1b" and parallel.pipeline_split:
        num_stages = len(parallel.pipeline_split)
    return Placement(schedule, ranks, num_stages)
