"""What people read of the data commands: help, progress, mistakes, and docs/data.md word by word."""

import argparse
import gzip
import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from data import manifest, progress
from data.formats.bad_records import BadRecords
from data.formats.readers import COMPRESSIONS, FORMATS
from data.formats.readers import UNREADABLE as UNREADABLE_SUFFIXES
from data.formats.records import BadRecord
from data.prepare import __main__ as prepare_command
from data.printable import Mistakes, told
from data.progress import Progress, in_bytes
from data.tokenizer import training
from data.tokenizer.sentencepiece_model import Tokenizer, train


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    words = [f"a good document number {number}, and others\n" for number in range(100)]
    return train(words, tmp_path_factory.mktemp("tokenizer") / "t.model", 320)


PARSERS = {
    "data.prepare": prepare_command.make_parser,
    "data.tokenizer": training.make_parser,
    "data.manifest": manifest.make_parser,
}


@pytest.mark.parametrize("name", PARSERS)
def test_every_option_has_a_sentence_and_its_default(name: str) -> None:
    for action in PARSERS[name]()._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        text = PARSERS[name]()._get_formatter()._expand_help(action)
        assert len(text.split()) >= 3, action.dest
        if not action.required:
            assert "(default: " in text, action.dest
        if action.default not in (None, "", False) and action.choices is None:
            assert f"(default: {action.default})" in text
        assert action.metavar or action.choices or action.nargs == 0, action.dest


def test_the_first_records_are_printed_also_behind_many_inputs_that_cannot_be_read() -> None:
    said: list[str] = []
    bad = BadRecords("skip", said.append, "in errors.jsonl")
    closed = {f"{n}.zip": BadRecord(f"{n}.zip", 1, "format", "is a zip archive") for n in range(60)}
    bad.announce(closed)
    said.clear()
    for record in closed.values():
        bad.note(record)
    for line in range(70):
        bad.note(BadRecord("a.jsonl", line, "field", "no field 'text'"))
    assert said[0].startswith("skipped a.jsonl:0: ")
    assert said[-1] == "more skipped records are in errors.jsonl"
    assert len(said) == 51
    assert bad.counts == {"format": 60, "field": 70}


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_has_plain_numbers_and_no_carriage_return_in_a_file(
    monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    out = _Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    seconds = iter(range(0, 1000, 6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    with Progress("tokenise", 5_200_000, shown=True) as shown:
        for _ in range(4):
            shown.advance(1_300_000, "5,200,000 documents, 31.0 MB of text")
    said = out.getvalue()
    assert "e+" not in said
    assert "5,200,000 documents" in said
    if not terminal:
        assert said.splitlines() == [
            f"tokenise: {share} %, {read} MB of 5.2 MB read; 5,200,000 documents, 31.0 MB of text"
            for share, read in ((50, 2.6), (100, 5.2))
        ]


def test_progress_of_a_compressed_input_counts_stored_bytes_and_text(
    tmp_path: Path,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    record = json.dumps({"text": "word " * 2000}) + "\n"
    packed = gzip.compress(record.encode() * 100)
    Path("a.jsonl.gz").write_bytes(packed)
    arguments = [
        "--input",
        "a.jsonl.gz",
        "--output",
        "out/x",
        "--tokenizer",
        str(tokenizer.path),
    ]
    assert prepare_command.main(arguments) == 0
    lines = capsys.readouterr().err
    assert "\r" not in lines
    stored = in_bytes(len(packed))
    assert f"tokenise: 100 %, {stored} of {stored} read; 100 documents, " in lines
    assert "1.0 MB of text" in lines


def test_bytes_are_written_for_a_reader() -> None:
    sizes = [0, 999, 1000, 999_949, 999_950, 5_200_000, 10**12, 10**16]
    assert [in_bytes(size) for size in sizes] == [
        "0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB", "5.2 MB", "1.0 TB", "10000.0 TB",
    ]  # fmt: skip


def test_many_mistakes_are_lines_and_survive_a_way_between_processes() -> None:
    error = Mistakes("one", "two\nlines", way_out="do it")
    assert told("x", error) == "x: 2 mistakes (do it):\n  one\n  two\\nlines\n"
    assert told("x", Mistakes("one", way_out="do it")) == "x: one (do it)\n"
    kind, arguments, state = error.__reduce__()[:3]  # type: ignore[misc]
    again = kind(*arguments)
    again.__dict__.update(state)
    assert str(again) == str(error)


PAGE = (Path(__file__).resolve().parents[2] / "docs/data.md").read_text()


def _shown(name: str) -> list[str]:
    part = PAGE.split(f"<!-- {name}: begin -->")[1].split(f"<!-- {name}: end -->")[0]
    return [line.removeprefix("    ") for line in part.splitlines() if line.startswith("    ")]


def test_the_example_of_the_page_does_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = {
        "prepare": prepare_command.main,
        "tokenizer": training.main,
        "manifest": manifest.main,
    }
    for line in _shown("example"):
        words = shlex.split(line)
        if words[0] == "ropewalk":
            assert commands[words[1]](words[2:]) == 0, line
        else:
            subprocess.run(["bash", "-c", line], check=True)
    said = capsys.readouterr().err.splitlines()
    assert said[2:] == _shown("said")


def test_the_page_has_every_suffix_and_every_kind() -> None:
    table = PAGE.split("## Formats")[1].split("## Refused")[0]
    assert [suffix for suffix in (*FORMATS, *COMPRESSIONS) if f"`{suffix}`" not in table] == []
    refused = PAGE.split("## Refused")[1].split("## Bad records")[0].lower()
    named = {
        name for name in UNREADABLE_SUFFIXES.values() if name in ("Parquet", "Arrow", "Avro", "ORC")
    }
    assert [name for name in named if name.lower() not in refused] == []
    kinds = BadRecord.__doc__ or ""
    listed = re.findall(r"[a-z_]+", kinds.split("kind:")[1].split("(")[0].replace(" or ", " "))
    assert len(listed) == 9
    assert [kind for kind in listed if f"`{kind}`" not in PAGE] == []
