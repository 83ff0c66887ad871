"""Prompts of a long-context task as documents; only the tokens of the answer count.

The tasks are those of data/prompts/catalogue.py. The depth of what is asked for is uniform between two bounds. Without
a tokenizer the ids are those of the closed vocabulary (data/prompts/encoder.py), from `first_id` on.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le

from data.generated.documents import GeneratedDocuments, key, one_below
from data.prompts.catalogue import TASKS
from data.prompts.encoder import ClosedVocabulary, closed_size
from data.prompts.fill import Prompt, TooShort
from data.prompts.filler import Noise
from data.prompts.writing import Request

_DEPTH = 0x4445_5054
_STEPS = 1 << 20
# Prompts that are tried for one document, and the distance of their numbers.
_TRIED, _ANOTHER = 16, 1 << 42


@dataclass(kw_only=True)
class Prompts(GeneratedDocuments):
    """Prompts of a long-context task with their answers; only the answers count as targets."""

    task: Literal["prompts"]
    # Name of the long-context task: see docs/evaluation.md.
    of: str = "passkey"
    # Number of worked examples before each prompt; vt and cwe have at least one.
    worked: Annotated[int, Ge(0), Le(64)] = 0
    # Smallest depth of what is asked for, as a share of the context.
    min_depth: Annotated[float, Ge(0), Le(1)] = 0.0
    # Largest depth of what is asked for, as a share of the context; depths are uniform between both bounds.
    max_depth: Annotated[float, Ge(0), Le(1)] = 1.0
    # Number of different ids: those of the closed vocabulary.
    ids: int = closed_size()

    def problems(self) -> list[str]:
        """Returns every broken rule between these fields, one line each."""
        found = super().problems()
        if self.of not in TASKS:
            known = ", ".join(sorted(TASKS))
            return [*found, f"of={self.of}: is no long-context task; they are: {known}"]
        if self.ids != closed_size():
            found.append(
                f"ids={self.ids}: prompts have the {closed_size()} ids of the closed vocabulary; drop it"
            )
        if self.min_depth > self.max_depth:
            found.append(
                f"min_depth={self.min_depth}: is more than max_depth={self.max_depth}; give"
                f" max_depth={self.min_depth}"
            )
        if TASKS[self.of].needs_file:
            return [
                *found,
                f"of={self.of}: reads a file of the user, evaluation.tasks only; drop it",
            ]
        return found or self._length_problems()

    def _length_problems(self) -> list[str]:
        shortest = PromptsTask(replace(self, max_length=self.min_length), 2)
        try:
            for number in range(_TRIED):
                shortest.document(number)
        except TooShort as error:
            needed = error.needed + 2
            return [
                f"min_length={self.min_length}: the smallest prompt of {self.of}, BOS and end token are {needed}"
                f" tokens; give min_length={needed} or more"
            ]
        return []


@dataclass(frozen=True)
class PromptDocument:
    """One prompt with its answer."""

    prompt: Prompt

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt.ids)

    def symbols(self, start: int, stop: int) -> np.ndarray:
        """Returns the ids [start, stop)."""
        return self.prompt.ids[start:stop]

    def labelled(self, start: int, stop: int) -> np.ndarray:
        """Returns which of these ids belong to the answer."""
        return np.arange(start, stop) >= self.prompt.answer

    def count_labelled(self, start: int, stop: int) -> int:
        """Returns how many of these ids belong to the answer."""
        return max(0, stop - max(start, self.prompt.answer))


class PromptsTask:
    """The documents of the settings, by number."""

    def __init__(self, settings: Prompts, num_special: int) -> None:
        self._settings, self._num_special = settings, num_special
        encoder = ClosedVocabulary()
        self._maker = TASKS[settings.of].maker(encoder, Noise(encoder), worked=settings.worked)

    def lengths(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the symbols of the documents with these numbers."""
        return self._settings.room(numbers, self._num_special)

    def document(self, number: int) -> PromptDocument:
        """Returns the document of this number."""
        settings = self._settings
        share = one_below(key(settings.seed, number, _DEPTH), _STEPS + 1) / _STEPS
        depth = settings.min_depth + share * (settings.max_depth - settings.min_depth)
        length = settings.room_of_one(number, self._num_special)
        # The parts of a prompt differ in length: of a number whose prompt is too long another prompt is taken.
        for attempt in range(_TRIED):
            request = Request(settings.seed, number + attempt * _ANOTHER, depth)
            try:
                return PromptDocument(self._maker.prompt(request, length))
            except TooShort as error:
                too_short = error
        raise too_short
