"""Up to which length does it work? One table with what every formula says."""

from train.advise.advice import Advice
from train.advise.effective import OFTEN, Effective
from train.advise.tables import Question, Table
from train.report.units import NOTHING, whole_number


def effective_question(found: Advice) -> Question:
    """Returns the question about effective lengths."""
    return Question(
        "Lengths",
        "Up to which length does it work?",
        _answer(found),
        [_table(found)],
    )


def _answer(found: Advice) -> list[str]:
    last = found.effective[-1]
    length, said = last.moment.length, []
    carry = last.windows_carry
    if carry is not None and carry < length:
        full = "the full layers carry" if _has_full(last) else "nothing carries"
        said.append(
            f"Layers with a window or chunk alone carry information over {whole_number(carry)} tokens; {full} what is "
            "farther away."
        )
    if last.trained_often is not None:
        times = f"{OFTEN // 10**9} billion times"
        many = whole_number(last.trained_often) if last.trained_often else "no"
        said.append(f"In these stages at most {many} positions are trained {times} or more.")
    return said


def _has_full(row: Effective) -> bool:
    return any(kind.spec.reach.limit is None for kind in row.moment.kinds)


def _table(found: Advice) -> Table:
    rows = [
        [
            row.moment.stage,
            whole_number(row.moment.length),
            *_of_full_layers(found, row.moment.stage),
            "" if row.windows_carry is None else whole_number(row.windows_carry),
            "" if row.trained_often is None else whole_number(row.trained_often),
        ]
        for row in found.effective
    ]
    columns = ["Stage", "Length", "Reach", "Holds to", "Windows carry", "Trained often"]
    return Table(
        "Effective lengths, tokens",
        columns,
        rows,
        [
            "Reach and Holds to: the smallest of the full rotary layers, from the questions above; a dash where "
            "there are none, or no limit. Windows carry: what k layers of window W pass on, k (W - 1) + 1 tokens. "
            f"Trained often: positions that occur {OFTEN // 10**9} billion times or more in training up to the end "
            "of the stage, where the effective length of two models of 1.3B parameters ended (arXiv 2410.18745); at "
            "most, as if every row were one document."
        ],
    )


def _of_full_layers(found: Advice, stage: str) -> tuple[str, str]:
    reaches = [
        row.tokens
        for row in found.reaches
        if row.case.full and stage in row.case.stages and not row.may_be_longer
    ]
    holds = [
        row.laws.usable_length
        for row in found.extrapolations
        if row.laws and row.case.full and stage in row.case.stages
    ]
    return (
        whole_number(min(reaches)) if reaches else NOTHING,
        whole_number(min(holds)) if holds else NOTHING,
    )
