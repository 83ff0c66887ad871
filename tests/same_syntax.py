"""Shows that a change touched prose only: compares the syntax trees of two states without docstrings and comments.

    python tests/same_syntax.py REVISION [PATH ...]

Every Python file that differs between REVISION and the working tree is one line: `same`, `texts` (only string
constants differ: messages and help), or `CODE`. The exit status is 1 where one is `CODE`, or exists on one side only.
"""

import ast
import subprocess
import sys
from pathlib import Path


def tree(source: str, *, texts: bool) -> str:
    """The syntax tree as text, without docstrings and other string statements; string constants count if `texts`."""
    parsed = ast.parse(source)
    for node in ast.walk(parsed):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [line for line in body if not is_text(line)] or [ast.Pass()]
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not texts:
            node.value = ""
    if not texts:
        parsed = _JoinText().visit(parsed)
    return ast.dump(parsed)


def is_text(statement: ast.AST) -> bool:
    """Whether a statement is a string and nothing else."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


class _JoinText(ast.NodeTransformer):
    """Keeps of an f-string the values that it shows: the words around them may be cut in other places."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        self.generic_visit(node)
        node.values = [value for value in node.values if isinstance(value, ast.FormattedValue)]
        return node


def compared(before: str | None, after: str | None) -> str:
    """`same`, `texts` or `CODE`, of one file's source in the two states; None where it does not exist."""
    if before is None or after is None:
        return "CODE"
    if tree(before, texts=True) == tree(after, texts=True):
        return "same"
    return "texts" if tree(before, texts=False) == tree(after, texts=False) else "CODE"


def main(arguments: list[str]) -> int:
    """Print one line a changed file; 1 where code differs."""
    if not arguments or arguments[0].startswith("-"):
        sys.stdout.write(f"{__doc__}\n")
        return 2
    revision, *paths = arguments
    listed = git("diff", "--name-only", "--no-renames", revision, "--", *(paths or ["."]))
    found = set()
    for name in (name for name in listed.splitlines() if name.endswith(".py")):
        path = Path(name)
        known = git("ls-tree", "--name-only", revision, "--", name)
        before = git("show", f"{revision}:{name}") if known else None
        verdict = compared(before, path.read_text(encoding="utf-8") if path.exists() else None)
        found.add(verdict)
        sys.stdout.write(f"{verdict:5}  {name}\n")
    return int("CODE" in found)


def git(*words: str) -> str:
    """What git prints; ends the program where git fails."""
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"same_syntax: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
