"""Prompts of one length of a long-context task, made where a rank reads them.

128k tokens at 40 depths are 42 MB of ids for each sample, length and task, so no rank holds all of them: every rank
knows where the answers begin, and makes the prompts of its own streams.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from data.prompts.fill import Control, Prompt
from parallel.mesh import Mesh
from train.evaluation.prompt_plan import PromptPlan

# Tokens of prompts of one length that a rank keeps from one evaluation to the next; the others are made again.
_KEPT_TOKENS = 1 << 18


@dataclass(frozen=True)
class Outline:
    """What every rank knows of a prompt. tokens: with its answer. answer, right: see `Prompt`."""

    tokens: int
    answer: int
    right: bool = True

    @classmethod
    def of(cls, prompt: Prompt) -> "Outline":
        """Returns that of a prompt."""
        return cls(len(prompt.ids), prompt.answer, prompt.right)


@dataclass(frozen=True)
class PromptSet:
    """Prompts as a source of documents; only the tokens of the answers have labels.

    outlines: of all prompts. ids: makes the ids of one, by its place among them.
    """

    outlines: Sequence[Outline]
    ids: Callable[[int], np.ndarray]

    def some(self, places: Sequence[int]) -> "PromptSet":
        """Returns the prompts at these places."""
        return PromptSet(
            [self.outlines[i] for i in places], lambda number: self.ids(places[number])
        )

    def read(self, document: int, start: int, length: int) -> np.ndarray:
        """Returns tokens [start, start + length) of prompt and answer."""
        return self.ids(document)[start : start + length]

    def label_mask(self, document: int, start: int, length: int) -> np.ndarray:
        """See data/labels.py."""
        return np.arange(start, start + length) >= self.outlines[document].answer

    def count_labels(self, document: int, start: int, length: int) -> int:
        """See data/labels.py."""
        return max(0, start + length - max(start + 1, self.outlines[document].answer))


class PromptsOfLength:
    """The prompts of one length, in order of their cells. A prompt is made where a rank reads it, and few are kept.

    Every rank knows the outlines. Each makes some of the prompts for them, so they take as long as one rank's part.

    Raises:
        ValueError, OSError: on every rank: a prompt could not be made.
    """

    def __init__(self, plan: PromptPlan, length: int, mesh: Mesh) -> None:
        self._maker, self._length, self._last = plan.maker, length, plan.settings.last_tokens
        self._requests = mesh.together(lambda: plan.requests(length))
        self._made = lru_cache(max(2, _KEPT_TOKENS // length))(self._make)
        own = range(mesh.rank, len(self._requests), mesh.world_size)
        found = mesh.together(lambda: [self._outlines(number) for number in own])
        # By rank; rank r made those at r, r + ranks, ...
        by_rank = mesh.gather_objects(found)
        every = [by_rank[i % len(by_rank)][i // len(by_rank)] for i in range(len(self._requests))]
        self._whole, self._cut = [[pair[part] for pair in every] for part in (0, 1)]

    def prompts(self, control: Control = "none") -> PromptSet:
        """Returns the prompts. Those of a control have the outlines of the prompts themselves."""
        return PromptSet(self._whole, lambda number: self._made(number, control).ids)

    def last_parts(self) -> PromptSet:
        """Returns what `Prompt.last_part` leaves of each prompt."""
        return PromptSet(
            self._cut, lambda number: self._made(number, "none").last_part(self._last).ids
        )

    def _make(self, number: int, control: Control) -> Prompt:
        return self._maker.prompt(self._requests[number], self._length, control)

    def _outlines(self, number: int) -> tuple[Outline, Outline]:
        whole = self._made(number, "none")
        return Outline.of(whole), Outline.of(whole.last_part(self._last))
