"""The files of a prefix: every file PREFIX.SUFFIX that this package or a run writes.

    bin, idx, crc, manifest.json   token files (data.prepare, data.manifest --create)
    labels                         which tokens have a label, where not all have one (label_file.py)
    errors.jsonl                   records that data.prepare left out
    ngram                          counts that a run caches for its yardsticks (data/ngram.py)
    journal, *.partial             an unfinished data.prepare

No other code builds names from a prefix. data.prepare takes none of these files as input. A file that is written
atomically (data/files.py) has a hidden name until it is complete.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from data.files import leftovers

_BIN, _IDX, _CRC, _LABELS, _MANIFEST = "bin", "idx", "crc", "labels", "manifest.json"
_ERRORS, _NGRAM, _JOURNAL, _PARTIAL = "errors.jsonl", "ngram", "journal", ".partial"
FINISHED = (_BIN, _IDX, _CRC, _LABELS, _MANIFEST, _ERRORS, _NGRAM)
_GROWING = (_BIN, _IDX, _LABELS, "sizes", "runs", "run_counts", _ERRORS)
UNFINISHED = (_JOURNAL, *(f"{suffix}{_PARTIAL}" for suffix in _GROWING))
OWN_SUFFIXES = (*FINISHED, *UNFINISHED)
_TAILS = tuple(f".{suffix}" for suffix in OWN_SUFFIXES)


def as_prefix(given: str) -> str:
    """The prefix of a given prefix or of one of its files: corpus/web for corpus/web.bin.

    Called for every argument and setting that is a prefix. A prefix that ends like the name of a file is returned
    unchanged if its own token files exist.
    """
    for suffix in FINISHED:
        prefix = given.removesuffix(f".{suffix}")
        if prefix != given and Path(prefix).name and not prefix.endswith("/"):
            return given if os.path.isfile(idx_path(given)) else prefix  # noqa: PTH113 (raises nothing)
    return given


def bin_path(prefix: str | Path) -> Path:
    """PREFIX.bin: tokens."""
    return Path(f"{prefix}.{_BIN}")


def idx_path(prefix: str | Path) -> Path:
    """PREFIX.idx: positions of documents."""
    return Path(f"{prefix}.{_IDX}")


def crc_path(prefix: str | Path) -> Path:
    """PREFIX.crc: checksums of the pages of PREFIX.bin (token_file.py)."""
    return Path(f"{prefix}.{_CRC}")


def labels_path(prefix: str | Path) -> Path:
    """PREFIX.labels: which tokens have a label."""
    return Path(f"{prefix}.{_LABELS}")


def manifest_path(prefix: str | Path) -> Path:
    """PREFIX.manifest.json."""
    return Path(f"{prefix}.{_MANIFEST}")


def errors_path(prefix: str | Path) -> Path:
    """PREFIX.errors.jsonl: records that data.prepare left out."""
    return Path(f"{prefix}.{_ERRORS}")


def ngram_path(prefix: str | Path) -> Path:
    """PREFIX.ngram: counts of tokens and pairs."""
    return Path(f"{prefix}.{_NGRAM}")


def journal_path(prefix: str | Path) -> Path:
    """PREFIX.journal: commits of an unfinished data.prepare."""
    return Path(f"{prefix}.{_JOURNAL}")


def sizes_path(prefix: str | Path) -> Path:
    """PREFIX.sizes.partial: lengths of the documents tokenised so far."""
    return Path(f"{prefix}.sizes{_PARTIAL}")


def runs_path(prefix: str | Path) -> Path:
    """PREFIX.runs.partial: runs of tokens with a label of the documents tokenised so far."""
    return Path(f"{prefix}.runs{_PARTIAL}")


def run_counts_path(prefix: str | Path) -> Path:
    """PREFIX.run_counts.partial: the number of these runs of every document."""
    return Path(f"{prefix}.run_counts{_PARTIAL}")


def partial(path: Path) -> Path:
    """The name of a finished file of data.prepare until all files are complete."""
    return path.with_name(f"{path.name}{_PARTIAL}")


def partial_files(prefix: str | Path) -> list[Path]:
    """The names of all files of an unfinished data.prepare but its journal."""
    return [Path(f"{prefix}.{suffix}{_PARTIAL}") for suffix in _GROWING]


def temporary_files(prefix: str | Path) -> set[Path]:
    """Temporary files of the prefix: left by killed processes, or being written."""
    return {found for suffix in OWN_SUFFIXES for found in leftovers(Path(f"{prefix}.{suffix}"))}


class Roles:
    """Returns the role of a path for a command that reads documents: "" for an input, or

    output: a file of one of `prefixes`, which are being written; tokens: a file of existing token files;
    own: the tokenizer.
    """

    def __init__(self, prefixes: Sequence[str | Path], tokenizer: str | Path) -> None:
        self._heads = {str(Path(prefix).absolute()) for prefix in prefixes}
        self._tokenizer = os.path.abspath(tokenizer)  # noqa: PTH100

    def __call__(self, name: str) -> str:
        absolute = os.path.abspath(name)  # noqa: PTH100 (called per file)
        if absolute == self._tokenizer:
            return "own"
        folder, base = os.path.split(absolute)
        if base.startswith(".") and base.endswith(".tmp"):  # data/files.py
            plain = os.path.join(folder, base[1:])  # noqa: PTH118
            return "output" if any(plain.startswith(f"{head}.") for head in self._heads) else ""
        heads = [absolute.removesuffix(tail) for tail in _TAILS if absolute.endswith(tail)]
        if any(head in self._heads for head in heads):
            return "output"
        is_there = (idx_path(head).is_file() or journal_path(head).is_file() for head in heads)
        return "tokens" if any(is_there) else ""
