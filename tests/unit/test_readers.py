"""Every record of every format arrives once, or is named by file and line with the reason."""

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from data.formats import records
from data.formats.input_files import list_files
from data.formats.readers import read_documents, reader_of
from data.formats.records import START, BadRecord, Document, Fields


def _jsonl(texts: list[str], field: str = "text") -> bytes:
    return b"".join(json.dumps({field: text, "id": 7}).encode() + b"\n" for text in texts)


def _zstandard_frames(content: bytes, frames: int) -> bytes:
    cut = len(content) // frames + 1
    pieces = [content[i : i + cut] for i in range(0, len(content), cut)]
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
    compressor = zstandard.ZstdCompressor()
    return skippable.join(compressor.compress(piece) for piece in pieces)


def _read(path: Path) -> list[Document | BadRecord]:
    return list(read_documents([str(path)], fields=Fields()))


TEXTS = ["one", "zwei\n", "\u2028drei", "\U0001f600 " * 500]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", _jsonl(TEXTS)),
        ("a.jsonl.gz", gzip.compress(_jsonl(TEXTS[:2])) + gzip.compress(_jsonl(TEXTS[2:]))),
        ("a.jsonl.zst", _zstandard_frames(_jsonl(TEXTS), 3)),
        ("A.JSONL", b"\xef\xbb\xbf" + _jsonl(TEXTS).rstrip(b"\n")),
    ],
)
def test_json_lines_arrive_in_order_with_their_line_numbers(
    tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    records = _read(path)
    assert [(r.text, r.line) for r in records if isinstance(r, Document)] == [
        (text, line) for line, text in enumerate(TEXTS, 1)
    ]
    assert len(records) == len(TEXTS)


def test_a_text_file_is_one_document_with_every_character_kept(tmp_path: Path) -> None:
    path = tmp_path / "notes.py"
    path.write_bytes("\ufefftabs\tand\r\nbare\rreturns\0\n".encode())
    (record,) = _read(path)
    assert isinstance(record, Document)
    assert record.text == "\ufefftabs\tand\r\nbare\rreturns\0\n"


BAD_LINES = [
    (b'{"text": "caf\xe9"}', "encoding", "broken UTF-8 at byte 13"),
    (b'{"text": "cut off', "json", "bad JSON"),
    (b'{"body": "x"}', "field", "no field 'text' (fields: body)"),
    (b'{"text": 5}', "field", "is int, not a string"),
    (b'["text"]', "field", "a JSON list, not an object"),
    (b'{"text": ""}', "empty", "empty"),
    (rb'{"text": "\ud800"}', "encoding", "lone surrogate at character 0"),
    (b"[" * 100_000, "json", "bad JSON"),
    (b'{"text": ' + b"9" * 5_000 + b"}", "json", "bad JSON"),
]


@pytest.mark.parametrize(("line", "kind", "reason"), BAD_LINES)
def test_a_bad_line_is_named_and_its_neighbours_survive(
    tmp_path: Path, line: bytes, kind: str, reason: str
) -> None:
    path = tmp_path / "mixed.jsonl"
    path.write_bytes(_jsonl(["before"]) + line + b"\n" + _jsonl(["after"]))
    before, bad, after = _read(path)
    assert isinstance(before, Document)
    assert isinstance(after, Document)
    assert isinstance(bad, BadRecord)
    assert (bad.path, bad.line, bad.kind) == (str(path), 2, kind)
    assert reason in str(bad)
    assert str(bad).startswith(f"{path}:2: ")


@pytest.mark.parametrize("suffix", ["gz", "zst"])
@pytest.mark.parametrize("cut", ["last byte", "middle"])
def test_a_truncated_file_gives_its_whole_records_and_says_where_it_ends(
    tmp_path: Path, suffix: str, cut: str
) -> None:
    noise = [bytes((i * 7919 + j * j) % 251 for j in range(300)).hex() for i in range(400)]
    content = _jsonl(noise)
    packed = gzip.compress(content) if suffix == "gz" else zstandard.compress(content)
    kept = len(packed) - 1 if cut == "last byte" else len(packed) // 2
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(packed[:kept])
    *whole, bad = _read(path)
    assert isinstance(bad, BadRecord)
    assert bad.kind == "truncated"
    assert bad.line == len(whole) + 1
    assert [r.text for r in whole if isinstance(r, Document)] == noise[: len(whole)]


def test_a_damaged_file_is_not_mistaken_for_a_short_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(_jsonl(["fine"])) + b"garbage that is no frame")
    *_, bad = _read(path)
    assert isinstance(bad, BadRecord)
    assert bad.kind == "truncated"


def test_a_record_beyond_the_limit_is_named_and_the_next_one_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_RECORD_BYTES", 100)
    path = tmp_path / "a.jsonl"
    path.write_bytes(_jsonl(["x" * 500]) + _jsonl(["next"]))
    bad, after = _read(path)
    assert isinstance(bad, BadRecord)
    assert (bad.kind, bad.line) == ("too_long", 1)
    assert isinstance(after, Document)
    assert after.line == 2


def test_broken_text_file_names_the_line_of_the_bad_byte(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"fine\nalso fine\ncaf\xe9\n")
    (bad,) = _read(path)
    assert isinstance(bad, BadRecord)
    assert (bad.line, bad.kind) == (3, "encoding")


@pytest.mark.parametrize("opener", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_blocks_can_be_taken_up_at_every_block_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opener: str
) -> None:
    monkeypatch.setattr(records, "BLOCK_BYTES", 64)
    content = _jsonl([f"record {i}" for i in range(20)]) + b"\n\n" + _jsonl(["last"])
    path = tmp_path / f"a.{opener}"
    pack = {"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.zst": zstandard.compress}[opener]
    path.write_bytes(pack(content))
    blocks = list(reader_of(str(path)).blocks(str(path), START))
    assert len(blocks) > 5
    for number, block in enumerate(blocks):
        rest = list(reader_of(str(path)).blocks(str(path), block.end))
        assert [b.lines for b in rest] == [b.lines for b in blocks[number + 1 :]]


def test_damage_is_reported_once_also_after_taking_up_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(_jsonl(["a", "b"]))[:-3])
    (*_, last) = reader_of(str(path)).blocks(str(path), START)
    assert last.bad
    assert list(reader_of(str(path)).blocks(str(path), last.end)) == []


def test_folders_are_walked_in_a_fixed_order_and_nothing_unreadable_is_passed_over(
    tmp_path: Path,
) -> None:
    for name in ("b/2.txt", "a/z.py", "b/1.jsonl", ".git/config", "a/picture.png", "c.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
    found = list_files([tmp_path])
    names = [str(Path(path).relative_to(tmp_path)) for path in found.files]
    assert names == ["c.parquet", "a/z.py", "b/1.jsonl", "b/2.txt"]
    assert found.passed_over == {"binary": 1, "hidden": 1, "linked_folders": 0, "own": 0}
    (bad,) = _read(tmp_path / "c.parquet")
    assert isinstance(bad, BadRecord)
    assert bad.kind == "format"


def test_a_missing_input_is_named() -> None:
    with pytest.raises(ValueError, match="input=/no/such/place: no such file"):
        list_files(["/no/such/place"])
