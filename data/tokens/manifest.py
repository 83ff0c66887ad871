"""PREFIX.manifest.json: what a pair of token files is, and checksums to know it by.

    python -m data.manifest PREFIX [--full]      check token files against their manifest
    python -m data.manifest PREFIX --create      describe files of another tool (Megatron)

Checksums are a SHA-256 of each file, a CRC-32 per block of it, and in PREFIX.crc a CRC-32 per page
of the tokens.  The manifest itself is sealed (data/files.py).  No changed byte is trained on:

    at start-up   manifest, index and page checksums whole; tokens of up to 256 MiB whole, of more
                  the first, the last and two more blocks, or everything (`full`)
    in the run    every page of tokens, each time it is read (token_file.py)
"""

import argparse
import hashlib
import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data.files import BrokenSeal, replacing, seal, unseal, write_durably
from data.packing.document_order import mix_integers
from data.tokens.indexed_dataset import IndexedDataset, bin_path, crc_path, idx_path
from data.tokens.token_file import ENTRY, PAGE_BYTES

FORMAT = "ropewalk-tokens"
VERSION = 2
BLOCK_BYTES = 64 << 20
MAX_BLOCKS = 4_096
SPOT_BLOCKS = 4
"""Tokens of up to this many blocks (256 MiB) are checked whole, of more as many blocks."""

READ_BYTES = 4 << 20
"""A multiple of the page."""

Manifest = dict[str, Any]


class OtherVersion(ValueError):
    """A manifest that another version of this package wrote."""


def manifest_path(prefix: str | Path) -> Path:
    """PREFIX.manifest.json."""
    return Path(f"{prefix}.manifest.json")


def describe_file(path: Path, page_checksums: BinaryIO | None = None) -> Manifest:
    """Size, SHA-256 and block checksums of a file, in one pass.

    page_checksums: gets the CRC-32 of every page too.
    """
    size = path.stat().st_size
    block_bytes = BLOCK_BYTES
    while size > block_bytes * MAX_BLOCKS:
        block_bytes *= 2
    whole = hashlib.sha256()
    blocks: list[int] = []
    with path.open("rb") as file:
        for start in range(0, size, block_bytes):
            checksum = 0
            remaining = min(block_bytes, size - start)
            while remaining:
                piece = file.read(min(READ_BYTES, remaining))
                if not piece:
                    raise ValueError(f"{path}: became shorter while it was read")
                whole.update(piece)
                checksum = zlib.crc32(piece, checksum)
                if page_checksums is not None:
                    page_checksums.write(_page_checksums(piece))
                remaining -= len(piece)
            blocks.append(checksum)
    return {
        "bytes": size,
        "sha256": whole.hexdigest(),
        "block_bytes": block_bytes,
        "block_crc32": blocks,
    }


def _page_checksums(piece: bytes) -> bytes:
    view = memoryview(piece)
    pages = [zlib.crc32(view[at : at + PAGE_BYTES]) for at in range(0, len(piece), PAGE_BYTES)]
    return np.array(pages, dtype=ENTRY).tobytes()


def describe(prefix: str | Path, details: Manifest) -> Manifest:
    """Write PREFIX.crc for finished token files and return their manifest.

    details: where the files came from.
    """
    dataset, checksums = IndexedDataset(prefix), crc_path(prefix)
    with replacing(checksums) as file:
        tokens = describe_file(bin_path(prefix), file)
    return {
        "format": FORMAT,
        "version": VERSION,
        "documents": dataset.num_documents,
        "tokens": dataset.num_tokens,
        "dtype": dataset.dtype.name,
        "page_bytes": PAGE_BYTES,
        **details,
        "files": {
            "bin": tokens,
            "idx": describe_file(idx_path(prefix)),
            "crc": describe_file(checksums),
        },
    }


def load(prefix: str | Path) -> Manifest:
    """Read a manifest; ValueError when there is none or it is not one."""
    path = manifest_path(prefix)
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; prepare the corpus again, or describe token files of another"
            f" tool with `python -m data.manifest {prefix} --create --vocab-size N --eos-id I`"
        )
    raw = path.read_bytes()
    try:
        value = unseal(raw)
    except BrokenSeal as error:
        _refuse_foreign(path, _parsed(path, raw))
        raise ValueError(
            f"{path}: damaged ({error}); copy it again or prepare the corpus again"
        ) from None
    _refuse_foreign(path, value)
    return value


def _parsed(path: Path, raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}); prepare the corpus again") from None


def _refuse_foreign(path: Path, value: Any) -> None:
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ValueError(f"{path}: not a manifest of token files; prepare the corpus again")
    if value.get("version") != VERSION:
        raise OtherVersion(
            f"{path}: version {value.get('version')}, expected {VERSION}; prepare the corpus again"
        )


def verify(prefix: str | Path, *, full: bool = False) -> Manifest:
    """Check token files against their manifest and return it; ValueError on the first difference.

    Sizes and counts always; tokens whole (`full`, or up to 256 MiB) or a few blocks; the rest whole.
    """
    manifest = load(prefix)
    for path, name in (
        (idx_path(prefix), "idx"),
        (crc_path(prefix), "crc"),
        (bin_path(prefix), "bin"),
    ):
        if not path.is_file():
            raise ValueError(f"{path}: no such file, its manifest is there; prepare it again")
        recorded = manifest["files"][name]
        found = path.stat().st_size
        if found != recorded["bytes"]:
            raise ValueError(
                f"{path}: expected {recorded['bytes']} bytes, found {found}; copy it again or"
                " prepare the corpus again"
            )
        _check_blocks(path, recorded, full or name != "bin")
        if full and describe_file(path)["sha256"] != recorded["sha256"]:
            raise ValueError(f"{path}: SHA-256 differs from the manifest's; prepare it again")
    dataset = IndexedDataset(prefix)
    for key, value in (
        ("documents", dataset.num_documents),
        ("tokens", dataset.num_tokens),
        ("dtype", dataset.dtype.name),
    ):
        if manifest[key] != value:
            raise ValueError(
                f"{manifest_path(prefix)}: says {key}={manifest[key]}, the files have {value};"
                " prepare the corpus again"
            )
    return manifest


def _check_blocks(path: Path, recorded: Manifest, full: bool) -> None:
    blocks: list[int] = recorded["block_crc32"]
    block_bytes: int = recorded["block_bytes"]
    chosen = list(range(len(blocks)))
    spot_blocks = max(1, SPOT_BLOCKS * BLOCK_BYTES // block_bytes)
    if not full and len(blocks) > spot_blocks:
        inner = [mix_integers(len(blocks), n) % len(blocks) for n in range(spot_blocks)]
        picked = [0, len(blocks) - 1, *inner]
        chosen = sorted(set(picked[:spot_blocks]))
    for number in chosen:
        start = number * block_bytes
        stop = min(start + block_bytes, recorded["bytes"])
        checksum = _checksum(path, start, stop)
        if checksum != blocks[number]:
            raise ValueError(
                f"{path}: damaged between byte {start} and byte {stop} (checksum"
                f" {checksum:08x}, expected {blocks[number]:08x}); copy it again or prepare the"
                " corpus again"
            )


def _checksum(path: Path, start: int, stop: int) -> int:
    checksum = 0
    with path.open("rb") as file:
        file.seek(start)
        for at in range(start, stop, READ_BYTES):
            checksum = zlib.crc32(file.read(min(READ_BYTES, stop - at)), checksum)
    return checksum


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 when the files are what the manifest says, 2 after one line otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m data.manifest", description="check token files"
    )
    parser.add_argument("prefix")
    parser.add_argument("--full", action="store_true", help="compare every byte")
    parser.add_argument(
        "--create", action="store_true", help="describe files that have no manifest"
    )
    parser.add_argument("--tokenizer", default="", help="with --create: the tokenizer's model file")
    parser.add_argument("--vocab-size", type=int, default=0, help="with --create: of the tokenizer")
    parser.add_argument(
        "--eos-id", type=int, default=0, help="with --create: ends documents and pads rows"
    )
    options = parser.parse_args(arguments)
    try:
        if options.create:
            if not options.vocab_size:
                raise ValueError("--create needs --vocab-size N (and --eos-id I) of the tokenizer")
            details: Manifest = {
                "tokenizer": {"file": "", "sha256": ""},
                "skipped": {},
                "vocab_size": options.vocab_size,
                "eos_id": options.eos_id,
            }
            if options.tokenizer:
                content = Path(options.tokenizer).read_bytes()
                details["tokenizer"] = {
                    "file": Path(options.tokenizer).name,
                    "sha256": hashlib.sha256(content).hexdigest(),
                }
            write_durably(manifest_path(options.prefix), seal(describe(options.prefix, details)))
        manifest = verify(options.prefix, full=options.full)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"data.manifest: {error}\n")
        return 2
    sys.stderr.write(
        f"{options.prefix}: {manifest['documents']} documents, {manifest['tokens']} tokens, good\n"
    )
    return 0
