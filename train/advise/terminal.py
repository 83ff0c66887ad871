"""The tables as text for a terminal."""

import textwrap
from collections.abc import Sequence

from data.printable import one_line
from train.advise.advice import Advice
from train.advise.questions import questions
from train.advise.tables import Question, Table
from train.report.units import NOTHING

WIDTH = 100


def text_of(found: Advice) -> str:
    """Returns the answer to every question, as text that ends with a line break."""
    parts = [_wrapped(one_line(f"{found.subject.name}: {found.subject.source}"))]
    parts += [_question(question) for question in questions(found)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _question(question: Question) -> str:
    parts = [question.asks + "\n" + "=" * len(question.asks)]
    parts += [_wrapped(line) for line in question.answer]
    parts += [_table(table) for table in question.tables if table.rows]
    return "\n\n".join(parts)


def _table(table: Table) -> str:
    rows = (
        [_wrapped(f"{row[0]}: {row[-1]}", "  ") for row in table.rows]
        if table.long
        else aligned(table.columns, table.rows)
    )
    lines = [table.title, *rows]
    return "\n".join([*lines, *(_wrapped(note, "  ") for note in table.notes)])


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table: the first column to the left, the others to the right, empty ones left out."""
    kept = [i for i in range(len(columns)) if not i or any(row[i] for row in rows)]
    cells = [[columns[i] for i in kept], *([row[i] or NOTHING for i in kept] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        first, *rest = [*zip(row, widths, strict=True)]
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
        lines.append("  " + "  ".join(padded).rstrip())
    return lines


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False
    )
