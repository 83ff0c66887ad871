"""Settings of the long-context tasks that a run is evaluated with."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Le

from data.config import PathText


@dataclass
class PromptTaskConfig:
    """A long-context task: prompts of several lengths and depths, whose answer one forward scores."""

    # Name of the task (docs/evaluation.md); empty: the name of this entry.
    task: str = ""
    # Lengths in tokens of prompt and answer together, also beyond the training length; empty: a quarter, a half, the
    # whole and the double of the stage's sequence length.
    lengths: list[Annotated[int, Ge(8), Le(2**31 - 1)]] = field(default_factory=list)
    # Number of depths of what is asked for, evenly from the begin to the end of the context; 1: in the middle.
    depths: Annotated[int, Ge(1), Le(1_000)] = 5
    # Prompts for each length and depth.
    samples: Annotated[int, Ge(1), Le(1_000_000)] = 4
    # Optimizer steps between two evaluations of this task inside a stage, beside the one at its end; null: as
    # evaluation.every_steps. 0: only at the end of the stage.
    every_steps: Annotated[int, Ge(0)] | None = None
    # What lies between the lines of a prompt: noise, documents (held-out ones of the run), or what the task has.
    haystack: Literal["task", "noise", "documents"] = "task"
    # Number of worked examples before each prompt; vt and cwe have at least one.
    worked: Annotated[int, Ge(0), Le(64)] = 0
    # Tokens before the answer, behind worked examples and instruction, that a second score is given; 0: none.
    last_tokens: Annotated[int, Ge(0), Le(2**31 - 1)] = 0
    # Whether each prompt is also scored without its needles, and with the needles of another prompt.
    controls: bool = False
    # File with the questions of a task that needs one; empty: none.
    file: PathText = ""
    # Seed of the prompts.
    seed: Annotated[int, Ge(0)] = 0

    def depth_grid(self) -> list[float]:
        """Returns the depths, as shares of the context."""
        if self.depths == 1:
            return [0.5]
        return [index / (self.depths - 1) for index in range(self.depths)]

    def lengths_at(self, sequence_length: int) -> list[int]:
        """Returns the lengths for a stage of this sequence length, in tokens."""
        if self.lengths:
            return sorted(self.lengths)
        return [max(8, sequence_length * part // 4) for part in (1, 2, 4, 8)]
