"""The fitted law of the loss by position in the report: its numbers, its line, and why there is none."""

import math
from itertools import pairwise

import pytest

from model.position.advice.loss_law import FittedLaw, LossLaw
from tests.unit.made_run import Row
from train.report.page import sections_of
from train.report.position_fit import fit_cells, fit_of, points_of
from train.report.record import RunRecord

LAW = LossLaw(30.0, 0.5, 2.0)


def evaluation(length: int, law: LossLaw = LAW) -> Row:
    """A held-out row whose buckets have the law's loss at their middle, but for the first."""
    edges = [0, *(2**octave for octave in range(5, length.bit_length()))]
    buckets = [
        {"start": start, "end": end, "loss": law.at(math.sqrt(start * end)) if start else 9.0}
        for start, end in pairwise(edges)
    ]
    return {"step": 4, "stage": "long", "tokens_seen": 9, "loss": 3.0, "last_500_loss": 2.25} | {
        "position_buckets": buckets
    }


def test_buckets_of_a_law_give_it_back_without_the_first() -> None:
    row = evaluation(2048)
    positions, _ = points_of(row)
    assert positions == pytest.approx([math.sqrt(2) * 2**octave for octave in range(5, 11)])
    found = fit_of(row)
    assert isinstance(found, FittedLaw)
    assert found.law == LossLaw(*(pytest.approx(value) for value in vars(LAW).values()))
    a, b, g, residual, points, why, last = fit_cells(row)
    assert (a.split()[0], b.split()[0], g.split()[0]) == ("30", "0.500", "2.000")
    assert "±" in a
    assert (points, why, last) == ("6", "", "2.250")
    assert float(residual) < 1e-9


def test_the_law_is_a_dotted_line_and_a_row_of_the_table() -> None:
    sections, figures = sections_of(RunRecord("made", evaluations=(evaluation(2048),)))
    (figure,) = [one for one in figures if one.key == "position"]
    (law,) = [trace for trace in figure.data if trace["name"] == "law"]
    ends = math.sqrt(2) * 32, math.sqrt(2) * 1024
    assert (law["x"][0], law["x"][-1]) == pytest.approx(ends, rel=1e-5)  # six digits are written
    assert law["y"] == pytest.approx([LAW.at(c) for c in law["x"]], rel=1e-5)
    assert "0.500 ±" in sections["Loss"]


def test_too_few_buckets_or_a_loss_that_rises_have_no_line_and_say_why() -> None:
    for row, why in (
        (evaluation(256), "there are 3"),
        (evaluation(2048, LossLaw(30.0, -0.5, 2.0)), "does not fall"),
    ):
        sections, figures = sections_of(RunRecord("made", evaluations=(row,)))
        (figure,) = [one for one in figures if one.key == "position"]
        assert "law" not in {trace["name"] for trace in figure.data}
        assert why in sections["Loss"]
    nothing = sections_of(RunRecord("made", evaluations=({**row, "position_buckets": None},)))
    assert "Jacobian" not in nothing[0]["Loss"]
