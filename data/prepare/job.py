"""Documents to token files: PREFIX.bin, PREFIX.idx, PREFIX.crc, PREFIX.manifest.json.

    python -m data.prepare --input PATH [PATH ...] --output PREFIX --tokenizer MODEL [--workers N]

One process reads the inputs in order and cuts them into blocks, workers tokenise the blocks, the
results are appended in order.  The files are therefore the same for every number of workers.  A
journal is kept (append_journal.py): the same command after a kill goes on where the last one
stopped and ends with the same bytes.  Nothing carries its final name before it is complete.
"""

import argparse
import errno
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data.files import replacing, seal, write_durably
from data.formats.input_files import Inputs, list_files
from data.formats.readers import START, BadRecord, Block, Position, format_of
from data.packing.document_order import held_out
from data.prepare.append_journal import AppendJournal, State
from data.prepare.block_encoder import EncodedBlock
from data.prepare.worker_pool import WorkerPool
from data.printable import one_line
from data.tokenizer.any_tokenizer import TextTokenizer, open_tokenizer
from data.tokens.indexed_dataset import bin_path, idx_path, write_index
from data.tokens.manifest import Manifest, describe, load, manifest_path, verify

TOOL_VERSION = 2
"""Raised when the same inputs would give other token files."""

COMMIT_BYTES = 32 << 20

NAMED_BAD_RECORDS = 50
NAMED_INPUTS = 50
MOST_WORKERS = 1024
OWN_SUFFIXES = ("bin", "idx", "crc", "manifest.json", "errors.jsonl", "journal", "ngram.npz")
OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class PrepareOptions:
    """What to prepare.  With `heldout_output`, each document goes to exactly one of both prefixes:
    to the held-out one where a hash of (seed, its number) falls below `heldout_fraction`."""

    inputs: tuple[str, ...]
    output: str
    tokenizer: str
    workers: int = 1
    on_error: str = "fail"
    text_field: str = "text"
    heldout_output: str = ""
    heldout_fraction: float = 0.0
    seed: int = 0
    commit_bytes: int = COMMIT_BYTES
    """Input between two commits: the work that a kill costs."""
    show_progress: bool = True

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The prefixes that are written."""
        return (self.output, self.heldout_output) if self.heldout_output else (self.output,)

    def problems(self) -> list[str]:
        """Every rule that is broken, one clear line each."""
        found = []
        if not 1 <= self.workers <= MOST_WORKERS:
            found.append(f"workers={self.workers}: must be from 1 to {MOST_WORKERS}; use 1")
        for prefix in self.prefixes:
            if prefix.endswith((os.sep, f"{os.sep}.", f"{os.sep}..")) or prefix in ("", ".", ".."):
                found.append(f"output={prefix}: is a folder; add what files in it begin with")
        if self.on_error not in ("fail", "skip"):
            found.append(f"on_error={self.on_error}: unknown; use fail or skip")
        if bool(self.heldout_output) != (self.heldout_fraction > 0):
            found.append(
                f"heldout_fraction={self.heldout_fraction}: goes together with heldout_output"
                f"={self.heldout_output!r}; give both or none"
            )
        if not 0 <= self.heldout_fraction < 1:
            found.append(f"heldout_fraction={self.heldout_fraction}: must be in [0, 1); use 0.02")
        if self.heldout_output and self.heldout_output == self.output:
            found.append(f"heldout_output={self.heldout_output}: is the output; use another prefix")
        return found


def prepare(options: PrepareOptions) -> tuple[Manifest, ...]:
    """Make the token files of `options`, or find them made; one manifest per prefix.

    ValueError for mistakes, for the first bad record (on_error="fail"), and for a full disk.
    """
    problems = options.problems()
    if problems:
        raise ValueError("; ".join(problems))
    tokenizer = open_tokenizer(options.tokenizer)
    inputs = Inputs.found(_input_files(options))
    fingerprint = _fingerprint(options, tokenizer, inputs)
    made = _already_made(options, fingerprint)
    if made is not None:
        return made
    try:
        for prefix in options.prefixes:
            Path(prefix).parent.mkdir(parents=True, exist_ok=True)
        return _Job(options, tokenizer, inputs, fingerprint).run()
    except OSError as error:
        if error.errno in OUT_OF_SPACE:
            raise ValueError(
                f"output={options.output}: no space left on the disk ({error.strerror}); make room"
                " and run the same command again, it goes on where it stopped"
            ) from error
        raise


def _input_files(options: PrepareOptions) -> list[str]:
    """Files of the inputs, without our own outputs should they lie in the same folder."""
    heads = [f"{Path(prefix).absolute()}." for prefix in options.prefixes]

    def is_own(name: str) -> bool:
        absolute = os.path.abspath(name)  # noqa: PTH100 (called per file)
        tails = [absolute.removeprefix(head) for head in heads if absolute.startswith(head)]
        return any(tail in OWN_SUFFIXES or tail.endswith(".partial") for tail in tails)

    return [name for name in list_files(options.inputs).files if not is_own(name)]


def _fingerprint(options: PrepareOptions, tokenizer: TextTokenizer, inputs: Inputs) -> str:
    """Names what the result depends on: settings, tokenizer, and every input's size and time."""
    heldout = (options.heldout_fraction, options.seed) if options.heldout_output else ()
    digest = hashlib.sha256()
    settings = (TOOL_VERSION, tokenizer.sha256, options.text_field, heldout)
    digest.update(json.dumps(settings).encode())
    for name, stamp in zip(inputs.files, inputs.stamps, strict=True):
        digest.update(json.dumps((name, *stamp)).encode())
    return digest.hexdigest()


def _already_made(options: PrepareOptions, fingerprint: str) -> tuple[Manifest, ...] | None:
    manifests = []
    for prefix in options.prefixes:
        try:
            if load(prefix).get("fingerprint") != fingerprint:
                return None
            manifests.append(verify(prefix))
        except ValueError:
            return None
    fatal = sum(count for kind, count in manifests[0]["skipped"].items() if kind != "empty")
    return None if fatal and options.on_error == "fail" else tuple(manifests)


class _Job:
    """One run: reads blocks, hands them to workers, appends results, commits, finishes."""

    def __init__(
        self, options: PrepareOptions, tokenizer: TextTokenizer, inputs: Inputs, fingerprint: str
    ) -> None:
        self.options = options
        self.tokenizer = tokenizer
        self.inputs = inputs
        self.fingerprint = fingerprint
        self.errors = Path(f"{options.output}.errors.jsonl")
        partial = [
            Path(f"{prefix}.{kind}.partial")
            for prefix in options.prefixes
            for kind in ("bin", "sizes")
        ]
        self.journal = AppendJournal(
            Path(f"{options.output}.journal"),
            [*partial, self.errors.with_name(self.errors.name + ".partial")],
            fingerprint,
        )
        self.documents = 0
        self.tokens = 0
        self.skipped: Counter[str] = Counter()
        self.position = (0, START)

    def run(self) -> tuple[Manifest, ...]:
        """The whole job; what is committed stays when it is interrupted."""
        state = self.journal.resume()
        if state is not None:
            self._restore(state)
        try:
            self._encode_all()
            self.inputs.refuse_changed()
            self.journal.commit(self._state())
            return self._finish()
        finally:
            self.journal.close()

    def _state(self) -> State:
        file, position = self.position
        return {
            "file": file,
            "offset": position.offset,
            "line": position.line,
            "documents": self.documents,
            "tokens": self.tokens,
            "skipped": dict(self.skipped),
        }

    def _restore(self, state: State) -> None:
        self.position = (state["file"], Position(state["offset"], state["line"]))
        self.documents = state["documents"]
        self.tokens = state["tokens"]
        self.skipped = Counter(state["skipped"])

    def _blocks(self) -> Iterator[tuple[Block, int]]:
        first, start = self.position
        for number, path in enumerate(self.inputs.files[first:], first):
            for block in format_of(path).blocks(path, start if number == first else START):
                yield block, number

    def _encode_all(self) -> None:
        before = np.cumsum([0, *(stamp.size for stamp in self.inputs.stamps)], dtype=np.int64)
        options = self.options
        consumed = int(before[self.position[0]])
        uncommitted = 0
        bar: tqdm[Any] = tqdm(
            total=int(before[-1]),
            initial=consumed,
            unit="B",
            unit_scale=True,
            desc="tokenise",
            file=sys.stderr,
            mininterval=0.1 if sys.stderr.isatty() else 5.0,
            disable=not options.show_progress,
        )
        with bar, WorkerPool(self.tokenizer, options.text_field, options.workers) as pool:
            for block, number, encoded in pool.encode(self._blocks()):
                self._append(encoded, bar)
                self.position = (number, block.end)
                step = max(0, int(before[number]) + block.consumed - consumed)
                consumed += step
                bar.update(step)
                bar.set_postfix(documents=self.documents, tokens=self.tokens, refresh=False)
                uncommitted += step
                if uncommitted >= options.commit_bytes:
                    self.journal.commit(self._state())
                    uncommitted = 0
            bar.update(int(before[-1]) - consumed)

    def _append(self, encoded: EncodedBlock, bar: "tqdm[Any]") -> None:
        for bad in encoded.bad:
            self._report(bad, bar)
        sizes = encoded.sizes
        out = np.zeros(len(sizes), dtype=bool)
        if self.options.heldout_output:
            ordinals = np.arange(self.documents, self.documents + len(sizes), dtype=np.uint64)
            out = held_out(ordinals, self.options.heldout_fraction, self.options.seed)
        for part, chosen in enumerate((~out, out)[: len(self.options.prefixes)]):
            kept = encoded.tokens if chosen.all() else encoded.tokens[np.repeat(chosen, sizes)]
            self.journal.append(2 * part, kept.tobytes())
            self.journal.append(2 * part + 1, sizes[chosen].astype("<i4").tobytes())
        self.documents += len(sizes)
        self.tokens += len(encoded.tokens)

    def _report(self, bad: BadRecord, bar: "tqdm[Any]") -> None:
        if bad.kind != "empty":
            if self.options.on_error == "fail":
                raise ValueError(f"{bad} (go on without such records: --on-error skip)")
            named = sum(self.skipped.values()) - self.skipped["empty"]
            if named < NAMED_BAD_RECORDS:
                bar.write(f"skipped {bad}", file=sys.stderr)
            elif named == NAMED_BAD_RECORDS:
                bar.write(f"more skipped records are in {self.errors}", file=sys.stderr)
        self.skipped[bad.kind] += 1
        entry = {"path": bad.path, "line": bad.line, "kind": bad.kind, "reason": bad.reason}
        self.journal.append(len(self.journal.files) - 1, json.dumps(entry).encode() + b"\n")

    def _finish(self) -> tuple[Manifest, ...]:
        """Give the files their names, manifests last."""
        for prefix, sizes in zip(self.options.prefixes, self.journal.files[1::2], strict=False):
            if not sizes.stat().st_size:
                self._refuse_empty(prefix)
            with replacing(Path(f"{prefix}.idx.partial")) as file:
                write_index(file, np.memmap(sizes, mode="r", dtype="<i4"), self.tokenizer.dtype)
        for prefix in self.options.prefixes:
            manifest_path(prefix).unlink(missing_ok=True)
        for prefix, tokens in zip(self.options.prefixes, self.journal.files[0::2], strict=False):
            Path(f"{prefix}.idx.partial").replace(idx_path(prefix))
            tokens.replace(bin_path(prefix))
        errors = self.journal.files[-1]
        if errors.stat().st_size:
            errors.replace(self.errors)
        else:
            self.errors.unlink(missing_ok=True)
        manifests = tuple(describe(prefix, self._details()) for prefix in self.options.prefixes)
        for prefix, manifest in zip(self.options.prefixes, manifests, strict=True):
            write_durably(manifest_path(prefix), seal(manifest))
        for path in (*self.journal.files, self.journal.path):
            path.unlink(missing_ok=True)
        return manifests

    def _refuse_empty(self, prefix: str) -> None:
        indexes = [Path(f"{name}.idx.partial") for name in self.options.prefixes]
        for path in (*self.journal.files, *indexes, self.journal.path):
            path.unlink(missing_ok=True)
        if not self.documents:
            given = ", ".join(self.options.inputs)
            raise ValueError(f"input={given}: holds no document; name files or folders that do")
        raise ValueError(
            f"heldout_fraction={self.options.heldout_fraction}: none of {self.documents} documents"
            f" falls into {prefix}; use a fraction nearer to 0.5 or more documents"
        )

    def _details(self) -> Manifest:
        options = self.options
        heldout = {"fraction": options.heldout_fraction, "seed": options.seed}
        return {
            "vocab_size": self.tokenizer.vocab_size,
            "eos_id": self.tokenizer.eos_id,
            "tokenizer": {
                "file": self.tokenizer.path.name,
                "sha256": self.tokenizer.sha256,
            },
            "inputs": {
                "paths": list(options.inputs[:NAMED_INPUTS]),
                "files": len(self.inputs.files),
                "text_field": options.text_field,
            },
            "heldout": heldout if options.heldout_output else {},
            "skipped": dict(sorted(self.skipped.items())),
            "tool_version": TOOL_VERSION,
            "fingerprint": self.fingerprint,
        }


def _parse_arguments(arguments: Sequence[str] | None) -> PrepareOptions:
    parser = argparse.ArgumentParser(
        prog="python -m data.prepare", description="tokenise documents into token files"
    )
    parser.add_argument("--input", nargs="+", required=True, help="files or folders")
    parser.add_argument("--output", required=True, help="prefix of the files to write")
    parser.add_argument(
        "--tokenizer", required=True, help="a SentencePiece model, or a tokenizer.json"
    )
    parser.add_argument("--workers", type=int, default=1, help="tokenising processes")
    parser.add_argument("--on-error", choices=("fail", "skip"), default="fail")
    parser.add_argument("--text-field", default="text", help="field of a JSON record")
    parser.add_argument("--heldout-output", default="", help="prefix of the held-out documents")
    parser.add_argument("--heldout-fraction", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0, help="of the choice of held-out documents")
    parser.add_argument(
        "--commit-bytes", type=int, default=COMMIT_BYTES, help="input between two commits"
    )
    options = parser.parse_args(arguments)
    return PrepareOptions(
        inputs=tuple(options.input),
        output=options.output,
        tokenizer=options.tokenizer,
        workers=options.workers,
        on_error=options.on_error,
        text_field=options.text_field,
        heldout_output=options.heldout_output,
        heldout_fraction=options.heldout_fraction,
        seed=options.seed,
        commit_bytes=options.commit_bytes,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 when the files are there, 2 after one line about what is wrong."""
    options = _parse_arguments(arguments)
    try:
        manifests = prepare(options)
    except (ValueError, OSError, RuntimeError) as error:
        sys.stderr.write(f"data.prepare: {one_line(str(error))}\n")
        return 2
    for prefix, manifest in zip(options.prefixes, manifests, strict=True):
        sys.stderr.write(
            f"{prefix}: {manifest['documents']} documents, {manifest['tokens']} tokens\n"
        )
    skipped = manifests[0]["skipped"]
    if skipped:
        counts = ", ".join(f"{count} {kind}" for kind, count in skipped.items())
        sys.stderr.write(f"skipped records: {counts} (see {options.output}.errors.jsonl)\n")
    return 0
