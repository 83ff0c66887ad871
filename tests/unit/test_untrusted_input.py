"""Documents that somebody else made: each is prepared as it is, or named in one line; nothing hangs or bursts."""

import gzip
import json
import os
import random
import re
import signal
import socket
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from data.formats import records
from data.formats.readers import read_documents
from data.formats.records import BadRecord, Document, Fields
from data.prepare.__main__ import main
from data.prepare.append_journal import AppendJournal
from data.prepare.job import prepare
from data.prepare.options import PrepareOptions
from data.tokenizer.sentencepiece_model import Tokenizer, train
from data.tokenizer.training import main as train_tokenizer
from data.tokens.indexed_dataset import IndexedDataset

GOOD = "a good document"
NOISE = random.Random(4).randbytes(3000)
FULL_NAME = 250 * "n"
FINAL = ("bin", "idx", "crc", "manifest.json")


class Case(NamedTuple):
    """Files of a folder, the texts that are prepared (GOOD apart), and what is named instead: line and kind."""

    make: Callable[[Path], object]
    texts: tuple[str, ...] = ()
    named: tuple[tuple[int, str], ...] = ()


def holds(name: str | bytes, content: str | bytes) -> Callable[[Path], object]:
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: Path(os.fsdecode(folder / os.fsdecode(name))).write_bytes(raw)


def lines(*records: str | bytes, end: bytes = b"\n") -> bytes:
    return end.join(r.encode() if isinstance(r, str) else r for r in records) + end


def text(value: object) -> str:
    return json.dumps({"text": value})


def links(name: str, target: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).symlink_to(target)


def listens(folder: Path) -> None:
    place = socket.socket(socket.AF_UNIX)
    os.chdir(folder)  # a socket's path may have 108 bytes
    place.bind("s.txt")
    place.close()


NAMES = {
    "spaces": "two  words .txt",
    "a newline": "two\nlines.txt",
    "quotes": "'\"`.txt",
    "a leading dash": "--help",
    "bytes that are no UTF-8": b"caf\xe9\xff.txt",
    "250 letters": FULL_NAME,
    "an emoji": "\U0001f600.txt",
    "shell words": "$(touch MARK);*.txt",
    "percent and braces": "%s {0}.txt",
    "backslashes": "up\\..\\..\\up.txt",
    "escape codes": "\x1b[31mred.txt",
    "a suffix in capitals": "A.JSONL.TXT",
}
CASES = {
    **{f"named with {what}": Case(holds(name, "inside"), ("inside",)) for what, name in NAMES.items()},
    "no text, named with a newline": Case(holds("two\nlines.txt", b"\xff"), (), ((1, "encoding"),)),
    "no text, named without UTF-8": Case(holds(b"\xff.txt", b"\xff"), (), ((1, "encoding"),)),
    "an empty text": Case(holds("a.txt", ""), (), ((1, "empty"),)),
    "an empty list of records": Case(holds("a.jsonl", "")),
    "an empty archive": Case(holds("a.jsonl.gz", ""), (), ((1, "unreadable"),)),
    "another empty archive": Case(holds("a.jsonl.zst", ""), (), ((1, "unreadable"),)),
    "noise": Case(holds("a", NOISE), (), ((1, "encoding"),)),
    "NUL bytes": Case(holds("a.txt", "a\0b\0"), ("a\0b\0",)),
    "UTF-16": Case(holds("a.txt", "word".encode("utf-16")), (), ((1, "encoding"),)),
    "a byte order mark": Case(holds("a.txt", "\ufeffword"), ("word",)),
    "a byte order mark of source code": Case(holds("a.py", "\ufeffword"), ("\ufeffword",)),
    "a byte order mark before JSON": Case(holds("a.jsonl", "\ufeff" + text("x")), ("x",)),
    "carriage returns": Case(holds("a.txt", "one\r\ntwo\r"), ("one\r\ntwo\r",)),
    "carriage returns between records": Case(
        holds("a.jsonl", lines(text("one"), text("two"), end=b"\r\n")), ("one", "two")
    ),
    "the end token spelled out": Case(holds("a.txt", "</s><s><unk>\u2581"), ("</s><s><unk>\u2581",)),
    "a megabyte in one line": Case(holds("a.jsonl", text("ab " * 350_000)), ("ab " * 350_000,)),
    "JSON nested deeply": Case(
        holds("a.jsonl", lines("[" * 100_000, '{"text":' * 50_000, text("x"))), ("x",), ((1, "json"), (2, "json"))
    ),
    "a JSON name that stands twice": Case(holds("a.jsonl", '{"text": "one", "text": "two"}'), ("two",)),
    "JSON numbers that are none": Case(
        holds("a.jsonl", lines('{"text": "x", "a": NaN, "b": 1e999, "c": -Infinity}', '{"text": NaN}')),
        ("x",),
        ((2, "field"),),
    ),
    "JSON integers without end": Case(
        holds("a.jsonl", lines('{"text": "x", "id": ' + "9" * 10_000 + "}")), (), ((1, "json"),)
    ),
    "lone surrogates": Case(holds("a.jsonl", lines(r'{"text": "\ud800"}', r'{"text": "\ud83d\ude00"}')),
        ("\U0001f600",), ((1, "encoding"),)),
    "a JSON name without end": Case(holds("a.jsonl", json.dumps({"\n\x1b" * 50_000: 1})), (), ((1, "field"),)),
    "a cut archive": Case(holds("a.jsonl.gz", gzip.compress(lines(text("x")))[:-4]), ("x",), ((2, "truncated"),)),
    "another cut archive": Case(
        holds("a.jsonl.zst", zstandard.compress(lines(text(NOISE.hex())))[:-4]), (), ((1, "truncated"),)
    ),
    "no archive": Case(holds("a.jsonl.gz", lines(text("x"))), (), ((1, "format"),)),
    "another no archive": Case(holds("a.jsonl.zst", lines(text("x"))), (), ((1, "format"),)),
    "an archive that no reader opens": Case(holds("a.tar.gz", NOISE), (), ((1, "format"),)),
    "a link to itself": Case(links("a.txt", "a.txt"), (), ((1, "unreadable"),)),
    "a link to nothing": Case(links("a.jsonl", "gone"), (), ((1, "unreadable"),)),
    "a link to the folder above": Case(links("above", "..")),
    "a link to a file": Case(links("b.txt", "good.txt"), (GOOD,)),
    "a link to a device": Case(links("a.txt", "/dev/zero"), (), ((1, "unreadable"),)),
    "a link to a device, of records": Case(links("a.jsonl", "/dev/zero"), (), ((1, "unreadable"),)),
    # A regular file, but whoever reads its first byte gets an error: unreadable also for root.
    "a file that cannot be read": Case(links("a.txt", "/proc/self/mem"), (), ((1, "unreadable"),)),
    "records that cannot be read": Case(links("a.jsonl", "/proc/self/mem"), (), ((1, "unreadable"),)),
    "a pipe": Case(lambda folder: os.mkfifo(folder / "a.txt"), (), ((1, "unreadable"),)),
    "a pipe of records": Case(lambda folder: os.mkfifo(folder / "a.jsonl.gz"), (), ((1, "unreadable"),)),
    "a socket": Case(listens, (), ((1, "unreadable"),)),
    "a folder named like a file": Case(lambda folder: (folder / "a.jsonl").mkdir()),
    "hidden files and pictures": Case(lambda folder: [holds(n, NOISE)(folder) for n in (".a", "b.png")]),
}  # fmt: skip


@pytest.fixture
def no_hang() -> Iterator[None]:
    """Of tests with a pipe: to read one that nobody writes would wait for ever, and no bound but time shows it."""

    def late(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    words = [f"{GOOD} number {number}, and others\n" for number in range(100)]
    return train(words, tmp_path_factory.mktemp("tokenizer") / "t.model", 320)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where documents lie, one of them good; the working folder, so that paths are short."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/good.txt").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "in"


def run(tokenizer: Tokenizer, *arguments: str, inputs: tuple[str, ...] = ("in",)) -> int:
    given = ["--tokenizer", str(tokenizer.path), "--output", "out/x"]
    return main([*given, *arguments, "--input", *inputs])


def prepared(tokenizer: Tokenizer, prefix: str = "out/x") -> list[str]:
    dataset = IndexedDataset(prefix)
    return [
        tokenizer.decode(dataset.read(number, 0, dataset.document_length(number)))
        for number in range(dataset.num_documents)
    ]


@pytest.mark.usefixtures("no_hang")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_hostile_document_is_prepared_or_named_and_the_others_survive(
    case: Case, folder: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    case.make(folder)
    os.chdir(folder.parent)
    fatal = [kind for _, kind in case.named if kind != "empty"]
    assert run(tokenizer) == (2 if fatal else 0)
    last = capsys.readouterr().err.splitlines()[-1]
    if fatal:
        assert last.startswith("data.prepare: in/")
        assert re.search(r"\(go on without such (records|inputs): --on-error skip\)$", last)
        assert last.isprintable()
        assert len(last) < 1000
        assert not any(Path(f"out/x.{suffix}").exists() for suffix in FINAL)
        assert run(tokenizer, "--on-error", "skip") == 0
    assert sorted(prepared(tokenizer)) == sorted([GOOD, *case.texts])
    listed = Path("out/x.errors.jsonl")
    found = (
        [json.loads(line) for line in listed.read_text().splitlines()] if listed.exists() else []
    )
    assert tuple((entry["line"], entry["kind"]) for entry in found) == case.named
    assert not (folder.parent / "MARK").exists()
    assert not list(Path("out").glob("*.partial"))


PACKED = {
    "txt": lines(text("one"), text("two")),
    "jsonl": lines(text("one"), text("two"), '{"text": "\\u00e9", "more": [1, {"a": null}]}'),
    "jsonl.gz": gzip.compress(lines(text("one"), text("two"))),
    "jsonl.zst": zstandard.compress(lines(text("one"), text("two"))),
}


@given(
    suffix=st.sampled_from(list(PACKED)),
    spoilt=st.binary(max_size=40),
    start=st.integers(0, 80),
    stop=st.integers(0, 80),
)
def test_any_bytes_give_records_and_never_an_error(
    suffix: str, spoilt: bytes, start: int, stop: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"spoilt.{suffix}"
    path.write_bytes(PACKED[suffix][:start] + spoilt + PACKED[suffix][stop:])
    for record in read_documents([str(path)], fields=Fields()):
        assert isinstance(record, Document | BadRecord)
        assert str(record).isprintable() or isinstance(record, Document)


def test_worker_processes_open_the_same_odd_names(folder: Path, tokenizer: Tokenizer) -> None:
    for name in NAMES.values():
        holds(name, f"inside {name!r}")(folder)
    assert run(tokenizer, "--workers", "2") == 0
    assert sorted(prepared(tokenizer)) == sorted([GOOD, *(f"inside {n!r}" for n in NAMES.values())])


@pytest.mark.usefixtures("no_hang")
def test_a_tokenizer_is_trained_beside_documents_that_cannot_be_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("noise", "a pipe", "a link to nothing", "no archive", "a link to itself"):
        inner = folder / name
        inner.mkdir()
        CASES[name].make(inner)
    for number in range(300):
        (folder / f"{number}.txt").write_text(f"{GOOD} number {number}, one of three hundred\n")
    arguments = ["--input", "in", "--output", "t.model", "--vocab-size", "320"]
    assert train_tokenizer(arguments) == 2
    assert "4 mistakes (go on without such inputs: --on-error skip):" in capsys.readouterr().err
    assert train_tokenizer([*arguments, "--on-error", "skip"]) == 0
    said = capsys.readouterr().err
    assert "320 pieces" in said
    assert "skipped records: 1 encoding, 1 format, 3 unreadable" in said


@pytest.mark.usefixtures("no_hang")
@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (("in/pipe",), "input=in/pipe: neither a file nor a folder"),
        (("/dev/zero",), "input=/dev/zero: neither a file nor a folder"),
        (("in/loop",), "input=in/loop: neither a file nor a folder"),
        (("",), "input=: no such file or folder"),
        ((f"in/{300 * 'n'}",), "no such file or folder"),
        (("in/two\nlines",), r"input=in/two\nlines: no such file or folder"),
        (("in", "in/good.txt"), "input=in/good.txt: is named twice"),
        (("in/good.txt", "./in/../in/good.txt"), "is named twice"),
    ],
)
def test_an_input_that_is_no_document_is_refused_by_name(
    inputs: tuple[str, ...],
    says: str,
    folder: Path,
    tokenizer: Tokenizer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    assert run(tokenizer, "--on-error", "skip", inputs=inputs) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not Path("out").exists()


@pytest.mark.parametrize("output", ["out/", "out/..", ".", ""])
def test_an_output_without_a_name_is_refused(
    output: str, folder: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tokenizer, "--output", output) == 2
    assert capsys.readouterr().err == (
        f"data.prepare: output={output}: is a folder; add what files in it begin with\n"
    )
    assert sorted(path.name for path in folder.parent.iterdir()) == ["in"]


def test_an_input_that_is_called_like_the_output_is_an_input(
    folder: Path, tokenizer: Tokenizer
) -> None:
    assert run(tokenizer, "--output", "in/good", inputs=("in/good.txt",)) == 0
    assert prepared(tokenizer, "in/good") == [GOOD]


@pytest.mark.parametrize("change", [lambda path: path.write_text("other"), Path.unlink])
def test_a_file_that_changes_while_it_is_read_is_named_and_nothing_is_finished(
    change: Callable[[Path], object],
    folder: Path,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folder / "more.txt").write_text("a second document")
    options = PrepareOptions(
        inputs=("in",), output="out/x", tokenizer=str(tokenizer.path), commit_bytes=1, show_progress=False
    )  # fmt: skip
    commit = AppendJournal.commit

    def commit_and_change(self: AppendJournal, state: dict[str, object]) -> None:
        commit(self, state)
        if (folder / "good.txt").exists() and (folder / "good.txt").read_text() == GOOD:
            change(folder / "good.txt")

    with monkeypatch.context() as patch:
        patch.setattr(AppendJournal, "commit", commit_and_change)
        with pytest.raises(
            ValueError, match=r"^in/good.txt: changed while it was read; run the same"
        ):
            prepare(options)
    assert not any(Path(f"out/x.{suffix}").exists() for suffix in FINAL)
    prepare(options)
    assert len(prepared(tokenizer)) == len(list(folder.iterdir()))
    assert GOOD not in prepared(tokenizer)


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_file_made_to_burst_takes_bounded_memory(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 MB of one letter in one line; no record may be longer than 1 MB here. How long it takes is not judged."""
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 10**6)
    path = tmp_path / f"a.jsonl.{suffix}"
    content = b"a" * 100_000_000 + b"\n" + lines(text("after"))
    path.write_bytes(gzip.compress(content, 1) if suffix == "gz" else zstandard.compress(content))
    del content
    tracemalloc.start()
    bad, after = read_documents([str(path)], fields=Fields())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(bad, BadRecord)
    assert (bad.line, bad.kind) == (1, "too_long")
    assert getattr(after, "text", "") == "after"
    # Of zstd: what one input chunk of 1 KiB may become, twice; of gzip: buffers.
    assert peak < 80e6
