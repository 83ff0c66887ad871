"""The evaluations of a run, as a list of tasks. A new one is a class in a file of its own and a row of `TASKS`.

loop -> for every task: evaluate -> a row of evaluation.jsonl -> sentence on the console, numbers to W&B
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from data.batch import Dealer
from data.sources import Corpus
from parallel.mesh import Mesh
from train.configuration.schema import RunConfig
from train.evaluation import held_out
from train.schedule.stages import Stage
from train.trainer import Trainer

Row = Mapping[str, Any]


class Task(Protocol):
    """One evaluation of the weights as they are."""

    def evaluate(self, trainer: Trainer, stage: Stage, rope_base: float) -> Row:
        """What comes out, as one JSON object, equal on all ranks. Collective.

        stage: the one that has just been trained on, whose length and micro-batches are used.
        """

    def sentence(self, row: Row) -> str:
        """The row for people: what stands on the console after the stage's name."""

    def numbers(self, row: Row) -> Mapping[str, float]:
        """The row for curves: names and numbers, as W&B draws them."""

    def table(self, rows: Sequence[Row]) -> Sequence[Row]:
        """The lines of W&B's table, with the same columns: of all evaluations of the task so far."""


# Makes a task for one layout, or None where the run has nothing for it. The layout of the stages until the next
# change is that of the mesh; `deal`: how it cuts a stream among sequence ranks.
MakeTask = Callable[[RunConfig, Mesh, Corpus, Dealer | None], Task | None]
# By the name that stands in the rows of evaluation.jsonl, in the order in which they are evaluated.
TASKS: Mapping[str, MakeTask] = MappingProxyType({held_out.NAME: held_out.make_task})


def make_tasks(
    config: RunConfig, mesh: Mesh, corpus: Corpus, deal: Dealer | None
) -> dict[str, Task]:
    """The tasks of a run by name; none where evaluation is off."""
    if not config.evaluation.enabled:
        return {}
    made = {name: make(config, mesh, corpus, deal) for name, make in TASKS.items()}
    return {name: task for name, task in made.items() if task is not None}
