"""Prompts of a long-context task as documents; only the tokens of the answer count.

The tasks are those of data/prompts/catalogue.py. The depth of what is asked for is uniform between two bounds. Without
a tokenizer the ids are those of the closed vocabulary (data/prompts/encoder.py), from `first_id` on.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le

from data.generated.documents import GeneratedDocuments, key, one_below
from data.prompts.catalogue import TASKS
from data.prompts.encoder import FEWEST_IDS, ClosedVocabulary, Encoder, closed_size
from data.prompts.fill import Prompt, TooShort
from data.prompts.filler import Documents, Filler, Noise
from data.prompts.text import TextOfRun
from data.prompts.writing import Request

_DEPTH = 0x4445_5054
_STEPS = 1 << 20
# Documents whose smallest prompts are made to judge the settings.
_JUDGED = 16


@dataclass(kw_only=True)
class Prompts(GeneratedDocuments):
    """Prompts of a long-context task with their answers; only the answers count as targets."""

    task: Literal["prompts"]
    # Name of the long-context task: see docs/evaluation.md.
    of: str = "passkey"
    # Ids of the prompts. closed: of a closed vocabulary, one for each word, digit and sign. tokenizer: those of the
    # tokenizer of the run's token files.
    vocabulary: Literal["closed", "tokenizer"] = "closed"
    # What lies between the lines of a prompt: noise, or documents (training ones of the first token files).
    haystack: Literal["noise", "documents"] = "noise"
    # Number of worked examples before each prompt; vt and cwe have at least one.
    worked: Annotated[int, Ge(0), Le(64)] = 0
    # Smallest depth of what is asked for, as a share of the context.
    min_depth: Annotated[float, Ge(0), Le(1)] = 0.0
    # Largest depth of what is asked for, as a share of the context; depths are uniform between both bounds.
    max_depth: Annotated[float, Ge(0), Le(1)] = 1.0
    # Number of different ids: characters, then the first words of the closed vocabulary; other words are spelled.
    ids: int = closed_size()

    @property
    def is_text(self) -> bool:
        """Whether the ids are those of the run's tokenizer."""
        return self.vocabulary == "tokenizer"

    def largest_id(self, *special: int | None) -> int:
        """The largest id that is not known from the token files."""
        return 0 if self.is_text else super().largest_id(*special)

    def problems(self) -> list[str]:
        """Returns every broken rule between these fields, one line each."""
        found = super().problems()
        if self.of not in TASKS:
            known = ", ".join(sorted(TASKS))
            return [*found, f"of={self.of}: is no long-context task; they are: {known}"]
        if not FEWEST_IDS <= self.ids <= closed_size():
            found.append(
                f"ids={self.ids}: the closed vocabulary has {closed_size()} ids, of which the first {FEWEST_IDS} are"
                f" characters; give {FEWEST_IDS} to {closed_size()}"
            )
        if self.haystack == "documents" and not self.is_text:
            found.append(
                "haystack=documents: documents have the ids of a tokenizer; give vocabulary=tokenizer"
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
        """Text may have more tokens than words: its length is judged when the tokenizer is known."""
        closed = replace(self, vocabulary="closed", haystack="noise")
        return closed.too_short(PromptsTask(replace(closed, max_length=self.min_length), 2))

    def too_short(self, shortest: "PromptsTask") -> list[str]:
        """Returns a line if the first documents of the task are longer than its settings allow."""
        needed = max(shortest.needed(number) for number in range(_JUDGED)) + 2
        if needed <= self.min_length:
            return []
        return [
            f"min_length={self.min_length}: the smallest prompt of {self.of}, BOS and end token are {needed} tokens;"
            f" give min_length={needed} or more"
        ]


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

    def __init__(self, settings: Prompts, num_special: int, text: TextOfRun | None = None) -> None:
        self._settings, self._num_special = settings, num_special
        encoder: Encoder = ClosedVocabulary(np.arange(settings.ids))
        if text is not None:
            encoder = text.encoder
        filler: Filler = Noise(encoder)
        # An estimate of lengths is made before the documents are known.
        if settings.haystack == "documents" and text is not None and text.documents is not None:
            filler = Documents(text.documents, encoder, text.special)
        self._maker = TASKS[settings.of].maker(encoder, filler, worked=settings.worked)

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
        for request in self._requests(number, depth):
            try:
                return PromptDocument(self._maker.prompt(request, length))
            except TooShort as error:
                too_short = error
        raise too_short

    def needed(self, number: int) -> int:
        """Returns the tokens of the smallest prompt that this document may have; without filler, so in little time."""
        length, least = self._settings.room_of_one(number, self._num_special), 1 << 62
        for request in self._requests(number, 0.5):
            least = min(least, self._maker.needed(request, length))
            if least <= length:
                break
        return least

    def _requests(self, number: int, depth: float) -> Iterator[Request]:
        """Yields what this document may be, the first choice first; of candidates for one question the right one."""
        maker, seed = self._maker, self._settings.seed
        for numbers in maker.groups(number):
            group = [Request(seed, one, depth) for one in numbers]
            yield next(one for one in group if len(group) == 1 or maker.writer.write(one).right)
