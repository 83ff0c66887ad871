"""The long-context tasks by name. To add one, write a file in data/prompts/tasks/ and a row of `TASKS`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from data.prompts.tasks.passkey import Passkey
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
    in a row (numbers n * candidates and following) ask the same question, for tasks judged by likelihood.
    """

    open: Callable[[str], Writer]
    source: str
    judged: Judged = "exact"
    between: Between = "noise"
    has_depth: bool = True
    needs_file: bool = False
    candidates: int = 1


def made_by(writer: Writer) -> Callable[[str], Writer]:
    """Returns a function that gives this writer, for a task without a file."""
    return lambda _: writer


TASKS: Mapping[str, PromptTask] = MappingProxyType(
    {
        "passkey": PromptTask(made_by(Passkey()), "passkey (arXiv 2305.16300)"),
    }
)
