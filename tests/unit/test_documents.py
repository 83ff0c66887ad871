"""What documents say of the program is what the program says: messages, commands, keys, metrics."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("model", "data", "parallel", "train", "launch")
# A value inside a text, which documents write as `...`.
GAP = "\0"


@cache
def texts() -> tuple[str, ...]:
    """Every text of the program, with GAP for what is filled in."""
    found = []
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            found += list(_texts(ast.parse(path.read_text())))
        found += [path.read_text() for path in (ROOT / folder).rglob("*.sh")]
    return tuple(found)


def _texts(tree: ast.AST) -> Iterator[str]:
    """Of a module; not its docstrings."""
    described = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in (node for node in ast.walk(tree) if id(node) not in described):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def is_said(message: str) -> bool:
    """Whether one text of the program has the parts of `message` in this order, something else between them."""
    parts = [re.escape(part.strip()) for part in message.split("...") if part.strip()]
    pattern = re.compile(".*?".join(parts), re.DOTALL)
    return any(pattern.search(text) for text in texts())


def messages(page: str) -> list[str]:
    """What stands in code in the first column of the page's tables of symptoms and findings."""
    tables = re.findall(
        r"^\| (?:symptom|finding) \|.*\n((?:\|.*\n)+)", (ROOT / page).read_text(), re.M
    )
    rows = [row.split(" | ")[0] for table in tables for row in table.splitlines()]
    return [message for row in rows for message in re.findall(r"`([^`]+)`", row)]


@pytest.mark.parametrize("page", ["docs/troubleshooting.md", "docs/cluster.md"])
def test_messages_that_a_page_explains_are_said_by_the_program(page: str) -> None:
    quoted = [message for message in messages(page) if " " in message]
    assert len(quoted) > 10
    unknown = [message for message in quoted if not is_said(message)]
    assert not unknown, "\n".join(unknown)
    assert not is_said("no such ... message is said")


def test_the_index_leads_to_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text()
    pages = [path.name for path in (ROOT / "docs").glob("*.md") if path.name != "README.md"]
    assert [name for name in pages if f"]({name})" not in index] == []
