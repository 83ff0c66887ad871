"""JSON, CSV and TSV give every record once, wherever the stream is cut; parsers of whole files are the oracle."""

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from data.formats import json_values, records
from data.formats.readers import read_documents, reader_of
from data.formats.records import START, BadRecord, Document, Fields

PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}
TEXTS = [
    "one",
    "zwei\n",
    'a "quoted", [bracketed] {braced} \\ text\\',
    "\u2028\U0001f600 " * 50,
    "x" * 3000,
]
PRETTY = json.dumps([{"text": text, "more": [1, {"a": "]"}]} for text in TEXTS], indent=2)
LAID_OUT = {
    "an array in one line": json.dumps([{"text": text} for text in TEXTS]),
    "an array over many lines": PRETTY,
    "an array behind a mark and blanks": "\ufeff\n\n " + PRETTY + "\n\n",
    "objects over many lines": "\n".join(json.dumps({"text": text}, indent=1) for text in TEXTS),
    "objects without a line end": "".join(json.dumps({"text": text}, indent=1) for text in TEXTS),
    "JSON lines": "\n".join(json.dumps({"text": text}) for text in TEXTS),
    "JSON lines with blank ones": "\n\n".join(json.dumps({"text": text}) for text in TEXTS)
    + "\n\n",
}


def read(path: Path, text_field: str = "text") -> list[Document | BadRecord]:
    return list(read_documents([str(path)], fields=Fields(text_field)))


def texts(found: list[Document | BadRecord]) -> list[str]:
    return [record.text for record in found if isinstance(record, Document)]


def bad(found: list[Document | BadRecord]) -> list[tuple[int, str]]:
    return [(record.line, record.kind) for record in found if isinstance(record, BadRecord)]


@pytest.fixture(params=[3, 7, 64, 1 << 20])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes that are read at once: strings, escapes and brackets are cut everywhere."""
    monkeypatch.setattr(json_values, "READ_BYTES", request.param)
    return int(request.param)


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("layout", LAID_OUT)
def test_a_json_file_gives_its_records_however_they_are_laid_out(
    tmp_path: Path, chunk: int, layout: str, packing: str
) -> None:
    path = tmp_path / f"a.json{packing}"
    path.write_bytes(PACKED[packing](LAID_OUT[layout].encode()))
    found = read(path)
    assert texts(found) == TEXTS
    assert len(found) == len(TEXTS)


def test_records_of_an_array_know_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('\n[\n\n{"text":\n"a"}, {"text": "b"},\n{"text": "c"\n}\n]\n')
    assert [(r.text, r.line) for r in read(path) if isinstance(r, Document)] == [
        ("a", 4),
        ("b", 5),
        ("c", 6),
    ]


BROKEN = {
    '[{"text": "a"}, {"text": nope}, {"text": "b"}]': (["a", "b"], [(1, "json")]),
    '[{"text": "a"},\n,{"text": "b"}]': (["a", "b"], [(2, "json")]),
    '[{"text": "a"},]': (["a"], [(1, "json")]),
    '[{"text": "a"}': ([], [(1, "truncated")]),
    '[{"text": "a"},\n{"text": "b': (["a"], [(2, "truncated")]),
    '[{"text": "a"}]\n[{"text": "b"}]': (["a"], [(2, "json")]),
    '[{"text": "a"}}, {"text": "b"}]': (["a"], [(1, "json")]),
    '[1, "text", null, ["text"], {"text": "a"}]': (["a"], [(1, "field")] * 4),
    "[]": ([], []),
    " [ \n ] ": ([], []),
    "": ([], []),
    "7": ([], [(1, "field")]),
    '{"text": "a"}\n{"text": "b\n{"text": "c"}': (["a", "c"], [(2, "json")]),
    '{"text": "a\n{"text": "b"}': (["b"], [(1, "json")]),
    '{\n"text": "a"\n}\n}\n{"text":\n"b"}': (["a", "b"], [(4, "json")]),
    '{\n"text": "a"\n}\nrest': (["a"], [(4, "json")]),
    '{"data": [{"text": "a"}]}': ([], [(1, "field")]),
    '{"data": [\n{"text": "a"},\n{"text": "b"}\n]}': ([], [(1, "field")]),
}  # fmt: skip


@pytest.mark.parametrize("content", BROKEN)
def test_what_is_wrong_in_a_json_file_is_named_and_its_neighbours_survive(
    tmp_path: Path, chunk: int, content: str
) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    found = read(path)
    assert (texts(found), bad(found)) == BROKEN[content]


_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    value=st.lists(_values, max_size=4),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
)
def test_an_array_has_as_many_records_as_json_says(
    tmp_path_factory: pytest.TempPathFactory, value: list[Any], indent: int | None, ascii_only: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    content = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "READ_BYTES", 5)
        assert len(read(path)) == len(value)


def test_a_long_array_takes_the_memory_of_a_block(tmp_path: Path) -> None:
    """24 MB in one line; each record has a kilobyte."""
    path = tmp_path / "a.json.gz"
    record = json.dumps({"text": "word " * 200}).encode()
    path.write_bytes(gzip.compress(b"[" + b",".join([record] * 24_000) + b"]", 1))
    tracemalloc.start()
    count = sum(isinstance(found, Document) for found in _stream(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 24_000
    assert peak < 8e6, "a block of records as bytes and as texts, and what was read ahead"


def _stream(path: Path) -> Iterator[Document | BadRecord]:
    return read_documents([str(path)], fields=Fields())


ROWS = [["1", text, "end"] for text in [*TEXTS, 'a\nb\r\n"c"', ",\t;", " padded "]]


def table(suffix: str, rows: list[list[str]], quoting: int = csv.QUOTE_MINIMAL) -> bytes:
    out = io.StringIO()
    delimiter = "\t" if suffix == ".tsv" else ","
    csv.writer(out, delimiter=delimiter, lineterminator="\r\n", quoting=quoting).writerows(rows)  # type: ignore[arg-type]
    return out.getvalue().encode()


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_a_table_gives_the_texts_of_its_column(
    tmp_path: Path, suffix: str, packing: str, quoting: int
) -> None:
    content = table(suffix, [["id", "text", "more"], *ROWS], quoting)
    path = tmp_path / f"a{suffix}{packing}"
    path.write_bytes(PACKED[packing](b"\xef\xbb\xbf" + content))
    found = read(path)
    assert texts(found) == [row[1] for row in ROWS]
    assert len(found) == len(ROWS)


@given(
    cells=st.lists(
        st.lists(st.text(st.sampled_from('ab",\t\n\r\u00e9 '), max_size=5), min_size=2, max_size=2),
        max_size=5,
    ),
    suffix=st.sampled_from([".csv", ".tsv"]),
)
def test_any_table_that_python_writes_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, cells: list[list[str]], suffix: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(table(suffix, [["text", "b"], *cells]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "BLOCK_BYTES", 8)
        found = read(path)
    assert texts(found) == [first for first, _ in cells if first]
    assert bad(found) == [(line, "empty") for line, kind in bad(found)]
    assert len(found) == len(cells)


BROKEN_TABLES = {
    "text,id\na,1\nb\nc,3\n": (["a", "c"], [(3, "csv")]),
    "text,id\na, and more,1\nb,2": (["b"], [(2, "csv")]),
    'text,id\n"a"b,1\nc,2': (["c"], [(2, "csv")]),
    'text,id\na,1\n"open,2\nlast,3': (["a"], [(3, "csv")]),
    "text\n\n\na\n": (["a"], []),
    "text\n\xff\na\n": (["a"], [(2, "encoding")]),
    "text\na\rb\nc\n": (["c"], [(2, "csv")]),
    'text\n""\na\n': (["a"], [(2, "empty")]),
    "text\n": ([], []),
    "": ([], []),
    "body\na\nb\n": ([], [(2, "field"), (3, "field")]),
    "text,text\na,b\n": ([], [(2, "field")]),
}


@pytest.mark.parametrize("content", BROKEN_TABLES)
def test_what_is_wrong_in_a_table_is_named_and_its_neighbours_survive(
    tmp_path: Path, content: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode("latin-1"))
    found = read(path)
    assert (texts(found), bad(found)) == BROKEN_TABLES[content]


def test_a_row_beyond_the_limit_is_named_and_the_next_one_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 100)
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "x" * 500 + "\nnext\n")
    found = read(path)
    assert (texts(found), bad(found)) == (["next"], [(2, "too_long")])
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "x" * 500}, {"text": "next"}], indent=0))
    found = read(path)
    assert (texts(found), bad(found)) == (["next"], [(2, "too_long")])


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".json", PRETTY.encode()),
        (".json", "".join(json.dumps({"text": text}, indent=1) for text in TEXTS).encode()),
        (".csv", table(".csv", [["id", "text", "more"], *ROWS])),
    ],
)
def test_a_file_can_be_taken_up_behind_every_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, content: bytes, packing: str
) -> None:
    monkeypatch.setattr(records, "BLOCK_BYTES", 64)
    path = tmp_path / f"a{suffix}{packing}"
    path.write_bytes(PACKED[packing](content))
    reader = reader_of(str(path))
    blocks = list(reader.blocks(str(path), START))
    assert len(blocks) > 2
    for number, block in enumerate(blocks):
        rest = list(reader.blocks(str(path), block.end))
        assert [b.lines for b in rest] == [b.lines for b in blocks[number + 1 :]]
        assert [b.bad for b in rest] == [b.bad for b in blocks[number + 1 :]]


@pytest.mark.parametrize("packing", [".gz", ".zst", ".xz", ".bz2"])
@pytest.mark.parametrize("damage", ["cut", "garbage behind", "damaged second part"])
def test_no_compression_lets_a_damaged_file_pass_for_a_whole_one(
    tmp_path: Path, packing: str, damage: str
) -> None:
    pack = PACKED[packing]
    noise = random.Random(3).randbytes(4000).hex()
    first, second = (pack(json.dumps({"text": text}).encode() + b"\n") for text in ("first", noise))
    spoilt = {
        "cut": first + second[: len(second) // 2],
        "garbage behind": first + b"garbage",
        "damaged second part": first + bytes([second[0] ^ 1]) + second[1:],
    }[damage]
    path = tmp_path / f"a.jsonl{packing}"
    path.write_bytes(spoilt)
    found = read(path)
    assert texts(found) == ["first"]
    assert bad(found) == [(2, "truncated")]
    path.write_bytes(first + second)
    assert texts(read(path)) == ["first", noise]


@pytest.mark.parametrize("packing", PACKED)
def test_a_text_file_is_one_document_compressed_or_not(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"a.txt{packing}"
    path.write_bytes(PACKED[packing]("\ufeffone\ntwo\n".encode()))
    assert texts(read(path)) == ["one\ntwo\n"]


NESTED = {
    '{"data": {"text": "inner"}}': ["inner"],
    '{"data": {"text": "inner"}, "data.text": "spelled so"}': ["spelled so"],
    '{"data.text": null, "data": {"text": "inner"}}': [],
    '{"data": "text"}': [],
    '{"data": [{"text": "a"}]}': [],
    '{"data": {}}': [],
}


@pytest.mark.parametrize("content", NESTED)
def test_a_dotted_field_is_a_name_first_and_a_way_into_objects_then(
    tmp_path: Path, content: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    found = read(path, "data.text")
    assert texts(found) == NESTED[content]
    assert len(found) == 1
    if not NESTED[content]:
        assert bad(found) == [(1, "field")]
        assert "'data" in str(found[0])
