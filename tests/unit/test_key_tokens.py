"""LongPPL from losses written down by hand, and what a short context changes in a step."""

from dataclasses import replace
from math import exp, log
from typing import Any

import numpy as np
import pytest
import torch

from data.packing.spans import Span
from model.at_step import AtStep
from model.config import ModelConfig
from model.kind_at_step import make_kinds
from model.layer_pattern import KindConfig
from model.packed_layout import PackedLayout
from model.position.fourier import Fourier
from model.position.rope import Rope
from model.reach import Reach
from train.configuration.compose import compose_run
from train.configuration.long_context_settings import (
    LongCeConfig,
    OfficialLongPerplexity,
    WindowedLongPerplexity,
)
from train.configuration.schema import RunConfig
from train.configuration.validate import rules
from train.evaluate.table import table_of
from train.evaluation.key_tokens import KeyRule, Losses, pieces_of, summary
from train.evaluation.long_perplexity import LongPerplexity


def test_a_miniature_has_the_perplexity_that_a_hand_computes() -> None:
    losses = Losses([Span(0, 7, 0, 5, 0), Span(0, 2, 10, 4, 0)])
    # Document 2 comes first. A first token is no target. K = 2: the first two tokens of a span are no candidates.
    nothing = 0.0
    losses.values[:] = [
        [nothing, 0.5, 1.0, 1.5, nothing, 0.1, 1.9, 1.0, 2.1],  # long
        [nothing, 9.0, 3.1, 3.4, nothing, 9.0, 4.0, 3.5, 9.0],  # short
        [0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0],
    ]
    # Document 2: 2.1 nats gained count, 1.9 do not. Document 7: 2.1 and 2.5 gained count, a loss of 2.1 does not.
    found = summary(losses.by_span(KeyRule(2, alpha=2.0, beta=2.0)))
    assert (found["tokens"], found["candidate_tokens"], found["key_tokens"]) == (7, 5, 3)
    assert found["long_perplexity"] == pytest.approx((1 * exp(1.0) + 2 * exp((1.9 + 1.0) / 2)) / 3)
    assert found["perplexity"] == pytest.approx(exp((0.5 + 1.0 + 1.5 + 0.1 + 1.9 + 1.0 + 2.1) / 7))
    none = summary(losses.by_span(KeyRule(2, alpha=8.0, beta=2.0)))
    assert (none["long_perplexity"], none["key_tokens"], none["candidate_tokens"]) == (None, 0, 5)


def test_a_perplexity_beyond_float64_is_infinite_and_one_of_no_token_is_unknown() -> None:
    by_span = np.array([[2.0, 2000.0, 1.0, 0.0, 0.0]])
    assert summary(by_span)["perplexity"] == np.inf
    assert summary(0 * by_span)["perplexity"] is None


def test_pieces_score_every_candidate_once_with_at_least_the_short_context_before_it() -> None:
    spans = [Span(0, 1, 100, 41, 0), Span(0, 3, 0, 12, 0), Span(0, 4, 0, 13, 0)]
    scored = []
    for piece in pieces_of(spans, 12, 5):
        assert piece.length <= 17
        scored += [(piece.document, piece.start + place) for place in range(12, piece.length)]
    assert scored == [(1, place) for place in range(112, 141)] + [(4, 12)]


def test_a_limit_of_keys_is_a_window_where_a_token_would_see_more() -> None:
    assert Reach().at_most(0) == Reach()
    assert Reach().at_most(9) == Reach(9)
    assert Reach(9).at_most(9) == Reach(9)
    assert Reach(10).at_most(9) == Reach(9)
    assert Reach(None, 8).at_most(9) == Reach(None, 8)
    assert Reach(20, 10).at_most(9) == Reach(9, 10)


def test_a_limit_of_keys_leaves_the_frequencies_of_fope_as_they_are() -> None:
    kinds = {"full_rope": KindConfig(rope=Rope(fourier=Fourier()))}
    model = ModelConfig(num_layers=1, layer_pattern=["full_rope"], kinds=kinds)
    layout = PackedLayout.from_lengths([64])

    def turned(at: AtStep) -> Any:
        return make_kinds(at, ["full_rope"], layout, model, torch.float64)["full_rope"]

    at = AtStep.of(model, 1e4, (64,))
    wide, narrow = turned(at), turned(replace(at, keys_at_most=8))
    assert (wide.reach, narrow.reach) == (Reach(), Reach(8))
    before, after = wide.positioning.rotation.__dict__, narrow.positioning.rotation.__dict__
    for name, value in before.items():
        same = torch.equal(value, after[name]) if torch.is_tensor(value) else value == after[name]
        assert same, name


@pytest.fixture(scope="module")
def quickstart() -> RunConfig:
    return compose_run(["experiment=quickstart"])


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (LongCeConfig(), "train.long_ce.window_tokens=4096: has no effect, in no stage"),
        (LongCeConfig(4095), ""),
        (WindowedLongPerplexity(), "context_tokens = 4096 must be below the longest"),
        (WindowedLongPerplexity(4095), ""),
        (OfficialLongPerplexity(), "context_tokens + step_tokens = 5120 must be below the longest"),
        (OfficialLongPerplexity(9, length=1033), "= 1033 must be below length, 1033"),
        (OfficialLongPerplexity(9, length=1034), ""),
    ],
)
def test_a_short_context_that_cuts_nothing_is_refused_in_one_line(
    quickstart: RunConfig, wanted: Any, says: str
) -> None:
    found = rules(asking(quickstart, wanted), 1)
    assert len(found) == bool(says)
    assert all(says in line for line in found)


def test_windows_of_the_model_may_leave_nothing_to_cut(quickstart: RunConfig) -> None:
    config = replace(quickstart, model=replace(quickstart.model, layer_pattern=["window_rope"]))
    for cuts, keys in ((True, 127), (False, 128)):
        for wanted in (LongCeConfig(keys), WindowedLongPerplexity(keys)):
            assert (not rules(asking(config, wanted), 1)) == cuts
        assert not rules(asking(config, OfficialLongPerplexity(keys)), 1)


def asking(config: RunConfig, wanted: Any) -> RunConfig:
    if isinstance(wanted, LongCeConfig):
        return replace(config, train=replace(config.train, long_ce=wanted))
    return replace(config, evaluation=replace(config.evaluation, long_perplexity=wanted))


def test_sentence_numbers_and_table_name_key_tokens_and_both_perplexities() -> None:
    row = {
        "step": 3,
        "stage": "long",
        "tokens_seen": 9,
        "task": "long_perplexity",
        "form": "official",
        "length": 4096,
        "context_tokens": 512,
        "documents": 7,
        "long_perplexity": exp(1.0),
        "key_tokens": 1200,
        "candidate_tokens": 25_000,
        "tokens": 28_665,
        "perplexity": exp(log(20.0)),
    }
    assert LongPerplexity.sentence(row) == (
        "2.718 on 1,200 key tokens of 25,000 beyond a context of 512 tokens (official form); perplexity 20.000 over "
        "28,665 tokens at length 4,096"
    )
    without = row | {"key_tokens": 0, "long_perplexity": None}
    assert LongPerplexity.sentence(without).startswith("no key token among 25,000 beyond")
    numbers = LongPerplexity.numbers(without)
    assert numbers["long_perplexity/key_tokens"] == 0
    assert "long_perplexity/long_perplexity" not in numbers
    assert LongPerplexity.numbers(row)["long_perplexity/long_perplexity"] == exp(1.0)
    shown = table_of([row | {"stage": "a"}, without | {"stage": "b"}]).splitlines()
    assert [line.split() for line in shown[1:]] == [["long_perplexity", "4,096", "1.000"]]
    (line,) = LongPerplexity.table([row])
    assert line == {key: value for key, value in row.items() if key != "task"}
