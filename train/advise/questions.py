"""The questions of an engineer who plans a longer context, each with a short answer and its tables.

Terminal and page show the same texts and tables; `notes` say what a number means and where it comes from.
"""

from collections.abc import Callable

from train.advise.advice import Advice
from train.advise.base_answer import base_question
from train.advise.cost_answer import cost_question
from train.advise.decay_answer import decay_question
from train.advise.effective_answer import effective_question
from train.advise.pair_answers import extrapolation_question, pairs_question
from train.advise.tables import Question

QUESTIONS: tuple[Callable[[Advice], Question], ...] = (
    base_question,
    pairs_question,
    extrapolation_question,
    effective_question,
    decay_question,
    cost_question,
)


def questions(found: Advice) -> list[Question]:
    """Returns every question with its answer, in reading order."""
    return [question(found) for question in QUESTIONS]
