"""Generated documents are pure functions of (seed, number), and their labels are known without their tokens."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.batch import RankReader
from data.config import DataConfig, SourceConfig
from data.generated.copied_span import Copy
from data.generated.documents import HELD_OUT, below, draws_at, key, one_below
from data.generated.key_value import KeyValue
from data.generated.posgen import PosGen
from data.generated.prompts import Prompts
from data.generated.source import GeneratedSource
from data.generated.tasks import TASKS, GeneratedConfig
from data.generated.uniform import Uniform
from data.loader import make_global_batch
from data.packing.planner import BatchPlanner
from data.packing.spans import BatchShape
from data.sources import generate, open_corpus
from data.tokens.declared import declared_generated
from train.checkpointing.continuation import tokenizer_identity
from train.checkpointing.state import RunState, _other_tokenizer
from train.configuration.compose import compose_run
from train.configuration.generated_rules import generated_warnings
from train.huggingface.tokenizer import TokenizerSource, find_tokenizer
from train.schedule.stages import build_schedule

# Awkward shapes of each task: uneven lengths, a first id beside special ids, spans as long as the distance.
SETTINGS = (
    Copy(task="copy", min_length=40, max_length=91, span=5, min_distance=5, max_distance=30),
    Copy(task="copy", min_length=11, max_length=11, ids=2, span=2, min_distance=2, max_distance=7),
    KeyValue(task="key_value", min_length=42, max_length=97, key_tokens=1, value_tokens=3, queries=5),
    KeyValue(task="key_value", min_length=6, max_length=9, ids=8, key_tokens=1, value_tokens=1, queries=1),
    KeyValue(task="key_value", min_length=80, max_length=90, ids=5, key_tokens=16, queries=2),
    Prompts(task="prompts", min_length=30, max_length=64),
    PosGen(task="posgen", min_length=30, max_length=64, rule="semi_recursive", far=2, near=3),
    Uniform(task="uniform", min_length=3, max_length=20, first_id=5, ids=9),
)  # fmt: skip


def source(
    wanted: GeneratedConfig, *, end_id: int = 7, bos_id: int | None = 5, held_out: bool = False
) -> GeneratedSource:
    """The documents of these settings with an end token and a BOS token amid their ids."""
    assert not wanted.problems()
    config = DataConfig(end_id=end_id, bos_id=bos_id)
    return generate(declared_generated("made", wanted, config, []), wanted, held_out=held_out)


def whole(made: GeneratedSource, document: int) -> np.ndarray:
    """All tokens of a document."""
    return made.read(document, 0, int(made.document_lengths(np.array([document]))[0]))


def test_settings_of_every_task_are_tried_here() -> None:
    assert {type(each) for each in SETTINGS} == set(TASKS) == set(get_args(GeneratedConfig))


@pytest.mark.parametrize("wanted", SETTINGS, ids=str)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_piece_of_any_document_is_that_piece_of_the_whole(
    wanted: GeneratedConfig, data: st.DataObject
) -> None:
    """Tokens, labels and their number; a source that made other documents before gives the same."""
    bos_id = data.draw(st.sampled_from([None, 5]))
    made, other = source(wanted, bos_id=bos_id), source(wanted, bos_id=bos_id)
    number = data.draw(st.integers(0, wanted.documents - 1))
    whole(other, data.draw(st.integers(0, wanted.documents - 1)))
    tokens = whole(made, number)
    start = data.draw(st.integers(0, len(tokens)))
    length = data.draw(st.integers(0, len(tokens) - start))
    np.testing.assert_array_equal(other.read(number, start, length), tokens[start:][:length])
    mask, part = made.label_mask(number, 0, len(tokens)), other.label_mask(number, start, length)
    if mask is None:
        assert part is None
        assert length == 0 or other.count_labels(number, start, length) == length - 1
    else:
        assert part is not None
        np.testing.assert_array_equal(part, mask[start:][:length])
        assert length == 0 or other.count_labels(number, start, length) == part[1:].sum()


@pytest.mark.parametrize("wanted", SETTINGS, ids=str)
def test_documents_have_the_lengths_and_the_ids_of_their_settings(wanted: GeneratedConfig) -> None:
    made = source(wanted)
    lengths = made.document_lengths(np.arange(300))
    assert wanted.min_length <= lengths.min() <= lengths.max() <= wanted.max_length
    assert wanted.min_length == wanted.max_length or len(set(lengths.tolist())) > 3
    ids = set[int]()
    for number in range(60):
        tokens = whole(made, number)
        assert len(tokens) == lengths[number]
        assert (tokens[0], tokens[-1]) == (5, 7)
        ids |= set(tokens[1:-1].tolist())
    assert len(ids) <= wanted.ids
    assert not ids & {5, 7}, "BOS and end token stand at the borders only"
    assert max(ids) <= wanted.largest_id(5, 7) < made.vocab_size
    assert made.num_tokens == pytest.approx(lengths.mean() * wanted.documents, rel=0.1)


@pytest.mark.parametrize("wanted", SETTINGS, ids=str)
def test_held_out_documents_are_no_training_documents(wanted: GeneratedConfig) -> None:
    made, apart = source(wanted), source(wanted, held_out=True)
    assert made.first + wanted.documents <= HELD_OUT <= apart.first
    keys = [key(0, number, 1) for first in (0, HELD_OUT) for number in range(first, first + 500)]
    assert len(set(keys)) == 1_000
    assert apart.num_documents == wanted.heldout
    for each in (made, apart):
        assert each.document_lengths(np.arange(100)).max() <= each.longest == wanted.max_length
    if wanted.ids ** (wanted.min_length - 2) > 1 << 60:
        shown = [whole(each, i).tobytes() for each in (made, apart) for i in range(100)]
        assert len(set(shown)) == 200


def test_the_seed_of_the_source_decides_the_documents_and_the_version_is_recorded() -> None:
    wanted = SETTINGS[0]
    one, two = source(wanted), source(replace(wanted, seed=1))
    assert whole(one, 3).tobytes() != whole(two, 3).tobytes()
    assert one.identity == (
        'copy 1 {"bos_id": 5, "end_id": 7, "max_distance": 30, "max_length": 91, "min_distance": 5, "min_length": 40,'
        ' "span": 5}'
    )
    assert source(replace(wanted, heldout=3)).identity == one.identity


def test_a_copy_repeats_its_span_and_counts_all_but_the_first_token() -> None:
    wanted = Copy(task="copy", ids=10_000, min_length=200, max_length=400, span=6, max_distance=80)
    made, seen = source(wanted, bos_id=None), set[int]()
    for number in range(20):
        tokens = whole(made, number)
        mask = made.label_mask(number, 0, len(tokens))
        assert mask is not None
        [distance] = {
            at - earlier
            for at in np.flatnonzero(mask).tolist()
            for earlier in np.flatnonzero(tokens[:at] == tokens[at]).tolist()
            if (tokens[earlier - 1 : earlier + 1] == tokens[at - 1 : at + 1]).all()
        }
        seen.add(distance)
        repeated = tokens[distance:] == tokens[:-distance]
        firsts = np.flatnonzero(mask) - 1
        firsts = firsts[~mask[firsts]]
        assert (repeated[firsts - distance]).all(), "the unlabelled first token is repeated too"
        assert (np.diff(firsts) == distance + 6).all()
        assert mask.sum() >= 5
    assert len(seen) > 10
    assert min(seen) >= 64


def test_a_query_is_answered_by_the_pair_of_its_key() -> None:
    wanted = KeyValue(
        task="key_value",
        ids=20,
        min_length=90,
        max_length=140,
        key_tokens=2,
        value_tokens=3,
        queries=6,
    )
    made = source(wanted, end_id=0, bos_id=None)
    for number in range(20):
        symbols = whole(made, number)[:-1] - 1
        lead = len(symbols) % 5
        entries = symbols[lead:].reshape(-1, 5)
        pairs = {tuple(entry[:2]): tuple(entry[2:]) for entry in entries[:-6].tolist()}
        assert len(pairs) == len(entries) - 6, "keys differ"
        assert all(max(k) < 10 <= min(v) for k, v in pairs.items())
        assert all(symbols[:lead] >= 10)
        asked = [tuple(entry[:2]) for entry in entries[-6:].tolist()]
        assert len(set(asked)) == 6
        assert [tuple(entry[2:]) for entry in entries[-6:].tolist()] == [pairs[k] for k in asked]
        mask = made.label_mask(number, 0, len(symbols) + 1)
        assert mask is not None
        assert np.flatnonzero(mask).tolist() == [
            len(symbols) - 30 + 5 * query + place for query in range(6) for place in (2, 3, 4)
        ]


def test_draws_are_those_of_splitmix64_and_uniform() -> None:
    """The first outputs for the seed 1234567, as published with the reference code (Vigna)."""
    assert draws_at(1234567, np.arange(3)).tolist() == [
        6457827717110365317, 3203168211198807973, 9817491932198370423,
    ]  # fmt: skip
    counts = np.bincount(below(draws_at(7, np.arange(60_000)), 6), minlength=6)
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 20.5, "chi-square, 5 degrees, p = 0.001"
    assert one_below((1 << 64) - 1, 6) == 5


def test_another_process_makes_the_same_documents() -> None:
    code = (
        "import numpy as np; from tests_made import *; "
        "print(';'.join(whole(source(s), n).tobytes().hex() for s in SETTINGS for n in (9, 0)))"
    )
    made = subprocess.run(
        [sys.executable, "-c", code.replace("tests_made", "test_generated")],
        env={"PYTHONPATH": f"{Path.cwd()}:{Path(__file__).parent}", "PYTHONHASHSEED": "9"},
        capture_output=True,
        text=True,
        check=True,
    )
    here = [whole(source(s), n).tobytes().hex() for s in SETTINGS for n in (0, 9)]
    assert sorted(made.stdout.strip().split(";")) == sorted(here)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Copy(task="copy", min_length=9, max_length=3), ["min_length=9: is more than max_length=3; give max_length=9",
            "min_length=9: a span, its repetition and what is between them, BOS and end token are 82 tokens; give"
            " min_length=82 or more"]),
        (Copy(task="copy", min_distance=65), ["min_distance=65: is more than max_distance=64; give max_distance=65"]),
        (Copy(task="copy", span=65), ["span=65: is longer than min_distance=64, so a span would overlap its"
            " repetition; give span=64 or less"]),
        (KeyValue(task="key_value", queries=40), ["min_length=256: the queries and as many pairs, BOS and end token"
            " are 322 tokens; give min_length=322 or more"]),
        (KeyValue(task="key_value", ids=14), ["ids=14: half of them make 49 keys of 2 tokens, a document of"
            " max_length=256 has up to 56; give more ids, or more key_tokens"]),
    ],
)  # fmt: skip
def test_impossible_settings_name_a_way_out(wanted: GeneratedConfig, said: list[str]) -> None:
    assert wanted.problems() == said


def test_a_source_is_either_files_or_generated() -> None:
    both = DataConfig(sources={"a": SourceConfig(prefix="x", generated=SETTINGS[-1])})
    assert both.rules() == [
        "data.sources.a.prefix=x: the source is generated (uniform); use one of both"
    ]
    named = DataConfig(
        corpus="python_stdlib", sources={"python_stdlib": SourceConfig(generated=SETTINGS[-1])}
    )
    assert named.rules() == [
        "data.sources.python_stdlib: data.corpus has this name; give the source another"
    ]
    assert DataConfig(bos_id=0).rules()[-1] == "data.bos_id=0: is data.end_id too; give another id"


def test_a_run_of_generated_sources_needs_no_files(tmp_path: Path) -> None:
    sources = {f"s{i}": SourceConfig(generated=each) for i, each in enumerate(SETTINGS)}
    corpus = open_corpus(DataConfig(sources=sources, end_id=3), tmp_path, 1_000)
    assert [one.name for one in corpus.sources] == list(sources)
    assert (corpus.eos_id, corpus.sources[0].bos_id) == (3, None)
    assert corpus.heldout is not None
    assert [corpus.heldout.name, *(one.name for one in corpus.more_heldout)] == list(sources)
    assert not list(tmp_path.iterdir())
    said = r"model\.vocab_size=60: data\.sources\.s0\.generated has 65 ids; use model\.vocab_size=65 or more"
    with pytest.raises(ValueError, match=said):
        open_corpus(DataConfig(sources={"s0": sources["s0"]}, end_id=3), tmp_path, 60)


def test_batches_go_on_bit_by_bit_from_every_step(tmp_path: Path) -> None:
    """The cursor of each step, as JSON, gives the batches that follow it; documents are longer than the rows."""
    sources = {f"s{i}": SourceConfig(generated=each) for i, each in enumerate(SETTINGS[:4])}
    corpus = open_corpus(DataConfig(sources=sources), tmp_path, 100)
    shape = BatchShape(32, 128, 64, (3.0, 1.0, 2.0, 1.0))
    reader = RankReader(corpus.sources, corpus.eos_id)

    def planner() -> BatchPlanner:
        return BatchPlanner(corpus.sources, seed=3, look_ahead=5)

    def batch(of: BatchPlanner) -> tuple[bytes, Any]:
        made = make_global_batch(of, shape, reader)
        held = [(b.tokens_T.tolist(), b.targets_T.tolist(), b.lengths) for b in made.micro_batches]
        assert made.valid_tokens == sum(int((b.targets_T >= 0).sum()) for b in made.micro_batches)
        return json.dumps(held).encode(), json.loads(json.dumps(made.cursor))

    straight = planner()
    made = [batch(straight) for _ in range(8)]
    for step, (_, cursor) in enumerate(made[:-1], start=1):
        again = planner()
        again.load_state_dict(cursor)
        assert [batch(again) for _ in range(step, 8)] == made[step:]


def test_another_end_or_bos_token_than_the_checkpoint_has_is_refused(tmp_path: Path) -> None:
    state = RunState()
    state.tokenizer = tokenizer_identity([source(SETTINGS[-1], end_id=7, bos_id=5)])
    assert state.tokenizer["generated"]

    def refused(end_id: int, bos_id: int | None) -> list[str]:
        facts = tokenizer_identity([source(SETTINGS[-1], end_id=end_id, bos_id=bos_id)])
        return _other_tokenizer(state.tokenizer, facts)

    assert refused(7, 5) == []
    assert "data.end_id=9: the model was trained with the end token 7" in refused(9, 5)[0]
    assert "without token files: data.bos_id" in refused(7, None)[0]
    assert find_tokenizer("", tmp_path, state, 64) == TokenizerSource(end_token=7)


def test_only_a_stage_whose_mix_has_the_documents_cuts_them() -> None:
    longer = [f"data.sources.copy.generated.{name}_length=128" for name in ("min", "max")]
    apart = ["schedule.stages.short.data={recall: 1}", "schedule.stages.long.data={copy: 1}"]

    def warned(*more: str) -> list[str]:
        config = compose_run(["experiment=generated_small", *longer, *more])
        schedule, _ = build_schedule(config)
        assert schedule is not None
        return generated_warnings(config, schedule)

    assert warned(*apart) == []
    [line] = warned()
    assert line.startswith(
        "data.sources.copy.generated.max_length=128: stage short cuts documents into pieces of at most 64 tokens"
    )
