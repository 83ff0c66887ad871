"""The law L(c) = (a / c)^b + g fitted to the held-out loss by position: a line in the figure, and a table."""

import math
from collections.abc import Sequence

from model.position.advice.loss_law import FittedLaw, NoFit, fit
from train.report.record import RunRecord
from train.report.rows import Row, finite_value, mappings, rounded
from train.report.tables import paragraph, table

# Points of a drawn law.
_POINTS = 40


def position_buckets(evaluation: Row) -> list[Row]:
    """Returns the evaluation's valid buckets with a loss, in order of position."""
    buckets = mappings(evaluation, "position_buckets")
    kept = [
        b for b in buckets if None not in (finite_value(b, k) for k in ("start", "end", "loss"))
    ]
    kept = [bucket for bucket in kept if 0 <= bucket["start"] < bucket["end"]]
    return sorted(kept, key=lambda bucket: float(bucket["start"]))


def points_of(evaluation: Row) -> tuple[list[float], list[float]]:
    """Returns position (the geometric middle of a bucket) and loss of every bucket but the one that starts at 0.

    That one is dominated by the first tokens of a segment, which have no context.
    """
    buckets = [bucket for bucket in position_buckets(evaluation) if bucket["start"] > 0]
    return (
        [math.sqrt(bucket["start"] * bucket["end"]) for bucket in buckets],
        [float(bucket["loss"]) for bucket in buckets],
    )


def fit_of(evaluation: Row) -> FittedLaw | str:
    """Returns the fitted law, or why there is none, as a clause."""
    try:
        return fit(*points_of(evaluation))
    except NoFit as error:
        return str(error)


def fit_lines(evaluations: Sequence[tuple[Row, str]]) -> list[Row]:
    """Returns a dotted line of the law of each (evaluation, colour) that has one, over its fitted positions."""
    lines = []
    for evaluation, colour in evaluations:
        found = fit_of(evaluation)
        if isinstance(found, str):
            continue
        positions, _ = points_of(evaluation)
        first, last = math.log(min(positions)), math.log(max(positions))
        x = [math.exp(first + (last - first) * i / (_POINTS - 1)) for i in range(_POINTS)]
        lines.append(
            {"type": "scatter", "mode": "lines", "name": "law", "hoverinfo": "skip"}
            | {"line": {"color": colour, "width": 1.5, "dash": "dot"}}
            | {"x": list(map(rounded, x)), "y": [rounded(found.law.at(c)) for c in x]}
        )
    return lines


def fit_section(record: RunRecord) -> str:
    """Returns the table of the law after every stage, with its uncertainty; "" if no stage has a bucket."""
    newest = {stage: record.last_evaluation(stage) for stage in record.stage_names}
    rows = [
        [stage, *fit_cells(evaluation)]
        for stage, evaluation in newest.items()
        if position_buckets(evaluation)
    ]
    if not rows:
        return ""
    text = (
        "L(c) = (a / c)^b + g, the loss after c tokens of context (arXiv 2309.16039), by least squares on the loss of "
        "every bucket of positions but the first, at its geometric middle; ± is one standard error from the Jacobian, "
        "with the residual at as many degrees of freedom as there are points beyond 3."
    )
    return paragraph(text, "unit") + table(["After", *FIT_COLUMNS], rows)


FIT_COLUMNS = (
    "a, tokens",
    "b",
    "g, nats",
    "Residual",
    "Points",
    "No law, because",
    "Loss, last 500 tokens",
)


def fit_cells(evaluation: Row) -> list[str]:
    """Returns the cells of FIT_COLUMNS for one evaluation; empty where unknown."""
    found, last = fit_of(evaluation), finite_value(evaluation, "last_500_loss")
    words = f"{last:.3f}" if last is not None else ""
    if isinstance(found, str):
        return ["", "", "", "", f"{len(points_of(evaluation)[0])}", found, words]
    law, errors = found.law, found.errors
    return [
        f"{law.alpha:.3g} ± {errors.alpha:.2g}",
        f"{law.beta:.3f} ± {errors.beta:.2g}",
        f"{law.gamma:.3f} ± {errors.gamma:.2g}",
        f"{found.residual:.2g}",
        f"{found.num_points}",
        "",
        words,
    ]
