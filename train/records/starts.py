"""Writes `starts.jsonl`: a line for every start of a run, with its command, machine, code and data.

    {"started": "2026-01-31T10:02:11+00:00", "step": 0, "tokens_seen": 0, "total_tokens": 1048576,
     "command": ["python", "-m", "train", ...], "folder": "/home/me", "host": "node1", "commit": "1f3a...",
     "changed_files": 2, "world_size": 2, "device": "cpu", "device_name": "", "versions": {...},
     "sources": {"web": {"prefix": ..., "documents": ..., "tokens": ..., "lengths": [...]}}, "heldout": {...},
     "mix": {"short": {"web": 1.0}}}

Only the main rank writes; an error of writing gives one warning.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from data.files import reason
from data.sources import Corpus, Source
from train.records.file_names import STARTS

ROOT = Path(__file__).resolve().parents[2]
# From a larger source this many documents, evenly spread, are sampled for the table of lengths.
MOST_DOCUMENTS = 4_000_000
# Timeout of git in seconds, for slow file systems.
_PATIENCE = 5.0


def add_start(
    folder: Path, corpus: Corpus, stages: Mapping[str, Sequence[float]], facts: Mapping[str, Any]
) -> str:
    """Appends this start to starts.jsonl; returns a warning or "".

    stages: the weight of every source, in order, by stage. facts: other entries of the line.
    """
    names = [source.name for source in corpus.sources]
    row = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.orig_argv,
        "folder": str(Path.cwd()),
        "host": socket.gethostname(),
        **checkout(),
        **facts,
        "sources": {source.name: _described(source) for source in corpus.sources},
        "heldout": _described(corpus.heldout) if corpus.heldout else None,
        "mix": {stage: dict(zip(names, weights, strict=True)) for stage, weights in stages.items()},
    }
    try:
        _append(folder / STARTS, json.dumps(row).encode() + b"\n")
    except OSError as error:
        return f"warning: {folder / STARTS} cannot be written ({reason(error)}); the report lacks this start"
    return ""


def _append(path: Path, line: bytes) -> None:
    """Appends a line; first ends a line that was cut off."""
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)


def checkout(root: Path = ROOT) -> dict[str, Any]:
    """Returns the commit of the code, and the number of changed tracked files; None if git fails."""
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no") if commit else None
    return {
        "commit": commit.strip() if commit else None,
        "changed_files": None if changed is None else len(changed.splitlines()),
    }


def _git(root: Path, *arguments: str) -> str | None:
    try:
        asked = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return asked.stdout if asked.returncode == 0 else None


def _described(source: Source) -> dict[str, Any]:
    return {
        "prefix": "" if source.is_generated else source.origin,
        **({"generated": source.identity} if source.is_generated else {}),
        "documents": source.num_documents,
        "tokens": source.num_tokens,
        **({"labelled_tokens": source.num_labelled} if source.has_labels else {}),
        "lengths": length_table(source),
    }


def length_table(source: Source) -> list[list[int]]:
    """Returns [longest, documents, tokens] for every octave of lengths with documents: 1, 2, 3-4, 5-8, 9-16, ...

    Empty documents have the longest length 0. Counts are estimates for a source of more than MOST_DOCUMENTS documents.
    """
    stride = -(-source.num_documents // MOST_DOCUMENTS) or 1
    documents, tokens = np.zeros(65, np.int64), np.zeros(65, np.int64)
    for start in range(0, source.num_documents, stride << 18):
        chunk = np.arange(start, min(start + (stride << 18), source.num_documents), stride)
        lengths = source.document_lengths(chunk)
        octaves = np.ceil(np.log2(np.maximum(lengths, 1))).astype(np.int64) + (lengths > 0)
        documents += np.bincount(octaves, minlength=65)
        np.add.at(tokens, octaves, lengths)
    return [
        [1 << (octave - 1) if octave else 0, int(count) * stride, int(sum_) * stride]
        for octave, (count, sum_) in enumerate(zip(documents, tokens, strict=True))
        if count
    ]
