"""Documents to token files: PREFIX.bin, PREFIX.idx, PREFIX.crc, PREFIX.manifest.json.

    python -m data.prepare --input PATH [PATH ...] --output PREFIX --tokenizer MODEL [--workers N]

One process reads the inputs in order and cuts them into blocks, workers tokenise the blocks, the
results are appended in order. The files are therefore the same for every number of workers. A
journal is kept (append_journal.py): the same command after a kill goes on where the last one
stopped and ends with the same bytes. Nothing carries its final name before it is complete.
"""

import errno
import json
import sys
from collections import Counter
from collections.abc import Iterator
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
from data.prepare.earlier import PARTS, find_made, refuse_others, remove_outdated
from data.prepare.identity import describe_job
from data.prepare.options import PrepareOptions
from data.prepare.worker_pool import WorkerPool
from data.tokenizer.any_tokenizer import TextTokenizer, bos_of_documents, open_tokenizer
from data.tokens.indexed_dataset import write_index
from data.tokens.manifest import Manifest, describe
from data.tokens.prefix import (
    belongs_to,
    bin_path,
    errors_path,
    idx_path,
    journal_path,
    manifest_path,
    partial,
    sizes_path,
)

NAMED_BAD_RECORDS = 50
OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def prepare(options: PrepareOptions) -> tuple[Manifest, ...]:
    """Make the token files of `options`, or find them made; one manifest per prefix.

    Raises:
        ValueError: a mistake, a prefix that holds somebody's other work (without `overwrite`), the first bad record
            (on_error="fail"), a full disk.
        WorkerDied: a tokenising process was killed.
    """
    problems = options.problems()
    if problems:
        raise ValueError("; ".join(problems))
    tokenizer = open_tokenizer(options.tokenizer)
    bos_id = bos_of_documents(tokenizer, options.bos)
    is_own = belongs_to(options.prefixes)
    inputs = Inputs.found(*list_files(options.inputs, is_own))
    job = describe_job(options, tokenizer, bos_id, inputs)
    made = find_made(options, job)
    if made is not None:
        return made
    if not options.overwrite:
        refuse_others(options, job)
    try:
        for prefix in options.prefixes:
            Path(prefix).parent.mkdir(parents=True, exist_ok=True)
        return _Job(options, tokenizer, inputs, job).run()
    except OSError as error:
        if error.errno in OUT_OF_SPACE:
            raise ValueError(
                f"output={options.output}: no space left on the disk ({error.strerror}); make room"
                " and run the same command again, it goes on where it stopped"
            ) from error
        raise


class _Job:
    """One run: reads blocks, hands them to workers, appends results, commits, finishes."""

    def __init__(
        self, options: PrepareOptions, tokenizer: TextTokenizer, inputs: Inputs, job: Manifest
    ) -> None:
        self.options = options
        self.tokenizer = tokenizer
        self.inputs = inputs
        self.job = job
        self.errors = errors_path(options.output)
        growing = [
            path
            for prefix in options.prefixes
            for path in (partial(bin_path(prefix)), sizes_path(prefix))
        ]
        self.journal = AppendJournal(
            journal_path(options.output),
            [*growing, partial(self.errors)],
            job["fingerprint"],
            job,
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
        bos_id = self.job.get("bos_id")
        with bar, WorkerPool(self.tokenizer, options.text_field, options.workers, bos_id) as pool:
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
        prefixes, outputs = self.options.prefixes, self.journal.files
        for prefix, sizes in zip(prefixes, outputs[1::2], strict=False):
            if not sizes.stat().st_size:
                self._refuse_empty(prefix)
            with replacing(partial(idx_path(prefix))) as file:
                write_index(file, np.memmap(sizes, mode="r", dtype="<i4"), self.tokenizer.dtype)
        for prefix in prefixes:
            remove_outdated(prefix, keep_errors=prefix == self.options.output)
        for prefix, tokens in zip(prefixes, outputs[0::2], strict=False):
            partial(idx_path(prefix)).replace(idx_path(prefix))
            tokens.replace(bin_path(prefix))
        if outputs[-1].stat().st_size:
            outputs[-1].replace(self.errors)
        else:
            self.errors.unlink(missing_ok=True)
        manifests = tuple(
            describe(prefix, self._details(part), show_progress=self.options.show_progress)
            for prefix, part in zip(prefixes, PARTS, strict=False)
        )
        for prefix, manifest in zip(prefixes, manifests, strict=True):
            write_durably(manifest_path(prefix), seal(manifest))
        for path in (*outputs, self.journal.path):
            path.unlink(missing_ok=True)
        return manifests

    def _refuse_empty(self, prefix: str) -> None:
        indexes = [partial(idx_path(name)) for name in self.options.prefixes]
        for path in (*self.journal.files, *indexes, self.journal.path):
            path.unlink(missing_ok=True)
        if not self.documents:
            given = ", ".join(self.options.inputs)
            raise ValueError(f"input={given}: holds no document; name files or folders that do")
        raise ValueError(
            f"heldout_fraction={self.options.heldout_fraction}: none of {self.documents} documents"
            f" falls into {prefix}; use a fraction nearer to 0.5 or more documents"
        )

    def _details(self, part: str) -> Manifest:
        heldout = {"part": part} if self.options.heldout_output else {}
        return {**self.job, **heldout, "skipped": dict(sorted(self.skipped.items()))}
