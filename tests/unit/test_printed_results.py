"""Results on standard output: to a reader that has gone, and to a full disk."""

import os
import sys
from pathlib import Path

import pytest

from data.printable import print_result


def to_file(monkeypatch: pytest.MonkeyPatch, descriptor: int, encoding: str = "utf-8") -> None:
    monkeypatch.setattr(sys, "stdout", os.fdopen(descriptor, "w", encoding=encoding))


def test_a_reader_that_has_gone_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    to_file(monkeypatch, writing)
    assert print_result("a result\n") == ""
    sys.stdout.close()  # does not write again


def test_a_full_disk_is_one_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    to_file(monkeypatch, os.open("/dev/full", os.O_WRONLY))
    assert print_result("a result\n") == "the output cannot be written (No space left on device)"
    sys.stdout.close()


def test_characters_that_the_output_does_not_have_are_escaped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    to_file(monkeypatch, os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT), "ascii")
    assert print_result("\u2192 8k\n") == ""
    sys.stdout.close()
    assert (tmp_path / "out").read_bytes() == b"\\u2192 8k\n"
