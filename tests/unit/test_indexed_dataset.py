"""The token files are Megatron's, byte for byte, and damaged ones are refused by name."""

import errno
import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from data.tokens.indexed_dataset import IndexedDataset, write_index
from data.tokens.token_file import DamagedData

GOLDEN = (
    b"MMIDIDX\x00\x00"
    + struct.pack("<Q", 1)
    + struct.pack("<B", 8)
    + struct.pack("<Q", 3)
    + struct.pack("<Q", 4)
    + struct.pack("<3i", 2, 1, 4)
    + struct.pack("<3q", 0, 4, 6)
    + struct.pack("<4q", 0, 1, 2, 3)
)
TOKENS = struct.pack("<7H", 10, 11, 20, 30, 31, 32, 65_499)


def _write(prefix: Path, index: bytes = GOLDEN, tokens: bytes = TOKENS) -> Path:
    Path(f"{prefix}.idx").write_bytes(index)
    Path(f"{prefix}.bin").write_bytes(tokens)
    return prefix


def test_the_index_we_write_is_the_golden_one() -> None:
    file = io.BytesIO()
    write_index(file, np.array([2, 1, 4], dtype=np.int32), np.dtype(np.uint16))
    assert file.getvalue() == GOLDEN


def test_golden_files_are_read(tmp_path: Path) -> None:
    dataset = IndexedDataset(_write(tmp_path / "g"))
    assert (dataset.num_documents, dataset.num_tokens, dataset.dtype) == (3, 7, np.uint16)
    assert dataset.document_lengths(np.array([2, 0, 1])).tolist() == [4, 2, 1]
    assert dataset.read(0, 0, 2).tolist() == [10, 11]
    assert dataset.read(2, 1, 3).tolist() == [31, 32, 65_499]
    assert np.concatenate(list(dataset.lengths())).tolist() == [2, 1, 4]


def test_documents_of_several_and_of_no_sequences_as_megatron_writes_them(tmp_path: Path) -> None:
    index = (
        b"MMIDIDX\x00\x00"
        + struct.pack("<QBQQ", 1, 4, 4, 5)
        + struct.pack("<4i", 3, 2, 1, 2)
        + struct.pack("<4q", 0, 12, 20, 24)
        + struct.pack("<5q", 0, 2, 2, 3, 4)  # two sequences, none, one, one
    )
    dataset = IndexedDataset(_write(tmp_path / "m", index, struct.pack("<8i", *range(8))))
    assert (dataset.num_documents, dataset.num_sequences) == (4, 4)
    assert dataset.document_lengths(np.arange(4)).tolist() == [5, 0, 1, 2]
    assert dataset.read(0, 2, 3).tolist() == [2, 3, 4]
    assert dataset.read(1, 0, 0).tolist() == []
    assert dataset.read(3, 0, 2).tolist() == [6, 7]


def _patched(at: int, new: bytes) -> bytes:
    return GOLDEN[:at] + new + GOLDEN[at + len(new) :]


@pytest.mark.parametrize(
    ("index", "tokens", "message"),
    [
        (GOLDEN, TOKENS[:-1], r"x\.bin: expected 14 bytes, found 13; the file is cut off"),
        (GOLDEN, TOKENS + b"\0", r"x\.bin: expected 14 bytes, found 15; .*longer"),
        (GOLDEN, b"", r"x\.bin: expected 14 bytes, found 0"),
        (GOLDEN[:-1], TOKENS, r"x\.idx: expected 102 bytes, found 101; the file is cut off"),
        (GOLDEN[:20], TOKENS, r"x\.idx: expected at least 34 bytes, found 20"),
        (b"", TOKENS, r"x\.idx: expected at least 34 bytes, found 0"),
        (GOLDEN + b"\0", TOKENS, r"x\.idx: expected 102 bytes, found 103"),
        (_patched(0, b"TNTIDX"), TOKENS, "not a Megatron index"),
        (_patched(9, b"\x02"), TOKENS, "version 2, expected 1"),
        (_patched(17, b"\x09"), TOKENS, "dtype code 9 is no integer type"),
        (_patched(17, b"\x07"), TOKENS, "dtype code 7 is no integer type"),
        (_patched(94, b"\x02"), TOKENS, "document indices run from 0 to 2, expected 0 to 3"),
    ],
)
def test_damaged_files_are_refused_by_name(
    tmp_path: Path, index: bytes, tokens: bytes, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        IndexedDataset(_write(tmp_path / "x", index, tokens))


def test_missing_files_say_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such file; make it with `ropewalk prepare"):
        IndexedDataset(tmp_path / "absent")


def test_reading_beyond_a_document_is_refused(tmp_path: Path) -> None:
    dataset = IndexedDataset(_write(tmp_path / "g"))
    for start, length in ((0, 3), (2, 1), (-1, 1)):
        with pytest.raises(ValueError, match=r"g\.bin: tokens .* of document 0"):
            dataset.read(0, start, length)


def test_a_file_that_is_cut_off_while_it_is_open_is_an_exception_not_a_signal(
    tmp_path: Path,
) -> None:
    prefix = tmp_path / "g"
    for name, whole in (("idx", GOLDEN), ("bin", TOKENS)):
        dataset = IndexedDataset(_write(prefix))
        with Path(f"{prefix}.{name}").open("r+b") as file:
            file.truncate(len(whole) - 8)
        with pytest.raises(DamagedData, match=rf"g\.{name}: .*became shorter while it was in use"):
            dataset.read(2, 0, 4)


def test_a_file_that_is_removed_while_it_is_open_stays_readable(tmp_path: Path) -> None:
    dataset = IndexedDataset(_write(tmp_path / "g"))
    for name in ("idx", "bin"):
        (tmp_path / f"g.{name}").unlink()
    assert dataset.read(2, 1, 3).tolist() == [31, 32, 65_499]


def test_a_disk_that_refuses_to_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = IndexedDataset(_write(tmp_path / "g"))

    def refuse(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", refuse)
    with pytest.raises(DamagedData, match=r"g\.bin: cannot be read \(Input/output error\)"):
        dataset.read(2, 0, 4)


def test_opening_reads_neither_sizes_nor_tokens(tmp_path: Path) -> None:
    # A sparse terabyte of tokens in ten million documents: only an O(1) opening gets through this.
    documents, size = 10_000_000, 50_000
    header = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, documents, documents + 1)
    with (tmp_path / "big.idx").open("wb") as file:
        file.write(header)
        file.seek(len(header) + 4 * (documents - 1))
        file.write(struct.pack("<i", size))
        file.seek(len(header) + 12 * documents - 8)
        file.write(struct.pack("<q", 2 * size * (documents - 1)))
        file.seek(len(header) + 20 * documents)
        file.write(struct.pack("<q", documents))
    with (tmp_path / "big.bin").open("wb") as file:
        file.truncate(2 * size * documents)
    dataset = IndexedDataset(tmp_path / "big")
    assert dataset.num_tokens == size * documents
