"""Tables of the newest evaluations: one table a task, a row for every run, or for every stage of one run."""

import html
from collections.abc import Iterable, Sequence

from train.records.evaluation_rows import ACCURACY, HELD_OUT
from train.records.prompt_rows import PROMPTS, effective_length, scores_by_length
from train.report.position_fit import FIT_COLUMNS, fit_cells
from train.report.record import RunRecord
from train.report.rows import Row, finite_value, mapping, mappings
from train.report.stage_table import chip
from train.report.tables import html_table
from train.report.units import percent, whole_number

# Of a row: no result of the task.
_NO_RESULT = {"step", "stage", "tokens_seen", "task", "kind"}


def task_results(records: Sequence[RunRecord]) -> str:
    """Returns a heading and a table for every task that a run was evaluated with."""
    newest = [newest_of(record) for record in records]
    text = ""
    for task in dict.fromkeys(name for rows in newest for name in rows):
        found = {
            chip(records[index].name, index): _results(rows[task])
            for index, rows in enumerate(newest)
            if task in rows
        }
        text += _table(task, "Run", found)
    return text


def other_results(record: RunRecord) -> str:
    """Returns tables of one run's tasks that have no figures of their own: the newest row of every stage."""
    others = [row for row in record.more if row.get("kind") != PROMPTS]
    text = ""
    for task in dict.fromkeys(str(row.get("task")) for row in others):
        newest = {row["stage"]: row for row in others if str(row.get("task")) == task}
        found = {html.escape(stage): _results(row) for stage, row in newest.items()}
        text += _table(task, "After", {name: one | {"After": ""} for name, one in found.items()})
    return text


def _table(task: str, of: str, found: dict[str, dict[str, str]]) -> str:
    """Returns the heading of a task and its table. found: results by column, by the first cell as HTML."""
    columns = _ordered(column for one in found.values() for column in one)
    rows = [
        [first, *(html.escape(one.get(column, "")) for column in columns)]
        for first, one in found.items()
    ]
    return f"<h3>{html.escape(task)}</h3>{html_table([of, *map(html.escape, columns)], rows)}"


def _ordered(columns: Iterable[str]) -> list[str]:
    """Returns the different columns in the order of their first run, but those of lengths together and ascending."""
    found = list(dict.fromkeys(columns))
    lengths = sorted(filter(_length, found), key=lambda column: (_length(column), column))
    at = next((index for index, column in enumerate(found) if _length(column)), 0)
    before = [column for column in found[:at] if not _length(column)]
    return [*before, *lengths, *(column for column in found[at:] if not _length(column))]


def _length(column: str) -> int:
    """Returns the length that a column such as `1,024 greedy` begins with; 0 if it begins with none."""
    digits = column.partition(" ")[0].replace(",", "")
    return int(digits) if digits.isdecimal() else 0


def newest_of(record: RunRecord) -> dict[str, Row]:
    """Returns the newest row of every task, by its name."""
    rows = (*record.evaluations, *record.accuracies, *record.more)
    return {str(row.get("task", HELD_OUT)): row for row in rows}


def _results(row: Row) -> dict[str, str]:
    """Returns the results of one row in words, by column."""
    task = str(row.get("task", HELD_OUT))
    found = {"After": str(row["stage"]), "Step": whole_number(row["step"])}
    if mappings(row, "cells"):
        return found | _of_prompts(row)
    if task == ACCURACY:
        return found | _of_accuracy(row)
    if mappings(row, "position_buckets"):
        return found | _of_held_out(row)
    return found | {
        key.replace("_", " "): text
        for key, value in row.items()
        if key not in _NO_RESULT and (text := _text(value))
    }


def _text(value: object) -> str:
    """Returns a number or a word of a row; "" for anything else."""
    if isinstance(value, str):
        return value
    number = finite_value({"": value}, "")
    if number is None:
        return ""
    return whole_number(number) if number.is_integer() else f"{number:.4g}"


def _of_prompts(row: Row) -> dict[str, str]:
    scores = scores_by_length(mappings(row, "cells"))
    effective = effective_length({length: one.share for length, one in scores.items()})
    losses = [one.loss for one in scores.values()]
    shares = {whole_number(length): percent(one.share) for length, one in scores.items()}
    loss = losses[-1] if losses else None
    return shares | {
        "Effective length": whole_number(effective) if effective else "none",
        "Answer loss": f"{loss:.3f}" if loss is not None else "",
    }


def _of_accuracy(row: Row) -> dict[str, str]:
    found = {}
    for one in mappings(row, "lengths"):
        length = finite_value(one, "length")
        for kind, part in (("", one), (" greedy", mapping(one, "greedy"))):
            share = finite_value(part, "accuracy")
            if length is not None and share is not None:
                found[f"{whole_number(length)}{kind}"] = percent(share)
    return found


def _of_held_out(row: Row) -> dict[str, str]:
    loss, length = finite_value(row, "loss"), finite_value(row, "sequence_length")
    return {
        "Loss": f"{loss:.3f}" if loss is not None else "",
        "At length": whole_number(length) if length else "",
        **dict(zip(FIT_COLUMNS, fit_cells(row), strict=True)),
    }
