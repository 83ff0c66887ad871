"""Every long-context task is a source of training documents: exact lengths, and labels on the answers alone."""

from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest

from data.config import DataConfig
from data.generated.documents import HELD_OUT
from data.generated.prompts import Prompts, PromptsTask
from data.generated.source import GeneratedSource
from data.prompts.catalogue import TASKS
from data.prompts.encoder import ClosedVocabulary
from data.prompts.filler import Noise
from data.prompts.writing import Request
from data.sources import generate
from data.tokens.declared import declared_generated

NAMES = [name for name, task in TASKS.items() if not task.needs_file]
BOS, END = 2_000, 2_001


@lru_cache
def settings_of(name: str, more: int = 40) -> Prompts:
    """Returns settings of a task whose shortest document has no token to spare, as its own message tells."""
    [problem] = Prompts(task="prompts", of=name, min_length=3).problems()
    shortest = int(problem.rsplit("min_length=", 1)[1].split()[0])
    return Prompts(task="prompts", of=name, min_length=shortest, max_length=shortest + more)


@lru_cache
def source_of(name: str) -> GeneratedSource:
    settings, config = settings_of(name), DataConfig(end_id=END, bos_id=BOS)
    assert settings.problems() == []
    return generate(declared_generated("made", settings, config, []), settings, held_out=False)


@pytest.mark.parametrize("name", NAMES)
def test_documents_have_their_lengths_and_labels_on_the_answer_alone(name: str) -> None:
    settings = settings_of(name)
    made, task = source_of(name), PromptsTask(settings, 2)
    lengths = made.document_lengths(np.arange(6))
    assert settings.min_length <= lengths.min() < lengths.max() <= settings.max_length
    for number, length in enumerate(lengths.tolist()):
        tokens, prompt = made.read(number, 0, length), task.document(number).prompt
        assert (tokens[0], tokens[-1], len(prompt.ids) + 2) == (BOS, END, length)
        assert prompt.right
        mask = made.label_mask(number, 0, length)
        assert mask is not None
        # BOS before the prompt, the end token behind it.
        np.testing.assert_array_equal(
            np.flatnonzero(mask), np.arange(prompt.answer + 1, length - 1)
        )
        assert made.count_labels(number, 0, length) == mask.sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_documents_are_equal_at_any_split(name: str) -> None:
    made = source_of(name)
    other = replace(made)  # has made no document yet
    generator = np.random.default_rng(0)
    for number in (3, 0):
        length = int(made.document_lengths(np.array([number]))[0])
        whole, mask = made.read(number, 0, length), made.label_mask(number, 0, length)
        cuts = sorted({0, length, *generator.integers(0, length, 4).tolist()})
        spans = [(start, stop - start) for start, stop in pairwise(cuts)]
        read = [other.read(number, *span) for span in reversed(spans)][::-1]
        masks = [other.label_mask(number, *span) for span in spans]
        np.testing.assert_array_equal(np.concatenate(read), whole)
        np.testing.assert_array_equal(
            np.concatenate([one for one in masks if one is not None]), mask
        )


def test_a_training_document_is_a_prompt_that_no_evaluation_has() -> None:
    """An evaluation numbers its prompts from HELD_OUT on, as held-out documents: see train/evaluation/prompts.py."""
    settings = settings_of("passkey")
    task, encoder = PromptsTask(settings, 2), ClosedVocabulary()
    maker = TASKS["passkey"].maker(encoder, Noise(encoder))
    keys = [
        {prompt.ids[prompt.answer :].tobytes() for prompt in prompts}
        for prompts in (
            [task.document(number).prompt for number in range(40)],
            [maker.prompt(Request(settings.seed, HELD_OUT + n), 80) for n in range(40)],
            [task.document(HELD_OUT + number).prompt for number in range(40)],
        )
    ]
    assert not keys[0] & keys[1]
    assert keys[1] == keys[2]
