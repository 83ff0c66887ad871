"""Whatever the files and options are, a command answers with a result or says in clear lines why there is none.

Drawn folders, names, contents and options go through `main` of data.prepare, data.tokenizer and data.manifest. Nothing
that lay there before is changed, unless it belongs to the output.
"""

import bz2
import errno
import gzip
import json
import lzma
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.manifest import main as manifest
from data.prepare.__main__ import main as prepare
from data.tokenizer.sentencepiece_model import Tokenizer, train
from data.tokenizer.training import main as tokenizer
from data.tokens.indexed_dataset import IndexedDataset
from data.tokens.manifest import verify

SUFFIXES = [
    ".jsonl",
    ".ndjson",
    ".json",
    ".csv",
    ".tsv",
    ".txt",
    ".md",
    ".py",
    "",
    ".parquet",
    ".bin",
    ".tar",
    ".idx",
]
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}
ODD_JSON = [
    '{"text": "one", "text": "two"}',
    '{"text": NaN}',
    '{"text": 1e999, "a": ' + "9" * 5000 + "}",
    r'{"text": "\ud800"}',
    r'{"text": "\ud83d\ude00 \\ \" ]}, {["}',
    "[" * 3000,
    '{"text":' * 3000,
    '{"text": null}',
    '{"text": ""}',
    '{"data": {"text": "nested"}, "data.text": "literal"}',
    "\ufeff{}",
    "]",
    "[]",
    '[{"text": "a"}, {"text": "b"}]',
    '[{"text": "a"},]',
    "0",
    "",
]
ODD_ROWS = [
    "text,id",
    'id,text\n1,"a\n""b"""',
    "id\ttext\n1\ta",
    'text\n"open',
    "text\n\n\nx\r\ny\rz",
    "a,a\n1,2,3",
]
content = st.one_of(
    st.binary(max_size=60),
    st.lists(st.sampled_from(ODD_JSON), max_size=4).map(lambda lines: "\n".join(lines).encode()),
    st.sampled_from(ODD_ROWS).map(str.encode),
    st.text(max_size=40).map(lambda text: json.dumps({"text": text}).encode()),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=40).map(str.encode),
)
name = st.one_of(
    st.sampled_from(
        ["a", "two\nlines", " ", "-x", ".hidden", "caf\u00e9", "x.tar", "%s{0}", "a" * 200]
    ),
    st.text(
        st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\0."),
        min_size=1,
        max_size=8,
    ),
)


class Entry(NamedTuple):
    """What lies at a path of the input folder."""

    path: str
    kind: str
    content: bytes


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kinds = [
        *["file"] * 12,
        "cut",
        "folder",
        "pipe",
        "socket",
        "loop",
        "device",
        "dataset",
        "link",
    ]
    kind = draw(st.sampled_from(kinds))
    packing = draw(st.sampled_from(list(PACKED)))
    raw = PACKED[packing](draw(content))
    if kind == "cut":
        raw = raw[: draw(st.integers(0, len(raw)))]
    folder = draw(st.sampled_from(["", "", "sub/"]))
    return Entry(folder + draw(name) + draw(st.sampled_from(SUFFIXES)) + packing, kind, raw)


def make(top: Path, entry: Entry) -> None:
    path = top / entry.path
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path):
        return
    if entry.kind in ("file", "cut"):
        path.write_bytes(entry.content)
    elif entry.kind == "folder":
        path.mkdir()
    elif entry.kind == "pipe":
        os.mkfifo(path)
    elif entry.kind == "socket":
        place = socket.socket(socket.AF_UNIX)
        place.bind("s")  # a socket's path may have 108 bytes
        place.close()
        Path("s").rename(path)
    elif entry.kind == "dataset":
        path.mkdir()
        for part in ("state.json", "dataset_info.json", "data-0.arrow"):
            (path / part).write_bytes(b"{}")
    else:
        targets = {"loop": path.name, "device": "/dev/zero", "link": str(top / "good.txt")}
        path.symlink_to(targets[entry.kind])


def contents(top: Path) -> dict[str, bytes]:
    """Of every regular file, by its path."""
    found = {}
    for folder, _, names in os.walk(top):
        for file in names:
            path = Path(folder, file)
            if path.is_file() and not path.is_symlink():
                found[str(path)] = path.read_bytes()
    return found


def answer(command: Callable[[Sequence[str]], int], arguments: list[str]) -> tuple[int, list[str]]:
    """The exit status and what was said, which must be lines that a terminal can show."""
    said = StringIO()
    with redirect_stderr(said):
        try:
            status = command(arguments)
        except SystemExit as stop:
            assert isinstance(stop.code, int)
            status = stop.code
    lines = said.getvalue().splitlines()
    assert status in (0, 2), arguments
    assert lines, "silence"
    assert all(line.isprintable() for line in lines), lines
    return status, lines


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    words = [f"a good document number {number}, and others\n" for number in range(100)]
    return train(words, tmp_path_factory.mktemp("tokenizer") / "t.model", 320)


@pytest.fixture(autouse=True)
def back() -> object:
    before = Path.cwd()
    yield
    os.chdir(before)


OUTPUTS = [
    "in/x",
    "in/good.txt",
    "in/good",
    "good/x",
    "/proc/none/x",
    "/dev/null/x",
    "out/",
    ".",
    "",
    "in",
]
often = ["out/x"] * 30
options = st.fixed_dictionaries(
    {"--on-error": st.sampled_from(["skip", "skip", "skip", "fail"])},
    optional={"--text-field": st.sampled_from([*["text"] * 8, "data.text", "body", "", "."])},
)
more = st.one_of(
    st.just({}),
    st.just({}),
    st.fixed_dictionaries(
        {"--heldout-fraction": st.sampled_from(["0.5", "0.1", "nan", "-1", "7"])},
        optional={
            "--heldout-output": st.sampled_from([*["out/h"] * 4, "out/x", "in/h", "out/"]),
            "--seed": st.sampled_from(["0", "-1", str(2**70)]),
            "--bos": st.sampled_from(["auto", "always", "never"]),
        },
    ),
)
counts = st.sampled_from(["1", "100", "1000", "320", "8", "0", "-1", str(2**40), "nan"])
odd = settings(
    max_examples=settings().max_examples // 3,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def listed(drawn: dict[str, str]) -> list[str]:
    return [word for option in drawn.items() for word in option]


@odd
@given(
    made=st.lists(entries(), max_size=4),
    drawn=options,
    extra=more,
    output=st.sampled_from([*often, *OUTPUTS]),
    explicit=st.sampled_from([False, False, False, True]),
)
def test_data_prepare_answers(
    model: Tokenizer,
    made: list[Entry],
    drawn: dict[str, str],
    extra: dict[str, str],
    output: str,
    explicit: bool,
) -> None:
    with TemporaryDirectory() as place:
        os.chdir(place)
        top = Path("in")
        top.mkdir()
        (top / "good.txt").write_text("a good document")
        for entry in made:
            make(top, entry)
        before = contents(top)
        inputs = [f"in/{entry.path}" for entry in made] if explicit and made else ["in"]
        arguments = ["--tokenizer", str(model.path), "--output", output, *listed(drawn | extra)]
        status, said = answer(prepare, [*arguments, "--input", *inputs])
        after = contents(top)
        assert {path: after.get(path) for path in before} == before, "an input was changed"
        if status:
            return
        described = verify(output, full=True)
        assert described["documents"] == IndexedDataset(output).num_documents > 0
        assert described["inputs"]["files"] > 0
        if sum(described["skipped"].values()):
            assert any(line.startswith("skipped records: ") for line in said)
        status, _ = answer(prepare, [*arguments, "--input", *inputs])
        assert status == 0, "found made"
        os.chdir("/")


@odd
@given(
    made=st.lists(entries(), max_size=4),
    drawn=options,
    size=counts,
    vocabulary=st.sampled_from([*["320"] * 5, "330", "1000", "0", str(2**31), str(2**70)]),
)
def test_data_tokenizer_answers(
    made: list[Entry], drawn: dict[str, str], size: str, vocabulary: str
) -> None:
    with TemporaryDirectory() as place:
        os.chdir(place)
        top = Path("in")
        top.mkdir()
        for number in range(20):
            (top / f"good{number}.txt").write_text(
                f"{number} good documents, {'abcdefghij'[number % 10]}\n" * 9
            )
        for entry in made:
            make(top, entry)
        before = contents(top)
        arguments = ["--output", "t.model", "--vocab-size", vocabulary, *listed(drawn)]
        if size != "1":
            arguments += ["--sample-bytes", size]
        status, _ = answer(tokenizer, [*arguments, "--input", "in"])
        assert contents(top) == before
        assert Path("t.model").is_file() == (status == 0)
        os.chdir("/")


@odd
@given(
    parts=st.dictionaries(
        st.sampled_from(["bin", "idx", "crc", "manifest.json"]),
        st.one_of(st.binary(max_size=80), st.just(b"MMIDIDX\0\0" + bytes(40)), st.just(b"{}")),
    ),
    drawn=st.fixed_dictionaries(
        {},
        optional={
            "--vocab-size": st.sampled_from(["320", "1", "0", str(2**70)]),
            "--eos-id": st.sampled_from(["1", "0", "320", "-1"]),
            "--bos-id": st.sampled_from(["1", "0", "320"]),
            "--tokenizer": st.sampled_from(["x.bin", "x.manifest.json", "none", "x", "."]),
        },
    ),
    flags=st.sampled_from([["--create"], ["--create", "--overwrite"], ["--full"], []]),
    spoilt=st.none()
    | st.tuples(st.sampled_from(["bin", "idx", "crc", "manifest.json"]), st.binary(max_size=30)),
)
def test_data_manifest_answers(
    model: Tokenizer,
    parts: dict[str, bytes],
    drawn: dict[str, str],
    flags: list[str],
    spoilt: tuple[str, bytes] | None,
) -> None:
    with TemporaryDirectory() as place:
        os.chdir(place)
        if spoilt is None:
            for suffix, raw in parts.items():
                Path(f"x.{suffix}").write_bytes(raw)
        else:
            Path("good.txt").write_text("a good document")
            answer(
                prepare, ["--tokenizer", str(model.path), "--output", "x", "--input", "good.txt"]
            )
            path = Path(f"x.{spoilt[0]}")
            path.write_bytes(path.read_bytes()[: -len(spoilt[1]) or None] + spoilt[1])
        answer(manifest, ["x", *flags, *listed(drawn)])
        os.chdir("/")


@pytest.mark.parametrize("call", range(12))
def test_a_disk_that_is_full_at_any_moment_costs_no_input_and_no_work(
    model: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    os.chdir(tmp_path)
    Path("in").mkdir()
    for number in range(3):
        Path(f"in/{number}.txt").write_text(f"document number {number}")
    arguments = [
        "--tokenizer",
        str(model.path),
        "--output",
        "out/x",
        "--commit-bytes",
        "1",
        "--input",
        "in",
    ]
    before, sync, calls = contents(Path("in")), os.fsync, 0

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        status, said = answer(prepare, arguments)
    if status:
        assert "no space left on the disk" in said[-1]
    assert contents(Path("in")) == before
    assert answer(prepare, arguments)[0] == 0
    assert verify("out/x", full=True)["documents"] == 3
