"""Which prompts a long-context task of a run asks for: their numbers, lengths and depths."""

from dataclasses import dataclass

from data.generated.documents import HELD_OUT
from data.prompts.catalogue import TASKS
from data.prompts.fill import Maker, TooShort
from data.prompts.filler import Documents, Filler, Noise
from data.prompts.text import TextOfRun
from data.prompts.writing import Request
from train.configuration.prompt_settings import PromptTaskConfig
from train.configuration.schema import RunConfig


@dataclass(frozen=True)
class PromptPlan:
    """The prompts of one entry of evaluation.tasks. name: of the entry. task: of the catalogue."""

    name: str
    task: str
    settings: PromptTaskConfig
    maker: Maker

    @property
    def depths(self) -> list[float | None]:
        """The depths of a length's cells, in order; None for a task without a depth."""
        return list(self.settings.depth_grid()) if TASKS[self.task].has_depth else [None]

    @property
    def each(self) -> int:
        """Prompts of one cell."""
        return self.settings.samples * TASKS[self.task].candidates

    def requests(self, length: int) -> list[Request]:
        """Returns what is asked for in all cells of a length, in order; the candidates of a question together.

        Raises:
            TooShort: a prompt has no room in the length.
        """
        found = list[Request]()
        for index, depth in enumerate(self.depths):
            for sample in range(self.settings.samples):
                number = index * self.settings.samples + sample
                found += self._that_fit(number, 0.5 if depth is None else depth, length)
        return found

    def fits(self, length: int) -> bool:
        """Whether all prompts have room in the length."""
        try:
            self.requests(length)
        except TooShort:
            return False
        return True

    def problems(self) -> list[str]:
        """Returns a line if a given length has no room for the prompts."""
        if not self.settings.lengths:
            return []
        try:
            self.requests(min(self.settings.lengths))
        except TooShort as error:
            return [
                f"evaluation.tasks.{self.name}.lengths={self.settings.lengths}: a prompt of {self.task} needs"
                f" {error.needed} tokens; give lengths from {error.needed} on"
            ]
        return []

    def joined_otherwise(self) -> list[str]:
        """Returns the borders of the first prompt's parts at which the whole text would have other ids."""
        first = HELD_OUT * TASKS[self.task].candidates
        return self.maker.joined_otherwise(Request(self.settings.seed, first))

    def _that_fit(self, number: int, depth: float, length: int) -> list[Request]:
        """Returns the requests for one question. The parts of prompts differ in length: if these are too long, others.

        None of them is a training document of a generated source.
        """
        needed = 0
        for numbers in self.maker.groups(HELD_OUT + number):
            some = [Request(self.settings.seed, one, depth) for one in numbers]
            needed = max(self.maker.needed(one, length) for one in some)
            if needed <= length:
                return some
        raise TooShort(length, needed)


def prompt_plans(config: RunConfig, text: TextOfRun) -> dict[str, PromptPlan]:
    """Returns the plans of all entries of evaluation.tasks by name.

    Raises:
        ValueError: a task takes documents and there are none, its file is wrong, or a length has no room; a line each.
        OSError: a file cannot be read.
    """
    plans = {
        name: PromptPlan(
            name, settings.task or name, settings, _maker(settings, settings.task or name, text)
        )
        for name, settings in config.evaluation.tasks.items()
    }
    if problems := [line for plan in plans.values() for line in plan.problems()]:
        raise ValueError("\n".join(problems))
    return plans


def _maker(settings: PromptTaskConfig, name: str, text: TextOfRun) -> Maker:
    task = TASKS[name]
    haystack = task.between if settings.haystack == "task" else settings.haystack
    filler: Filler = Noise(text.encoder)
    if haystack == "documents":
        if text.documents is None:
            raise ValueError(
                f"evaluation.tasks: {name} takes held-out text as filler, and there is none; give data.heldout, or"
                " haystack=noise"
            )
        filler = Documents(text.documents, text.encoder, text.special)
    return task.maker(
        text.encoder, filler, file=settings.file, worked=settings.worked, begin=text.begin
    )
