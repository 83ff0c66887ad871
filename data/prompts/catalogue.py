"""The long-context tasks by name. To add one, write a file in data/prompts/tasks/ and a row of `TASKS`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from data.prompts.draws import Draws
from data.prompts.encoder import Encoder
from data.prompts.fill import Maker
from data.prompts.filler import Filler
from data.prompts.tasks.common_words import CommonWords
from data.prompts.tasks.first_sentence import FirstSentence
from data.prompts.tasks.frequent_words import FrequentWords
from data.prompts.tasks.graph_walks import NodesAtDepth, NodesWithEdgeTo
from data.prompts.tasks.json_pairs import JsonPairs
from data.prompts.tasks.labelled_items import Asked, LabelledItems
from data.prompts.tasks.linked_fact import LinkedFact
from data.prompts.tasks.many_shot import ManyShot
from data.prompts.tasks.needles import Needles, NeedlesAlone
from data.prompts.tasks.passkey import Passkey
from data.prompts.tasks.personal_passkey import CANDIDATES, PersonalPasskey
from data.prompts.tasks.questions import open_hotpot, open_squad
from data.prompts.tasks.repeated_request import RepeatedRequest
from data.prompts.tasks.repeated_words import Copy, Induction
from data.prompts.tasks.table import Table
from data.prompts.tasks.tracked_objects import TrackedObjects
from data.prompts.tasks.tracking import Tracking
from data.prompts.writing import Writer

# How the source of a task judges what a model writes. exact: the answer itself, which a hit is. contained: every part
# of the answer occurs in the text, in any order. set: F1 of the parts. A hit is stricter than the last two.
# likelihood: of several prompts the one with the smallest loss of the same answer must be the right one.
Judged = Literal["exact", "contained", "set", "likelihood"]
# What lies between the lines of the context: noise, documents of the run, or nothing (items of the task's own).
Between = Literal["noise", "documents", "items"]


@dataclass(frozen=True)
class PromptTask:
    """A row of the table.

    open: makes the writer; the argument is the path of the user's file, empty for a task without one. source: where
    the task comes from. has_depth: whether the depth of what is asked for can be chosen. candidates: how many prompts
    in a row (numbers n * candidates and following) ask the same question, for tasks judged by likelihood. worked: the
    fewest worked examples in front of a prompt, which the source of the task has too. chance: share of hits of a guess
    among the answers that the form of the prompt allows; 0 if it is below 1 in 500.
    """

    open: Callable[[str], Writer]
    source: str
    judged: Judged = "exact"
    between: Between = "noise"
    has_depth: bool = True
    needs_file: bool = False
    candidates: int = 1
    worked: int = 0
    chance: float = 0.0

    def maker(
        self,
        encoder: Encoder,
        filler: Filler,
        *,
        file: str = "",
        worked: int = 0,
        begin: tuple[int, ...] = (),
    ) -> Maker:
        """Returns what makes the prompts. file: of the user. worked, begin: see `Maker`.

        Raises:
            ValueError: the file is missing or malformed.
        """
        return Maker(
            writer=self.open(file),
            encoder=encoder,
            filler=filler,
            items=self.between == "items",
            worked=max(worked, self.worked),
            begin=begin,
            candidates=self.candidates,
        )


def made_by(writer: Writer) -> Callable[[str], Writer]:
    """Returns a function that gives this writer, for a task without a file."""
    return lambda _: writer


_RULER = "RULER (arXiv 2404.06654)"


def _needles(writer: Writer, between: Between) -> PromptTask:
    return PromptTask(made_by(writer), _RULER, "contained", between)


def _questions(opened: Callable[[str], Writer]) -> PromptTask:
    return PromptTask(opened, _RULER, "contained", "items", needs_file=True)


def _graph(writer: Writer) -> PromptTask:
    return PromptTask(made_by(writer), "GraphWalks-like", "set", "items", has_depth=False)


def _events(writer: TrackedObjects) -> PromptTask:
    return PromptTask(made_by(writer), "BABILong-like (arXiv 2406.10149)", chance=1 / writer.places)


def _labelled(asked: Asked, chance: float) -> PromptTask:
    return PromptTask(
        made_by(LabelledItems(asked)),
        "Oolong-like (arXiv 2511.02817)",
        between="items",
        has_depth=False,
        chance=chance,
    )


TASKS: Mapping[str, PromptTask] = MappingProxyType(
    {
        "passkey": PromptTask(made_by(Passkey()), "passkey (arXiv 2305.16300)"),
        "niah_single_1": _needles(Needles(), "noise"),
        "niah_single_2": _needles(Needles(), "documents"),
        "niah_single_3": _needles(Needles(value=Draws.uuid), "documents"),
        "niah_multikey_1": _needles(Needles(keys=4), "documents"),
        "niah_multikey_2": _needles(NeedlesAlone(), "items"),
        "niah_multikey_3": _needles(NeedlesAlone(Draws.uuid, Draws.uuid), "items"),
        "niah_multivalue": _needles(Needles(values=4), "documents"),
        "niah_multiquery": _needles(Needles(keys=4, queries=4), "documents"),
        "vt": PromptTask(made_by(Tracking()), _RULER, "contained", worked=1),
        "cwe": PromptTask(
            made_by(CommonWords()), _RULER, "contained", "items", has_depth=False, worked=1
        ),
        "fwe": PromptTask(made_by(FrequentWords()), _RULER, "contained", "items", has_depth=False),
        "qa_1": _questions(open_squad),
        "qa_2": _questions(open_hotpot),
        "graphwalks_depth": _graph(NodesAtDepth()),
        "graphwalks_parents": _graph(NodesWithEdgeTo()),
        "mrcr": PromptTask(made_by(RepeatedRequest()), "MRCR-like (arXiv 2409.12640)"),
        "babilong_1": _events(TrackedObjects(facts=1)),
        "babilong_2": _events(TrackedObjects(facts=2)),
        "nolima": PromptTask(made_by(LinkedFact()), "NoLiMa-like (arXiv 2502.05167)", chance=1 / 5),
        # The chance of a count is that of 30 lines. It falls as 1 / lines.
        "oolong_count": _labelled("count", 1 / 9),
        "oolong_subset": _labelled("subset", 1 / 2),
        "oolong_majority": _labelled("majority", 1 / 4),
        "oolong_compare": _labelled("compare", 1 / 2),
        "json_pairs": PromptTask(
            made_by(JsonPairs()), "JSON key-value (arXiv 2307.03172)", between="items"
        ),
        "table": PromptTask(
            made_by(Table()), "SynL-like (arXiv 2406.00605)", between="items", chance=1 / 75
        ),
        "first_sentence": PromptTask(
            made_by(FirstSentence()), "first sentence of the text", has_depth=False
        ),
        "copy": PromptTask(made_by(Copy()), "copy at a distance"),
        "induction": PromptTask(made_by(Induction()), "induction at a distance", between="items"),
        "personal_passkey": PromptTask(
            made_by(PersonalPasskey()),
            "LongEmbed's personalised passkey (arXiv 2404.12096)",
            judged="likelihood",
            candidates=CANDIDATES,
            chance=1 / CANDIDATES,
        ),
        "many_shot": PromptTask(
            made_by(ManyShot()),
            "many-shot labels without meaning (arXiv 2410.02694)",
            between="items",
            has_depth=False,
            chance=1 / 6,
        ),
    }
)
