"""RULER's tasks: the answer follows from the context alone, and the parameters are those of RULER."""

import json
import math
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.prompts.catalogue import TASKS
from data.prompts.fill import Control, Maker, Prompt
from data.prompts.tasks.questions import open_hotpot, open_squad
from data.prompts.words import ADJECTIVES, NAMES, NOUNS, PLACES
from data.prompts.writing import Request
from tests.unit import ruler_solvers as solvers
from tests.unit.prompt_text import maker_of, parts_of, text_of

# RULER's essays are documents here.
BETWEEN = {
    **dict.fromkeys(("niah_single_1", "vt"), "noise"),
    **dict.fromkeys(("niah_single_2", "niah_single_3", "niah_multikey_1"), "documents"),
    **dict.fromkeys(("niah_multivalue", "niah_multiquery"), "documents"),
    **dict.fromkeys(("niah_multikey_2", "niah_multikey_3", "cwe", "fwe", "qa_1", "qa_2"), "items"),
}
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
LENGTH = 2_600
# Characters: below 4,096 of them entries occur less often; so many have room for all of the usual counts.
LONG = 12_000


def squad(count: int) -> dict[str, Any]:
    """Articles of two paragraphs each with one question, and one question without an answer."""
    paragraphs = []
    for number in range(count):
        name, adjective = NAMES[number % len(NAMES)], ADJECTIVES[number % len(ADJECTIVES)]
        thing, where = f"{adjective} {NOUNS[number]}", f"the {PLACES[number % len(PLACES)]}"
        answers = [{"text": where, "answer_start": 0}, {"text": where.upper(), "answer_start": 0}]
        question = f"Where does {name} keep  the {thing}?"
        none = {"question": "Why?", "answers": [], "is_impossible": True}
        context = (
            f"{name} keeps the {thing}\nin {where}. Nobody else {'comes ' * (number % 9)}there."
        )
        paragraphs.append(
            {"context": context, "qas": [{"question": question, "answers": answers}, none]}
        )
    return {
        "data": [{"paragraphs": [paragraphs[at], paragraphs[at + 1]]} for at in range(0, count, 2)]
    }


def hotpot(count: int) -> list[dict[str, Any]]:
    """Questions whose two documents each hold a half, with two other documents."""
    entries = []
    for number in range(count):
        one, two, three, four = (NAMES[(number * 4 + place) % len(NAMES)] for place in range(4))
        here, there = PLACES[number % len(PLACES)], PLACES[(number + 9) % len(PLACES)]
        context = [
            [three, [f"{three} lives in the {there}.", " It is small."]],
            [two, [f"{two} lives in the {here}."]],
            [one, [f"The friend of {one} is {two}."]],
            [four, [f"{four} is a baker."]],
        ]
        question = f"Where does the friend of {one} live?"
        facts = [[one, 0], [two, 0]]
        entries.append(
            {
                "question": question,
                "answer": f"the {here}",
                "supporting_facts": facts,
                "context": context,
            }
        )
    context = [*entries[0]["context"][:2], [entries[0]["context"][2][0], ["There is no friend."]]]
    entries.append({**entries[0], "answer": "no", "context": context})
    return entries


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("questions")
    (folder / "squad.json").write_text(json.dumps(squad(60)))
    (folder / "hotpot.json").write_text(json.dumps(hotpot(20)))
    return {"qa_1": str(folder / "squad.json"), "qa_2": str(folder / "hotpot.json")}


def prompts(
    maker: Maker, control: Control = "none", length: int = LENGTH
) -> list[tuple[Request, Prompt]]:
    requests = [Request(4, number, depth) for number in range(8) for depth in (0.0, 0.35, 1.0)]
    return [(request, maker.prompt(request, length, control)) for request in requests]


@pytest.mark.parametrize("name", solvers.SOLVERS)
def test_the_solver_of_a_task_answers_the_example_by_hand(name: str) -> None:
    context, question, answer = solvers.EXAMPLES[name]
    assert solvers.SOLVERS[name](context, question) == answer


@pytest.mark.parametrize("name", solvers.SOLVERS)
def test_the_right_answer_follows_from_the_context(name: str, files: dict[str, str]) -> None:
    for _, prompt in prompts(maker_of(name, files.get(name, ""))):
        context, question, answer = parts_of(prompt)
        assert solvers.SOLVERS[name](context, question) == answer


@pytest.mark.parametrize("control", ["removed", "swapped"])
@pytest.mark.parametrize("name", solvers.SOLVERS)
def test_without_its_needles_nothing_of_the_answer_is_left(
    name: str, control: Control, files: dict[str, str]
) -> None:
    for _, prompt in prompts(maker_of(name, files.get(name, "")), control):
        _, question, answer = parts_of(prompt)
        before = text_of(prompt.ids[: prompt.answer])
        assert not any(part in before for part in answer.strip().split(", "))
        assert solvers.SOLVERS[name](before[prompt.head :], question) != answer


@pytest.mark.parametrize("name", [name for name in solvers.SOLVERS if TASKS[name].has_depth])
def test_the_first_needle_lies_at_the_asked_depth(name: str, files: dict[str, str]) -> None:
    for request, prompt in prompts(maker_of(name, files.get(name, ""))):
        needles = sum(len(one) for one in prompt.needles)
        before = prompt.needles[0].start - prompt.head
        others = prompt.question - prompt.head - needles
        one_more = 400 if TASKS[name].between == "items" else 64  # an item, a piece of filler
        assert abs(before - request.depth * others) <= one_more + 0.03 * others
        assert all(a.stop <= b.start for a, b in pairwise(prompt.needles))


@pytest.mark.parametrize(
    ("name", "notes", "keys", "values", "needles"),
    [
        ("niah_single_1", 1, 1, 1, 1),
        ("niah_single_2", 1, 1, 1, 1),
        ("niah_single_3", 1, 1, 1, 1),
        ("niah_multikey_1", 4, 4, 4, 1),
        ("niah_multivalue", 4, 1, 4, 4),
        ("niah_multiquery", 4, 4, 4, 4),
    ],
)
def test_needles_have_the_counts_of_ruler(
    name: str, notes: int, keys: int, values: int, needles: int
) -> None:
    value = re.compile(UUID if name == "niah_single_3" else r"[1-9]\d{6}")
    for _, prompt in prompts(maker_of(name)):
        found = solvers.notes(parts_of(prompt)[0])
        assert len(found) == notes and len(prompt.needles) == needles
        assert len({key for key, _ in found}) == keys
        assert len({one for _, one in found}) == values
        assert all(value.fullmatch(one) for _, one in found)
        assert all(is_word_key(key) for key, _ in found)


def test_the_keys_of_a_question_lie_in_any_order() -> None:
    shares = []
    for request, prompt in prompts(maker_of("niah_multiquery")):
        context, question, _ = parts_of(prompt)
        asked = [key for key, _ in solvers.notes(context)]
        shares.append(asked == sorted(asked, key=question.index))
        first = prompt.needles[0].start - prompt.head
        assert request.depth < 1 or first > len(context) // 2
    assert 0 < sum(shares) < len(shares) // 2


def is_word_key(key: str) -> bool:
    adjective, noun = key.split("-")
    return adjective in ADJECTIVES and noun in NOUNS


@pytest.mark.parametrize("name", ["niah_multikey_2", "niah_multikey_3"])
def test_notes_of_other_keys_are_all_the_context(name: str) -> None:
    alone = UUID if name == "niah_multikey_3" else r"[1-9]\d{6}"
    for _, prompt in prompts(maker_of(name)):
        context = parts_of(prompt)[0]
        found = solvers.notes(context)
        assert len(found) > 10 and len(prompt.needles) == 1
        assert all(re.fullmatch(alone, value) for _, value in found)
        fits = (re.fullmatch(UUID, key) if "3" in name else is_word_key(key) for key, _ in found)
        assert all(fits)
        written = sum(len(f"The value noted for {key} is {value}.\n") for key, value in found)
        assert len(context) - written < len(f"The value noted for {UUID} is {UUID}.\n")


def test_a_chain_has_four_hops_and_one_worked_example() -> None:
    for _, prompt in prompts(maker_of("vt")):
        context, question, answer = parts_of(prompt)
        chain = re.findall(r"Set ([A-Z]{5}) to ([A-Z]{5}|\d{5})\.\n", context)
        assert len(chain) == len(prompt.needles) == 5
        assert chain[0][1] in question and answer.count(",") == 4
        assert [given for _, given in chain[1:]] == [name for name, _ in chain[:-1]]
        head = text_of(prompt.ids[: prompt.head])
        assert len(re.findall(r"Set ([A-Z]{3}) to ", head)) == 5 and head.count("Answer:") == 1


@pytest.mark.parametrize(
    ("length", "often", "seldom", "example"),
    [(LENGTH, 6, 1, (3, 1, 20)), (LONG, 30, 3, (10, 3, 40))],
)
def test_common_entries_have_the_counts_of_ruler(
    length: int, often: int, seldom: int, example: tuple[int, int, int]
) -> None:
    prompt = maker_of("cwe").prompt(Request(1, 2), length)
    counts = Counter(solvers.entries(parts_of(prompt)[0]))
    assert Counter(counts.values())[often] == 10
    assert {*counts.values()} == {often, seldom} and len(counts) > 20
    in_example = Counter(solvers.entries(text_of(prompt.ids[: prompt.head])))
    assert Counter(in_example.values()) == {example[0]: 10, example[1]: example[2] - 10}
    assert not {*counts} & {*in_example}


def test_frequent_words_fall_with_the_square_of_their_rank() -> None:
    """Shares of ranks 1 to 4 of the zeta distribution with alpha 2: methods.md 11.3."""
    prompt = maker_of("fwe").prompt(Request(1, 2), 60_000)
    context, _, answer = parts_of(prompt)
    counts = Counter(solvers.coded(context))
    ranked = counts.most_common()
    assert ranked[0][0] == "..." and answer == " " + ", ".join(word for word, _ in ranked[1:4])
    # All words and the part of them that has no whole word.
    total = round(counts["..."] / 0.6079)
    for (_, count), share in zip(ranked, (0.6079, 0.1520, 0.0675, 0.0380), strict=False):
        assert count / total == pytest.approx(share, abs=1e-3)
    exact = [int(total / rank**2 / (math.pi**2 / 6)) for rank in range(1, len(ranked) + 1)]
    assert np.abs(np.subtract([count for _, count in ranked], exact)).max() <= 1


def test_the_vocabulary_of_frequent_words_is_a_fiftieth_of_the_length() -> None:
    writer = maker_of("fwe").writer
    for length, words in ((1_000, 20), (2_000, 40)):
        written = writer.write(Request(0, 0, size=3_000, length=length))
        assert len({line.text for line in written.lines}) == words


def test_questions_have_one_and_two_right_documents_among_others(files: dict[str, str]) -> None:
    for name, right, different in (("qa_1", 1, 30), ("qa_2", 2, 20)):
        seen = set()
        for number in range(30):
            prompt = maker_of(name, files[name]).prompt(Request(0, number, 0.5), LENGTH)
            context, question, answer = parts_of(prompt)
            assert len(prompt.needles) == right and answer != " no"
            assert context.count("Document: ") > 15
            seen.add(question)
        assert len(seen) == different


def test_the_first_reference_answer_is_the_one_scored(files: dict[str, str]) -> None:
    _, prompt = prompts(maker_of("qa_1", files["qa_1"]))[0]
    assert parts_of(prompt)[2].islower()


def test_a_question_without_other_documents_has_filler(tmp_path: Path) -> None:
    path, (article, *_) = tmp_path / "one.json", squad(2)["data"]
    path.write_text(json.dumps({"data": [{"paragraphs": article["paragraphs"][:1]}]}))
    prompt = maker_of("qa_1", str(path)).prompt(Request(0, 0), 900)
    assert len(prompt.ids) == 900 and parts_of(prompt)[0].count("Document: ") == 1


SQUAD: Any = {"paragraphs": [{"context": "It is here.", "qas": []}]}
ASKED = {"question": "Where?", "answers": [{"text": "here"}]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is no JSON"),
        ("[1, 2]", "the file is not as in SQuAD"),
        ('{"data": 3}', "the file is not as in SQuAD"),
        ('{"data": []}', "has no question whose answer is in its documents"),
        ('{"data": [{"paragraphs": []}, {"title": "x"}]}', "entry 1 is not as in SQuAD"),
        (json.dumps({"data": [SQUAD]}), "has no question"),
        (
            json.dumps({"data": [{"paragraphs": [{"context": 7, "qas": [ASKED]}]}]}),
            "7 is no text",
        ),
        (
            json.dumps({"data": [{"paragraphs": [{"context": "It is far.", "qas": [ASKED]}]}]}),
            "has no question",
        ),
    ],
)
def test_a_malformed_file_of_squad_is_named_in_one_line(
    tmp_path: Path, content: str, said: str
) -> None:
    path = tmp_path / "squad.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        open_squad(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_malformed_file_of_hotpotqa_is_named_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "hotpot.json"
    for content in ([{}], [{"question": "x"}], {"data": []}, [hotpot(1)[1]], [3]):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match="HotpotQA") as caught:
            open_hotpot(str(path))
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="No such file or directory; give a JSON file of SQuAD"):
        open_squad(str(tmp_path / "missing.json"))


def test_examples_and_tables_name_the_same_tasks() -> None:
    ruler = {name for name, task in TASKS.items() if task.source.startswith("RULER")}
    assert ruler == {*solvers.SOLVERS} == {*solvers.EXAMPLES} and len(ruler) == 13
    worked = {name for name in ruler if TASKS[name].worked}
    assert worked == {"vt", "cwe"} and all(TASKS[name].worked <= 1 for name in ruler)
    assert {name: TASKS[name].between for name in ruler} == BETWEEN


def test_a_list_without_room_for_many_lines_has_the_counts_of_short_prompts() -> None:
    maker = maker_of("cwe")
    lines = [
        solvers.entries(parts_of(maker.prompt(Request(1, 2), size))[0])
        for size in (5_000, 6_500, 8_000, 12_000)
    ]
    often = [max(Counter(entries).values()) for entries in lines]
    assert often == [6, 6, 6, 30] and [*map(len, lines)] == sorted(map(len, lines))
