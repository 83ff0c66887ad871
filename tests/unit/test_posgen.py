"""PosGen's sequences are those of the paper's rules, and no seed is in two of its three sets."""

import numpy as np
import pytest

from data.config import DataConfig, SourceConfig
from data.generated.documents import HELD_OUT
from data.generated.posgen import PosGen, PosGenDocument, PosGenTask
from data.tokens.declared import declared_generated
from train.configuration.generated_rules import generated_warnings
from train.configuration.schema import RunConfig, ScheduleConfig, StageConfig
from train.schedule.stages import build_schedule

# Twelve symbols modulo 7 from the seed 2 0 3 1, and sixteen modulo 17 from the seed 0 1 2 3, with one far and three
# near symbols, by the rules of arXiv 2403.00071, section 4 (semi_recursive as its code has it).
GOLDEN = {
    "recursive": ("2 0 3 1 6 3 6 2 3 0 4 2", "0 1 2 3 6 12 6 10 0 11 10 14 1 2 10 10"),
    "chain_of_thought": ("2 0 3 1 6 5 0 6 6 0 0 1", "0 1 2 3 6 11 3 3 0 6 9 15 13 3 14 13"),
    "semi_recursive": ("2 0 3 1 6 5 5 2 1 4 1 0", "0 1 2 3 6 11 4 5 5 16 12 2 2 5 3 4"),
}


@pytest.mark.parametrize("rule", GOLDEN)
def test_sequences_are_the_golden_ones(rule: str) -> None:
    for ids, golden in zip((7, 17), GOLDEN[rule], strict=True):
        wanted = [int(symbol) for symbol in golden.split()]
        settings = PosGen(task="posgen", ids=ids, rule=rule)
        made = PosGenDocument(settings, tuple(wanted[:4]), len(wanted))
        assert made.symbols(0, len(wanted)).tolist() == wanted


def test_far_symbols_are_those_of_the_rule_with_other_counts() -> None:
    """Two far and three near symbols: the second half of each sum written out."""
    far_at = {
        "recursive": lambda place: (place - 5, place - 4),
        "chain_of_thought": lambda _: (0, 1),
        "semi_recursive": lambda place: ((place - 5) // 2, (place - 5) // 2 + 1),
    }
    for rule, far in far_at.items():
        settings = PosGen(task="posgen", ids=11, rule=rule, far=2, near=3)
        x = PosGenDocument(settings, (3, 1, 4, 1, 5), 40).symbols(0, 40).tolist()
        for place in range(5, 40):
            first, second = far(place)
            near = x[place - 1] + x[place - 2] + x[place - 3]
            assert x[place] == (x[first] + x[second] + near) % 11, (rule, place)


def test_two_symbols_are_enough_wherever_the_far_one_is_that_of_the_place_before() -> None:
    """The difference of two sums in a row: only every second symbol of semi_recursive needs its far one."""
    shortcut = {"recursive": 5, "chain_of_thought": 4, "semi_recursive": 4}
    for rule, before in shortcut.items():
        settings = PosGen(task="posgen", rule=rule)
        x = PosGenDocument(settings, (3, 1, 4, 1), 200).symbols(0, 200)
        place = np.arange(5, 200)
        right = x[place] == (2 * x[place - 1] - x[place - before]) % 17
        assert right[place % 2 == 1].all(), rule
        assert right[place % 2 == 0].all() == (rule != "semi_recursive"), rule


def seeds(settings: PosGen, first: int, count: int) -> list[tuple[int, ...]]:
    return [
        tuple(seed) for seed in PosGenTask(settings, 1).given(first + np.arange(count)).tolist()
    ]


def test_every_seed_is_in_one_set_whatever_the_other_settings_are() -> None:
    small = {"task": "posgen", "ids": 3, "far": 1, "near": 3}
    found = [
        set(seeds(PosGen(**small, seed=4, rule="recursive"), 0, 65)),
        set(seeds(PosGen(**small, seed=9, rule="semi_recursive"), HELD_OUT, 8)),
        set(seeds(PosGen(**small, seed=5, heldout_set="test", max_length=900), HELD_OUT, 8)),
    ]
    assert [len(one) for one in found] == [65, 8, 8]
    assert len(set.union(*found)) == 3**4
    assert all(len(seed) == 4 and set(seed) <= {0, 1, 2} for one in found for seed in one)


def test_the_sets_of_the_paper_are_disjoint_and_their_order_is_that_of_the_seed() -> None:
    one, other = PosGen(task="posgen"), PosGen(task="posgen", seed=1)
    train, again = seeds(one, 0, 10_000), seeds(other, 0, 100)
    held = seeds(one, HELD_OUT, 1_000)
    test = seeds(PosGen(task="posgen", heldout_set="test"), HELD_OUT, 1_000)
    assert [len(set(found)) for found in (train, held, test)] == [10_000, 1_000, 1_000]
    assert len({*train, *held, *test}) == 12_000
    assert train[:100] != again
    assert not set(again) & {*held, *test}
    shares = np.bincount(np.array(train).ravel(), minlength=17) / 40_000
    np.testing.assert_allclose(shares, 1 / 17, atol=0.005)  # six standard deviations: 0.007


def test_documents_beyond_the_set_repeat_it() -> None:
    small = PosGen(task="posgen", ids=2, far=1, near=3)
    assert seeds(small, 0, 14) * 2 == seeds(small, 0, 28)
    assert len(set(seeds(small, 0, 14))) == 14
    assert seeds(small, HELD_OUT, 1) * 3 == seeds(small, HELD_OUT, 3)


def test_a_repeated_set_is_said_with_its_size() -> None:
    wanted = PosGen(task="posgen", documents=70_000, heldout=9_000)
    stage = StageConfig(256, 256, 256, 256)
    config = RunConfig(
        "named",
        data=DataConfig(sources={"p": SourceConfig(generated=wanted)}),
        schedule=ScheduleConfig(stages={"only": stage}),
    )
    schedule, mistakes = build_schedule(config)
    assert schedule is not None, mistakes
    key = "data.sources.p.generated"
    assert generated_warnings(config, schedule) == [
        f"{key}.documents=70000: the set has 66817 seeds, so only 66817 documents differ but in length; give "
        "documents=66817 or less to have none twice",
        f"{key}.heldout=9000: the set has 8352 seeds, so only 8352 documents differ but in length; give heldout=8352 "
        "or less to have none twice",
    ]


def test_what_is_not_possible_names_a_way_out() -> None:
    def said(**settings: int) -> list[str]:
        return PosGen(task="posgen", **settings).problems()

    assert said() == said(ids=2, far=1, near=3) == said(ids=2, far=24, near=24) == []
    assert said(ids=3, far=1, near=1) == [
        "ids=3: with far=1 and near=1 there are 3^2 seeds, which must be between 10 and 2^48; give another number of "
        "them"
    ]
    assert "17^12 seeds, which must be" in said(far=2, near=10)[0]
    assert said(min_length=6, max_length=9) == [
        "min_length=6: a seed and a symbol after it, BOS and end token are 7 tokens; give min_length=7 or more"
    ]


def test_another_held_out_set_is_the_same_training_data() -> None:
    one, other = (
        declared_generated("made", PosGen(task="posgen", heldout_set=name), DataConfig(), [])
        for name in ("validation", "test")
    )
    assert one.identity == other.identity
