"""The evaluations of a run as a table of tasks. To add one, write a class in its own file and a row of `TASKS`.

loop -> for every task: evaluate -> a row of evaluation.jsonl -> sentence on the console, numbers to W&B
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from data.batch import Dealer
from data.sources import Corpus
from parallel.mesh import Mesh
from train.configuration.schema import RunConfig
from train.evaluation import accuracy, held_out, long_perplexity, mixed_held_out
from train.evaluation.prompts import make_prompt_tasks
from train.schedule.stages import Point
from train.trainer import Trainer

Row = Mapping[str, Any]


class Task(Protocol):
    """Interface: one evaluation of the current weights. It need not care what it leaves behind: see undisturbed.py."""

    # Optimizer steps between two evaluations inside a stage; 0: only at its end, where every task runs.
    every_steps: int

    def evaluate(self, trainer: Trainer, point: Point) -> Row:
        """Returns the result as one JSON object, equal on all ranks. Collective.

        point: the step just taken; its stage's length and micro-batches are used, and its settings of attention.
        """

    def sentence(self, row: Row) -> str:
        """Returns the text for the console, after the name of the stage."""

    def numbers(self, row: Row) -> Mapping[str, float]:
        """Returns names and numbers for the curves of W&B."""

    def table(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Returns the lines of W&B's table, all with the same columns. rows: all evaluations of the task so far."""


# Makes a task for the layout of the mesh, or None if the run has no data for it. `deal`: assigns a stream to
# sequence ranks in that layout.
MakeTask = Callable[[RunConfig, Mesh, Corpus, Dealer | None], Task | None]
# By their names in the rows of evaluation.jsonl, in order of evaluation.
TASKS: Mapping[str, MakeTask] = MappingProxyType(
    {
        held_out.NAME: held_out.make_task,
        accuracy.NAME: accuracy.make_task,
        long_perplexity.NAME: long_perplexity.make_task,
    }
)


def make_tasks(
    config: RunConfig, mesh: Mesh, corpus: Corpus, deal: Dealer | None
) -> dict[str, Task]:
    """Returns the tasks of a run by name; none if evaluation is off."""
    if not config.evaluation.enabled:
        return {}
    made = {name: make(config, mesh, corpus, deal) for name, make in TASKS.items()}
    known = {name: task for name, task in made.items() if task is not None}
    first = known.get(held_out.NAME)
    if isinstance(first, held_out.HeldOutLoss):
        more = {f"{held_out.NAME}_{one.name}": first.of_another(one) for one in corpus.more_heldout}
        known |= more
        if corpus.of_sources:
            if not config.data.heldout:
                del known[held_out.NAME]
            known |= _of_sources(config, corpus, first)
    return known | make_prompt_tasks(config, mesh, corpus, deal)


def _of_sources(config: RunConfig, corpus: Corpus, first: held_out.HeldOutLoss) -> dict[str, Task]:
    """Returns the held-out loss of every source, and their mean, which is `held_out` without `data.heldout`."""
    numbers = {source.name: number for number, source in enumerate(corpus.sources)}
    parts = {numbers[one.name]: first.of_another(one) for one in corpus.of_sources}
    found: dict[str, Task] = {f"{held_out.NAME}_{one.source_name}": one for one in parts.values()}
    mean = mixed_held_out.MixedHeldOut(parts, config.evaluation.every_steps)
    return found | {f"{held_out.NAME}_mix" if config.data.heldout else held_out.NAME: mean}
