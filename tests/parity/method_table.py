"""Writes the tables of docs/positions.md from the covering array: `python -m tests.parity.method_table`."""

import sys
from pathlib import Path

from tests.parity.method_array import AXES, PROOFS, REFUSED
from tests.parity.methods import METHODS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "positions.md"
BEGIN, END = "<!-- made by tests/parity/method_table.py -->\n", "<!-- end -->\n"
# Columns of the second table, and the values of the axes that each of them stands for.
COLUMNS = {
    "tensor": ("tensor", "tensor, fewer groups than ranks"),
    "sequence, ring and exchange": ("sequence, ring", "sequence, exchange"),
    "every dealing": ("zigzag", "contiguous", "balanced"),
    "1f1b, interleaved": ("1f1b", "interleaved 1f1b"),
    "zbv": ("zbv",),
    "data, ZeRO 1 to 3": ("data", "ZeRO 1", "ZeRO 2", "ZeRO 3"),
    "recomputed": ("recomputed", "recomputed, attention kept"),
    "compiled": ("compiled",),
    "float32, bfloat16": ("float32", "bfloat16"),
}


def cell(name: str, axes: tuple[str, ...]) -> str:
    """What stands in the table for a method and some values of the axes."""
    method = METHODS[name]
    refused = [axis for axis in axes if (name, axis) in REFUSED]
    if refused:
        return "refused"
    shown = all(
        any(AXES[axis](proof) and method.holds(proof.case) for proof in PROOFS) for axis in axes
    )
    return "yes" if shown else "NOT TESTED"


def tables() -> str:
    """Both tables, in Markdown."""
    lines = ["| method | set by | source |", "|---|---|---|"]
    lines += [f"| {name} | {m.key} | {m.source} |" for name, m in METHODS.items()]
    lines += ["", "| method | " + " | ".join(COLUMNS) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    for name in METHODS:
        cells = " | ".join(cell(name, axes) for axes in COLUMNS.values())
        lines.append(f"| {name} | {cells} |")
    lines += ["", *(f"- {name} with `{axis}`: {says}." for (name, axis), says in REFUSED.items())]
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The page `text` with its tables made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
    sys.stdout.write(f"{PAGE}\n")
