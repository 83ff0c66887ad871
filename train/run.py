"""All objects of a running job, built once by `train/build.py`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from parallel.mesh import Mesh
from train.checkpointing.checkpoint import Checkpoints
from train.checkpointing.state import RunState
from train.configuration.schema import RunConfig
from train.evaluation.peak_memory import PeakMemory
from train.evaluation.tasks import Task
from train.health.stragglers import Stragglers
from train.health.supervisor import Supervisor
from train.records.metrics_log import RunLog
from train.records.wandb_log import WandbLog
from train.report.refresh import LivePage
from train.schedule.stages import Schedule
from train.trainer import Trainer


class RunFailed(OSError):
    """One rank cannot read or write something, which ends the run on all ranks."""


def raise_failure(failure: ValueError | OSError | None) -> None:
    """Raises `RunFailed` with the reason of a rank that has one."""
    if failure is not None:
        raise RunFailed(str(failure)) from failure


@dataclass
class Run:
    """All objects of a running job."""

    config: RunConfig
    folder: Path
    # Mesh, trainer and tasks belong to the layout of the stage: see `train/build.py: reform`.
    mesh: Mesh
    schedule: Schedule
    trainer: Trainer
    state: RunState
    checkpoints: Checkpoints
    # By name: see train/evaluation/tasks.py.
    tasks: Mapping[str, Task]
    # Peak FLOP/s of one device, for the MFU: see model/peak_flops.py. None: unknown.
    peak_flops: float | None = None
    # Peak memory of this rank, of training and of an evaluation.
    memory: PeakMemory = field(default_factory=PeakMemory)
    # None on ranks other than the main rank.
    log: RunLog | None = None
    wandb: WandbLog | None = None
    page: LivePage | None = None
    # Error of reading or writing on this rank. The next step's vote passes it to the other ranks.
    failure: ValueError | OSError | None = None
    stragglers: Stragglers | None = None
    # None in tests of the loop alone.
    supervisor: Supervisor | None = None

    def phase(self, name: str) -> None:
        """Records what the run does from now on."""
        if self.supervisor is not None:
            self.supervisor.phase(name)

    def news(self) -> list[str]:
        """Returns warnings of checkpoints, logs and page since the last call; the main rank prints them."""
        lines = self.checkpoints.news()
        for log in (self.log, self.wandb, self.page):
            lines += log.news() if log is not None else []
        return lines

    def save(self) -> None:
        """Writes a checkpoint of the state. Collective."""
        self.phase("checkpoint")
        # A checkpoint must not outlive the rows before it.
        rows = None if self.log is None else self.log.sync
        self.checkpoints.save(self.trainer.engine, self.state, before=rows)

    @property
    def total_tokens(self) -> int:
        """Returns the tokens seen at the end of the run: by the schedule, or by train.max_steps."""
        most, state = self.config.train.max_steps, self.state
        left = None if most is None else max(0, most - state.step)
        shapes = islice(self.schedule.shapes(state.tokens_seen), left)
        return state.tokens_seen + sum(shape.batch_tokens for shape in shapes)

    @property
    def is_over(self) -> bool:
        """Whether no step is left."""
        return is_over(self.config, self.schedule, self.state)


def is_over(config: RunConfig, schedule: Schedule, state: RunState) -> bool:
    """Whether a run at `state` has no step left."""
    most = config.train.max_steps
    done = most is not None and state.step >= most
    return done or state.tokens_seen >= schedule.total_tokens
