"""Prompts have exactly the asked length, are the same everywhere, and their parts join as the whole text does."""

import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.prompts.catalogue import TASKS
from data.prompts.draws import Draws
from data.prompts.encoder import ClosedVocabulary, Remembering, closed_size, closed_words
from data.prompts.fill import Maker, Prompt, TooShort
from data.prompts.filler import NOISE, Documents, Noise
from data.prompts.fit import Sized, most_items
from data.prompts.tasks.passkey import Passkey
from data.prompts.writing import Line, Request, Written
from data.tokenizer.any_tokenizer import TextTokenizer
from tests.unit import closed_words as listed
from tests.unit.prompt_text import (
    NAMES,
    Characters,
    maker_of,
    parts_of,
    text_of,
    train_tokenizers,
)
from train.configuration.prompt_settings import PromptTaskConfig
from train.evaluation.prompt_plan import PromptPlan


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextTokenizer]:
    return train_tokenizers(tmp_path_factory.mktemp("tokenizers"))


def smallest(maker: Maker, request: Request) -> int:
    with pytest.raises(TooShort) as caught:
        maker.prompt(request, 1)
    return caught.value.needed


def made(maker: Maker, request: Request, length: int) -> Prompt:
    """Returns a prompt of this length, or the smallest one if that is longer."""
    try:
        return maker.prompt(request, length)
    except TooShort as error:
        return maker.prompt(request, error.needed)


def lies_in(written: Written, context: str) -> bool:
    """Whether the context has all the lines, in their order."""
    place = 0
    for line in written.lines:
        place = context.find(line.text, place) + len(line.text)
        if place < len(line.text):
            return False
    return True


@dataclass
class Recorded:
    """Keeps what a writer writes, and counts what is encoded."""

    inner: Maker
    written: list[Written] = field(default_factory=list)
    encoded: dict[str, int] = field(default_factory=dict)
    vocab_size, identity = 256, ""

    def write(self, request: Request) -> Written:
        self.written.append(self.inner.writer.write(request))
        return self.written[-1]

    def encode(self, text: str) -> np.ndarray:
        self.encoded[text] = self.encoded.get(text, 0) + 1
        return self.inner.encoder.encode(text)


@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_has_exactly_the_asked_length(name: str) -> None:
    encoder = ClosedVocabulary()
    maker = TASKS[name].maker(encoder, Noise(encoder), begin=(7, 8))
    for number, depth in enumerate((0.0, 0.4, 1.0)):
        request = Request(3, number, depth)
        least = smallest(maker, request)
        for length in (least, least + 37, 2_500 + number):
            for control in ("none", "removed", "swapped"):
                prompt = maker.prompt(request, length, control)
                assert len(prompt.ids) == length
                assert prompt.ids[:2].tolist() == [7, 8]
                assert 2 <= prompt.head <= prompt.question < prompt.answer < length


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_consists_of_the_parts_that_the_task_wrote(name: str) -> None:
    recorded = Recorded(maker_of(name))
    maker = replace(recorded.inner, writer=recorded)
    prompt = made(maker, Request(0, 5 * TASKS[name].candidates, 0.5), 3_000)
    context, question, answer = parts_of(prompt)
    needles = [text_of(prompt.ids[one.start : one.stop]) for one in prompt.needles]
    written = max(
        (one for one in recorded.written if lies_in(one, context)), key=lambda one: len(one.lines)
    )
    assert question == written.question
    assert needles == [line.text for line in written.lines if line.needle]
    assert answer == written.answer
    assert text_of(prompt.ids[: prompt.head]).endswith(written.instruction)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["sentencepiece", "gpt_2", "llama_3"])
def test_parts_join_as_the_whole_text_does(
    tokenizers: dict[str, TextTokenizer], kind: str, name: str
) -> None:
    tokenizer = tokenizers[kind]
    encoder = Remembering(tokenizer.encode, tokenizer.vocab_size, kind)
    maker = TASKS[name].maker(encoder, Noise(encoder), worked=1)
    for number in range(5):
        request = Request(9, number, 0.5)
        assert maker.joined_otherwise(request) == []
        prompt = maker.prompt(request, smallest(maker, request))  # without filler
        whole = "".join(tokenizer.decode(np.array([token])) for token in prompt.ids)
        assert prompt.ids.tolist() == tokenizer.encode(whole).tolist()


def test_borders_that_the_tokenizer_joins_otherwise_are_named(
    tokenizers: dict[str, TextTokenizer],
) -> None:
    @dataclass(frozen=True)
    class Split:
        def write(self, request: Request) -> Written:  # noqa: ARG002
            return Written("Read th", [Line("is.\n"), Line("The gra")], "in is", " 1")

    tokenizer = tokenizers["gpt_2"]
    encoder = Remembering(tokenizer.encode, tokenizer.vocab_size, "")
    maker = Maker(Split(), encoder, Noise(encoder), items=True)
    found = maker.joined_otherwise(Request(0, 0))
    assert found == ["'Read th' + 'is.\\n'", "'The gra' + 'in is'"]
    assert PromptPlan("mine", "passkey", PromptTaskConfig(), maker).joined_otherwise() == found


def digest() -> str:
    """The ids of one prompt of every task, hashed."""
    hashed = hashlib.sha256()
    for name in NAMES:
        prompt = made(maker_of(name), Request(2, 11, 0.25), 2_000)
        hashed.update(prompt.ids.tobytes() + repr(prompt.needles).encode())
    return hashed.hexdigest()


def test_prompts_are_the_same_in_every_process() -> None:
    code = "from tests.unit.test_prompts import digest; print(digest())"
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert found.stdout.split()[-1] == digest()


@pytest.mark.parametrize("name", [name for name in NAMES if TASKS[name].between == "items"])
def test_a_long_prompt_is_written_a_few_times_and_each_text_encoded_once(name: str) -> None:
    recorded = Recorded(maker_of(name))
    maker = replace(recorded.inner, writer=recorded, encoder=recorded)
    prompt = maker.prompt(Request(0, 1, 0.5), 40_000)
    assert len(recorded.written) <= 8
    assert max(recorded.encoded.values()) == 1
    assert len(prompt.ids) == 40_000


@given(
    items=st.lists(st.integers(1, 60), min_size=1, max_size=400),
    begin=st.integers(0, 50),
    room=st.integers(0, 9_000),
)
def test_as_many_items_as_fit_are_found_in_few_trials(
    items: list[int], begin: int, room: int
) -> None:
    """The oracle is the sum of the items' tokens; behind the last item a prompt does not grow any more."""
    trials = []

    def measure(size: int) -> Sized:
        trials.append(size)
        return Sized(size, begin + sum(items[:size]), Written("", [], "", ""))

    room += begin + items[0]
    found = most_items(measure, measure(1), room)
    assert found.tokens == begin + sum(items[: found.size]) <= room
    mean = (found.tokens - begin - items[0]) / max(1, found.size - 1)
    left = room - found.tokens
    exhausted = found.size >= len(items)
    next_one = 0 if exhausted else items[found.size]
    assert exhausted or next_one > left or left < max(mean, room / 512)
    assert len(trials) <= 24


def test_needles_of_another_prompt_with_the_same_answer_are_left_out() -> None:
    @dataclass(frozen=True)
    class Same:
        def write(self, request: Request) -> Written:
            lines = [Line(f"Take {request.number % 2}.\n", needle=True), Line("Keep.\n")]
            return Written("", lines, "Take", f" {request.number % 2}")

    maker = Maker(Same(), Characters(), Noise(Characters()))
    for number in range(4):
        context, _, answer = parts_of(maker.prompt(Request(0, number), 300, "swapped"))
        assert f"Take{answer}" not in context and "Keep." in context
        assert f"Take {1 - number % 2}." in context


def test_worked_examples_have_answers_of_their_own() -> None:
    maker = replace(maker_of("passkey"), worked=3)
    prompt = maker.prompt(Request(0, 0), 600)
    head = text_of(prompt.ids[: prompt.head]).splitlines()
    assert len(head) == 6 and len(prompt.needles) == 1
    assert [line + "." for line in head[1::2]] == head[0::2]
    assert len({*head[1::2], text_of(prompt.ids[prompt.question :])}) == 4


class Texts:
    """Documents of characters: lines, and a long line of sentences; each ends with the end token 0."""

    num_documents = 5

    def document_lengths(self, documents: np.ndarray) -> np.ndarray:
        return np.array([len(self.text(int(document))) for document in documents])

    def read(self, document: int, start: int, length: int) -> np.ndarray:
        return Characters().encode(self.text(document))[start : start + length]

    def text(self, document: int) -> str:
        return f"A line of {document}.\n" * document + "It is. " * 30 + "\n" + "x" * 70 + "\n\0"


@pytest.mark.parametrize("length", [60, 100, 1_000, 1_001])
def test_lines_lie_behind_whole_lines_or_sentences_of_documents(length: int) -> None:
    filler = Documents(Texts(), Characters(), (0,))
    maker = Maker(Passkey(), Characters(), filler)
    for number in range(20):
        prompt = maker.prompt(Request(0, number, number / 19), length)
        assert len(prompt.ids) == length and 0 not in prompt.ids
        (needle,) = prompt.needles
        before = text_of(prompt.ids[: needle.start])
        assert text_of(prompt.ids[needle.start :]).startswith("The pass key is")
        # The x are a line without a sentence, which is cut anywhere.
        assert before == "" or before[-1] in ".\n" or {*before[-64:]} == {"x"}


def test_documents_are_filler_also_with_a_tokenizer_that_has_no_line_ends() -> None:
    class Words(Characters):
        def encode(self, text: str) -> np.ndarray:
            return super().encode(text.replace("\n", ""))

    maker = Maker(Passkey(), Words(), Documents(Texts(), Words(), (0,)))
    assert len(maker.prompt(Request(0, 0), 500).ids) == 500


def test_the_last_part_keeps_the_head_and_the_question() -> None:
    maker = replace(maker_of("passkey"), worked=1)
    prompt = maker.prompt(Request(0, 2, 0.1), 900)
    cut = prompt.last_part(200)
    assert len(cut.ids) == prompt.head + 200 + len(prompt.ids) - prompt.answer
    assert np.array_equal(cut.ids[: prompt.head], prompt.ids[: prompt.head])
    assert np.array_equal(cut.ids[prompt.head :], prompt.ids[prompt.answer - 200 :])
    assert cut.needles == () and prompt.last_part(5_000).ids.tolist() == prompt.ids.tolist()


def test_many_draws_are_those_of_one_by_one() -> None:
    limits = [10, 26, 1 << 32, 1, 7] * 20
    one, many = Draws(41), Draws(41)
    assert many.each_below(limits) == [one.below(limit) for limit in limits]
    assert one.digits(7) == many.digits(7)


def test_draws_have_the_form_that_their_name_says() -> None:
    draws = Draws(3)
    for count in (1, 5, 9, 10, 21):
        for _ in range(20):
            number = draws.digits(count)
            assert len(number) == count and number.isdigit() and number[0] != "0"
    assert sorted(draws.shuffled(range(200))) == list(range(200))
    assert len({*draws.sample(range(50), 40)}) == 40
    depths = draws.depths_from(0.3, 9)
    assert depths[0] == 0.3 and depths == sorted(depths) and depths[-1] <= 1
    with pytest.raises(ValueError, match="3 different items were asked for, there are 2"):
        draws.sample("ab", 3)


def test_the_closed_words_are_those_that_the_tasks_write() -> None:
    assert list(closed_words()) == listed.listed_words(), "python -m tests.unit.closed_words"


def test_the_closed_vocabulary_has_one_id_for_a_listed_word_and_spells_others() -> None:
    encoder = ClosedVocabulary()
    assert len(encoder.encode(NOISE[0])) == len(NOISE[0].replace(".", " . ").split()) + 1
    assert len(encoder.encode("zzyzx otter")) == 6
    assert encoder.vocab_size == closed_size() == encoder.encode("~")[0] + 1 + len(closed_words())
    with pytest.raises(ValueError, match="is not in the closed vocabulary"):
        encoder.encode("\u00e9tude")


def test_every_text_of_the_tasks_is_in_the_closed_vocabulary() -> None:
    for name in NAMES:
        written = TASKS[name].open("").write(Request(0, 3, size=5, length=9_000))
        for text in (written.instruction, written.question, written.answer):
            ClosedVocabulary().encode(text)


def test_this_file_of_words_lies_where_its_script_writes_it() -> None:
    assert Path(listed.PATH).name == "closed_words.txt"
