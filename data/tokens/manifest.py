"""PREFIX.manifest.json: description and checksums of a pair of token files.

Checksums are a SHA-256 of each file, a CRC-32 per block of it, and in PREFIX.crc a CRC-32 per page
of the tokens. The manifest itself is sealed (data/files.py). Changed bytes are detected before training on them:

    at start-up   whole manifest, index and page checksums; tokens of up to 256 MiB whole, of larger
                  files the first, the last and two more blocks, or everything (`full`)
    in the run    every page of tokens, each time it is read (token_file.py)
"""

import hashlib
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data.files import BrokenSeal, replacing, unseal
from data.packing.document_order import mix_integers
from data.progress import Progress
from data.tokens.indexed_dataset import IndexedDataset
from data.tokens.label_file import LabelFile
from data.tokens.prefix import bin_path, crc_path, idx_path, labels_path, manifest_path
from data.tokens.token_file import ENTRY, PAGE_BYTES

FORMAT = "ropewalk-tokens"
VERSION = 2
# Of token files with PREFIX.labels: a version of this package that knows no labels must not train on them.
VERSION_WITH_LABELS = 3
BLOCK_BYTES = 64 << 20
MAX_BLOCKS = 4_096
# Token files of up to this many blocks (256 MiB) are checked whole, of larger ones this many blocks.
SPOT_BLOCKS = 4

# A multiple of the page.
READ_BYTES = 4 << 20
# A longer file shows its progress, if `show_progress`.
PROGRESS_BYTES = 256 << 20

Manifest = dict[str, Any]


class OtherVersion(ValueError):
    """The manifest was written by another version of this package."""


def describe_file(
    path: Path, look: Callable[[bytes], None] | None = None, *, show_progress: bool = False
) -> Manifest:
    """Size, SHA-256 and block checksums of a file, in one pass.

    look: called with every piece in order; all but the last of a block are READ_BYTES long. show_progress: for a file
    beyond PROGRESS_BYTES.
    """
    size = path.stat().st_size
    block_bytes = BLOCK_BYTES
    while size > block_bytes * MAX_BLOCKS:
        block_bytes *= 2
    whole = hashlib.sha256()
    blocks: list[int] = []
    hidden = not show_progress or size <= PROGRESS_BYTES
    progress = Progress(f"check {path.name}", size, shown=not hidden)
    with progress, path.open("rb") as file:
        for start in range(0, size, block_bytes):
            checksum = 0
            remaining = min(block_bytes, size - start)
            while remaining:
                piece = file.read(min(READ_BYTES, remaining))
                if not piece:
                    raise ValueError(f"{path}: became shorter while it was read")
                whole.update(piece)
                checksum = zlib.crc32(piece, checksum)
                if look is not None:
                    look(piece)
                remaining -= len(piece)
                progress.advance(len(piece))
            blocks.append(checksum)
    return {
        "bytes": size,
        "sha256": whole.hexdigest(),
        "block_bytes": block_bytes,
        "block_crc32": blocks,
    }


class _TokenScan:
    """Scans every token of PREFIX.bin while `describe_file` computes its checksums.

    Writes the CRC-32 of every page to `page_checksums`. smallest, largest: (id, number of its token in the file).
    """

    def __init__(self, dtype: np.dtype[np.generic], page_checksums: BinaryIO) -> None:
        self._dtype = dtype
        self._page_checksums = page_checksums
        self._tokens = 0
        self.smallest = (0, -1)
        self.largest = (-1, -1)

    def __call__(self, piece: bytes) -> None:
        view = memoryview(piece)
        pages = [zlib.crc32(view[at : at + PAGE_BYTES]) for at in range(0, len(piece), PAGE_BYTES)]
        self._page_checksums.write(np.array(pages, dtype=ENTRY).tobytes())
        tokens = np.frombuffer(piece, self._dtype)
        for at in (int(tokens.argmin()), int(tokens.argmax())):
            found = (int(tokens[at]), self._tokens + at)
            self.smallest = min(self.smallest, found)
            self.largest = max(self.largest, found, key=lambda pair: pair[0])
        self._tokens += len(tokens)


def describe(prefix: str | Path, details: Manifest, *, show_progress: bool = False) -> Manifest:
    """Write PREFIX.crc for finished token files and return their manifest. PREFIX.labels is one of them if it is there.

    details: where the files came from, with vocab_size and eos_id.

    Raises:
        ValueError: an id of the tokens or of `details` is not in the vocabulary, and PREFIX.crc is unchanged; or
            PREFIX.labels does not fit the tokens.
    """
    _refuse_ids(prefix, details)
    dataset = IndexedDataset(prefix)
    with replacing(crc_path(prefix)) as file:
        scan = _TokenScan(dataset.dtype, file)
        tokens = describe_file(bin_path(prefix), scan, show_progress=show_progress)
        for token, at in (scan.smallest, scan.largest):
            if at >= 0 and not 0 <= token < details["vocab_size"]:
                raise ValueError(
                    f"{bin_path(prefix)}: holds id {token} (token {at} of the file), the vocabulary has"
                    f" {details['vocab_size']} (ids 0 to {details['vocab_size'] - 1}); give the vocabulary that it was"
                    " made with, or make it again"
                )
    labels = LabelFile(prefix, dataset.num_documents) if labels_path(prefix).is_file() else None
    return {
        "format": FORMAT,
        "version": VERSION if labels is None else VERSION_WITH_LABELS,
        "documents": dataset.num_documents,
        "tokens": dataset.num_tokens,
        "dtype": dataset.dtype.name,
        "largest_id": scan.largest[0],
        **({} if labels is None else {"labelled_tokens": labels.num_labelled}),
        "page_bytes": PAGE_BYTES,
        **details,
        "files": {
            "bin": tokens,
            "idx": describe_file(idx_path(prefix)),
            "crc": describe_file(crc_path(prefix)),
            **({} if labels is None else {"labels": describe_file(labels_path(prefix))}),
        },
    }


def labelled_share(manifest: Manifest) -> float:
    """Tokens with a label, of all tokens."""
    if "labelled_tokens" not in manifest:
        return 1.0
    return float(manifest["labelled_tokens"] / max(1, manifest["tokens"]))


def labels_in_words(manifest: Manifest) -> str:
    """How many tokens have a label, to follow the number of tokens; "" where all have one."""
    if "labelled_tokens" not in manifest:
        return ""
    return f", {manifest['labelled_tokens']} of them ({labelled_share(manifest):.1%}) with a label"


def id_problems(details: Manifest) -> list[str]:
    """Messages about ids of a manifest that are not in its vocabulary."""
    size: Any = details.get("vocab_size")
    if not _is_integer(size) or size < 1:
        return [f"vocab_size={size}: must be at least 1, the number of ids of the tokenizer"]
    found = []
    for name in ("eos_id", "bos_id", "largest_id"):
        least = -1 if name == "largest_id" else 0  # -1: no token at all
        value = details.get(name, least)
        if not _is_integer(value) or not least <= value < size:
            found.append(f"{name}={value}: must be from 0 to {size - 1}, for vocab_size={size}")
    return found


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _refuse_ids(prefix: str | Path, details: Manifest) -> None:
    problems = id_problems(details)
    if problems:
        raise ValueError(
            f"{manifest_path(prefix)}: {'; '.join(problems)}; prepare the corpus again, or describe files of another"
            f" tool with `ropewalk manifest {prefix} --create --overwrite --vocab-size N --eos-id I`"
        )


def load(prefix: str | Path) -> Manifest:
    """Read a manifest.

    Raises:
        ValueError: it is missing, damaged or invalid, or one of its ids is not in its vocabulary.
    """
    path = manifest_path(prefix)
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; prepare the corpus again, or describe token files of another"
            f" tool with `ropewalk manifest {prefix} --create --vocab-size N --eos-id I`"
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
    _refuse_ids(prefix, value)
    return value


def _parsed(path: Path, raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}); prepare the corpus again") from None


def _refuse_foreign(path: Path, value: Any) -> None:
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ValueError(f"{path}: not a manifest of token files; prepare the corpus again")
    if value.get("version") not in (VERSION, VERSION_WITH_LABELS):
        raise OtherVersion(
            f"{path}: version {value.get('version')}, expected {VERSION}; prepare the corpus again"
        )


def verify(prefix: str | Path, *, full: bool = False) -> Manifest:
    """Check token files against their manifest and return it; raises ValueError at the first difference.

    Checks sizes, counts, index and page checksums; of the tokens all (`full`, or up to 256 MiB) or a few blocks.
    """
    manifest = load(prefix)
    for path, name in (
        (idx_path(prefix), "idx"),
        (crc_path(prefix), "crc"),
        (labels_path(prefix), "labels"),
        (bin_path(prefix), "bin"),
    ):
        if name == "labels" and name not in manifest["files"]:
            _refuse_labels(path, prefix)
            continue
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
    facts: dict[str, Any] = {
        "documents": dataset.num_documents,
        "tokens": dataset.num_tokens,
        "dtype": dataset.dtype.name,
    }
    if "labels" in manifest["files"]:
        facts["labelled_tokens"] = LabelFile(prefix, dataset.num_documents).num_labelled
    for key, value in facts.items():
        if manifest[key] != value:
            raise ValueError(
                f"{manifest_path(prefix)}: says {key}={manifest[key]}, the files have {value};"
                " prepare the corpus again"
            )
    return manifest


def _refuse_labels(path: Path, prefix: str | Path) -> None:
    """Raises ValueError for labels that the manifest does not describe: they would be ignored silently."""
    if path.is_file():
        raise ValueError(
            f"{path}: the manifest does not describe it; remove it, or describe the files together with `ropewalk"
            f" manifest {prefix} --create --overwrite`"
        )


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
