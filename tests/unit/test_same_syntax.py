"""The tool that compares syntax trees tells prose from code."""

import pytest

from same_syntax import compared

BEFORE = '''
"""Head."""
LIMIT = 3
"""of a field"""
def refuse(name):  # why
    """What it does."""
    raise ValueError(f"{name}: too large, at most {LIMIT}")
'''


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ("Head.", "A better head.", "same"),
        ("of a field", "Another sentence.", "same"),
        ("# why", "# because", "same"),
        ('    """What it does."""\n', "", "same"),
        ("too large, at most", "must be at most", "texts"),
        ("LIMIT = 3", "LIMIT = 4", "CODE"),
        ("{name}: too large, at most {LIMIT}", "{LIMIT}: {name}", "CODE"),
        ("raise ValueError", "return ValueError", "CODE"),
    ],
)
def test_prose_texts_and_code_are_told_apart(old: str, new: str, verdict: str) -> None:
    assert old in BEFORE
    assert compared(BEFORE, BEFORE.replace(old, new)) == verdict


def test_a_new_or_removed_file_is_code() -> None:
    assert compared(None, "x = 1") == compared("x = 1", None) == "CODE"
