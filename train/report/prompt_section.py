"""The section of the long-context tasks: the table of tasks, and the figures of each."""

from train.records.prompt_rows import EFFECTIVE_SHARE, effective_length, scores_by_length
from train.report.axes import Figure
from train.report.prompt_curves import curves_figure
from train.report.prompt_maps import map_figure, tasks_figure
from train.report.record import RunRecord
from train.report.rows import Row, finite_value, mappings
from train.report.tables import paragraph, table
from train.report.units import percent, signed, whole_number

# Entries of a cell beside its own score, and their columns.
_BESIDE = {
    "last_part": "Last part only",
    "removed": "Needle removed",
    "swapped": "Another needle",
}
# Two scores of the same prompts differ if they are further apart than this many standard errors.
_STANDARD_ERRORS = 2.0


def prompt_section(record: RunRecord) -> str:
    """Returns the table of the newest evaluation of every task; "" without any."""
    newest = {name: rows[-1] for name, rows in record.prompt_tasks.items()}
    if not newest:
        return ""
    text = (
        "Share of the prompts whose answer is predicted, every token of it by one forward, and the loss of the answers "
        "at the longest length, in the newest evaluation. Effective length: the longest that keeps "
        f"{EFFECTIVE_SHARE:.0%} of the share at the shortest. Last part only, needle removed, another needle: the same "
        "prompts so changed, at the longest length. A task that its source judges by contained parts or by a set has a "
        "stricter share here."
    )
    return paragraph(text, "unit") + task_table(newest)


def task_table(newest: dict[str, Row]) -> str:
    """Returns a table with a row for each task: its scores by length, effective length and controls."""
    scores = {name: scores_by_length(mappings(row, "cells")) for name, row in newest.items()}
    lengths = sorted({length for found in scores.values() for length in found})
    rows = []
    for name, row in newest.items():
        found, cells = scores[name], mappings(row, "cells")
        effective = effective_length({length: one.share for length, one in found.items()})
        longest = max(found, default=0)
        loss = found[longest].loss if longest else None
        beside = [_beside(cells, part, longest) for part in _BESIDE]
        shares = [percent(found[length].share) if length in found else "" for length in lengths]
        rows.append(
            [
                name,
                str(row.get("stage")),
                *shares,
                whole_number(effective) if effective else "none",
                f"{loss:.3f}" if loss is not None else "",
                *beside,
                difference_words(cells, longest),
                percent(chance) if (chance := finite_value(row, "chance")) is not None else "",
                "" if row.get("judged") in (None, "exact") else str(row["judged"]),
            ]
        )
    columns = ["Task", "After", *map(whole_number, lengths), "Effective length", "Answer loss"]
    return table(
        [*columns, *_BESIDE.values(), "Whole less last part", "Chance", "Its source judges"], rows
    )


def _beside(cells: list[Row], part: str, length: int) -> str:
    found = scores_by_length(cells, part).get(length)
    return percent(found.share) if found else ""


def difference_words(cells: list[Row], length: int) -> str:
    """Returns share and loss with the whole context less those with its last part only, at one length, in words.

    Says that the shares do not differ where they are within two standard errors of two shares of so many prompts.
    """
    whole = scores_by_length(cells).get(length)
    last = scores_by_length(cells, "last_part").get(length)
    if whole is None or last is None:
        return ""
    error = sum(one.share * (1 - one.share) / one.prompts for one in (whole, last)) ** 0.5
    gain = whole.share - last.share
    text = f"{100 * gain:+.1f} points".replace("-", "\N{MINUS SIGN}")
    if gain == 0 or abs(gain) <= _STANDARD_ERRORS * error:
        text = "no difference"
    if whole.loss is not None and last.loss is not None:
        text += f", loss {signed(whole.loss - last.loss)}"
    return text


def prompt_figures(record: RunRecord) -> list[Figure]:
    """Returns the map of all tasks, and a heat map and the curves of each."""
    found = [tasks_figure(record)]
    for number, name in enumerate(record.prompt_tasks):
        found += [map_figure(record, name, number), curves_figure(record, name, number)]
    return [figure for figure in found if figure.data]
