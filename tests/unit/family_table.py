"""Writes the table of families and forms of docs/huggingface.md: `python -m tests.unit.family_table`."""

import sys
from pathlib import Path

from model.huggingface.catalogue import FAMILIES
from model.huggingface.takers import FORMS, takers

PAGE = Path(__file__).resolve().parents[2] / "docs" / "huggingface.md"
BEGIN, END = "<!-- made by tests/unit/family_table.py -->\n", "<!-- end -->\n"


def table() -> str:
    """The table, in Markdown: a row for each form, with the families that take it."""
    lines = ["| | form | asked for by | families that take it |", "|---|---|---|---|"]
    for part, forms in FORMS.items():
        lines += [f"| {part} | {f.name} | `{f.key}` | {_families(takers(f))} |" for f in forms]
    return "\n".join(lines) + "\n"


def _families(found: list[str]) -> str:
    if not found:
        return "none"
    absent = [family.model_type for family in FAMILIES if family.model_type not in found]
    if len(absent) < 4:
        return f"all but {_names(absent)}" if absent else "all"
    return _names(found)


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def page(text: str) -> str:
    """The page `text` with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
    sys.stdout.write(f"{PAGE}\n")
