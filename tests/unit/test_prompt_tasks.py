"""The answer of every prompt follows from its context, and from nothing once its needles are gone."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from data.prompts.catalogue import TASKS, PromptTask
from data.prompts.fill import Control, Maker, Prompt
from data.prompts.filler import Noise
from data.prompts.tasks.linked_fact import FACTS
from data.prompts.tasks.many_shot import CLASSES
from data.prompts.tasks.repeated_words import WORDS
from data.prompts.words import NAMES
from data.prompts.writing import Request
from tests.unit.prompt_solvers import EXAMPLES, SOLVERS, words_after

NUMBERS, LENGTHS, DEPTHS = range(6), (1_500, 2_500), (0.0, 0.3, 1.0)


class Characters:
    """One id a character, so that ids are read as text again."""

    vocab_size, identity = 128, "characters"

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64)


def maker_of(task: PromptTask) -> Maker:
    return task.maker(Characters(), Noise(Characters()))


def text_of(ids: np.ndarray) -> str:
    return "".join(map(chr, ids.tolist()))


def parts_of(prompt: Prompt) -> tuple[str, str, str]:
    """Returns context (with what is before it), question and answer as text."""
    ids, question, answer = prompt.ids, prompt.question, prompt.answer
    return text_of(ids[:question]), text_of(ids[question:answer]), text_of(ids[answer:])


def prompts_of(name: str, control: Control = "none") -> list[Prompt]:
    maker = maker_of(TASKS[name])
    return [
        maker.prompt(Request(5, number, depth), length, control)
        for number in NUMBERS
        for length in LENGTHS
        for depth in DEPTHS
    ]


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_answers_the_example_by_hand(name: str) -> None:
    context, question, answer = EXAMPLES[name]
    assert SOLVERS[name](context, question) == answer


@pytest.mark.parametrize("name", SOLVERS)
def test_the_answer_follows_from_the_context(name: str) -> None:
    for prompt in prompts_of(name):
        context, question, answer = parts_of(prompt)
        assert SOLVERS[name](context, question) == (answer[1:] if prompt.right else "")
        assert answer[0] == " "


@pytest.mark.parametrize("control", ["removed", "swapped"])
@pytest.mark.parametrize("name", SOLVERS)
def test_without_its_needles_no_answer_follows(name: str, control: Control) -> None:
    hits = 0
    prompts = prompts_of(name, control)
    for prompt in prompts:
        context, question, answer = parts_of(prompt)
        hits += SOLVERS[name](context, question) == answer[1:]
        if TASKS[name].chance == 0 and TASKS[name].judged == "exact":
            assert answer[1:] not in context
    # The lines of another prompt may have the same label as often as the asked one.
    assert hits <= (len(prompts) * TASKS[name].chance if "count" in name else 0)


@pytest.mark.parametrize("name", [name for name in SOLVERS if TASKS[name].has_depth])
def test_the_last_needle_lies_where_the_depth_says(name: str) -> None:
    maker = maker_of(TASKS[name])
    for depth in (0.0, 0.25, 0.5, 1.0):
        prompt = maker.prompt(Request(5, 3, depth), 6_000)
        needle = prompt.needles[-1]
        room = prompt.question - prompt.head - len(needle)
        # A line and a sentence of noise; lines of other persons or subjects lie around it in filler.
        assert abs((needle.start - prompt.head) / room - depth) < 0.12, depth


def test_the_first_sentence_is_the_first() -> None:
    for prompt in prompts_of("first_sentence"):
        assert prompt.needles[0].start == prompt.head == len("Text:\n")


def test_a_linked_fact_shares_no_content_word_with_its_question() -> None:
    """Stop words are listed here: everything else counts as content, compared by its first five letters."""
    stop = {"a", "an", "the", "of", "in", "on", "to", "and", "or", "that", "are", "was", "has"}
    for fact, asked in FACTS:
        said, wanted = (
            {word.lower()[:5] for word in text.split() if word.lower() not in stop}
            for text in (fact, asked)
        )
        assert not said & wanted, (fact, asked)
        assert not {*fact.split(), *asked.split()} & set(NAMES)
    assert len({fact for fact, _ in FACTS}) == len({asked for _, asked in FACTS}) == len(FACTS)


def test_no_noun_has_two_classes_and_no_word_is_listed_twice() -> None:
    nouns = [noun for things in CLASSES for noun in things]
    assert len(set(nouns)) == len(nouns)
    assert len(set(WORDS)) == len(WORDS)


def test_of_the_candidates_for_one_person_exactly_one_is_right() -> None:
    task = TASKS["personal_passkey"]
    maker, places = maker_of(task), Counter[int]()
    for group in range(24):
        numbers = range(group * task.candidates, (group + 1) * task.candidates)
        prompts = [maker.prompt(Request(5, number), 400) for number in numbers]
        parts = [parts_of(prompt) for prompt in prompts]
        assert len({part[1:] for part in parts}) == 1
        [right] = [place for place, prompt in enumerate(prompts) if prompt.right]
        assert [parts[0][2][1:] in context for context, _, _ in parts] == [
            place == right for place in range(task.candidates)
        ]
        places[right] += 1
    assert len(places) > task.candidates // 2


def test_candidates_differ_in_their_needle_only() -> None:
    task = TASKS["personal_passkey"]
    maker = task.maker(Characters(), Noise(Characters()), worked=2)
    for number in range(task.candidates):
        prompt, first = (maker.prompt(Request(5, n), 600, "removed") for n in (number, 0))
        assert prompt.ids.tolist() == first.ids.tolist()


def test_worked_examples_of_candidates_hold_their_answer() -> None:
    task = TASKS["personal_passkey"]
    prompt = task.maker(Characters(), Noise(Characters()), worked=3).prompt(Request(5, 4), 600)
    head = text_of(prompt.ids[: prompt.head])
    lines = head.splitlines()
    assert lines[::2] == [f"{question}." for question in lines[1::2]]
    assert len(lines) == 6


def test_a_worked_example_tells_nothing_of_what_is_asked() -> None:
    """Facts and persons are few, so those of examples are others."""
    for name, pattern in (("nolima", r"who (.*) is"), ("personal_passkey", r"of (\w+) is")):
        maker = TASKS[name].maker(Characters(), Noise(Characters()), worked=8)
        for number in range(12):
            prompt = maker.prompt(Request(5, number), 6_000)
            [asked] = words_after(pattern, parts_of(prompt)[1])
            assert asked not in text_of(prompt.ids[: prompt.head])


def test_the_last_part_does_not_tell_which_label_leads() -> None:
    """Over the last third of the lines the most frequent label is the answer in about half of the prompts."""
    for name in ("oolong_majority", "oolong_compare"):
        writer, right = TASKS[name].open(""), 0
        for number in range(100):
            written = writer.write(Request(5, number, size=90))
            last = "".join(line.text for line in written.lines[-30:])
            right += SOLVERS[name](last, written.question) == written.answer[1:]
        assert 35 <= right <= 65, (name, right)


def test_the_place_named_last_is_the_answer_as_often_as_any_other() -> None:
    for name in ("babilong_1", "babilong_2"):
        prompts = [TASKS[name].open("").write(Request(5, number)) for number in range(200)]
        last = [re.findall(r"went to the (\w+)", str(one.lines))[-1] for one in prompts]
        right = sum(place == one.answer[1:] for place, one in zip(last, prompts, strict=True))
        assert abs(right / 200 - TASKS[name].chance) < 0.08  # three standard errors


@pytest.mark.parametrize("name", ["oolong_count", "oolong_subset"])
def test_the_most_frequent_count_of_thirty_lines_is_as_frequent_as_the_chance_says(
    name: str,
) -> None:
    prompts = [TASKS[name].open("").write(Request(5, number, size=27)) for number in range(200)]
    assert {len(one.lines) for one in prompts} == {30}
    answers = [one.answer for one in prompts]
    [(_, most)] = Counter(answers).most_common(1)
    assert abs(most / 200 - TASKS[name].chance) < 0.1  # three standard errors


def test_more_items_are_the_same_items_and_others() -> None:
    """Oolong's majority and compare have shares by place, so their items change with the size."""
    changing = ("oolong_majority", "oolong_compare", "oolong_count", "oolong_subset")
    for name in set(SOLVERS) - {*changing}:
        if TASKS[name].between == "items":
            request = Request(5, 2, 0.0)
            few, many = (
                TASKS[name].open("").write(replace(request, size=size)) for size in (9, 70)
            )
            assert {line.text for line in few.lines} < {line.text for line in many.lines}, name
            assert (few.question, few.answer) == (many.question, many.answer)
