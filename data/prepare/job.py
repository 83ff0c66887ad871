"""Documents to token files: PREFIX.bin, PREFIX.idx, PREFIX.crc, PREFIX.manifest.json, and perhaps PREFIX.labels.

    ropewalk prepare --input PATH [PATH ...] --output PREFIX --tokenizer MODEL [--workers N]

One process reads the inputs in order and cuts them into blocks, workers tokenise the blocks, the
results are appended in order. The files are therefore the same for every number of workers. With a
journal (append_journal.py) the same command continues a killed job from its last commit and ends
with the same bytes. No file has its final name before it is complete.
"""

import errno
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np

from data.files import reason, seal, write_durably
from data.formats.bad_records import BadRecords, in_words
from data.formats.input_files import Inputs, list_files
from data.formats.obstacles import look_at
from data.formats.readers import read_blocks
from data.formats.records import START, BadRecord, Block, Position
from data.packing.document_order import held_out
from data.prepare.append_journal import AppendJournal, State
from data.prepare.block_encoder import EncodedBlock
from data.prepare.earlier import (
    PARTS,
    find_made,
    refuse_others,
    remove_outdated,
    warning_of_held_out,
)
from data.prepare.growing_files import contents_of, growing_files, write_tables
from data.prepare.identity import describe_job
from data.prepare.options import BOS, PrepareOptions
from data.prepare.worker_pool import WorkerPool
from data.printable import Mistakes
from data.progress import Progress, in_bytes
from data.tokenizer.any_tokenizer import TextTokenizer, bos_of_documents, open_tokenizer
from data.tokens.manifest import Manifest, describe
from data.tokens.prefix import (
    Roles,
    bin_path,
    errors_path,
    idx_path,
    journal_path,
    labels_path,
    manifest_path,
    partial,
    partial_files,
    sizes_path,
)

OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

T = TypeVar("T")


def prepare(options: PrepareOptions) -> tuple[Manifest, ...]:
    """Make the token files of `options` unless they are complete already; returns one manifest per prefix.

    Raises:
        ValueError: invalid options, inputs that cannot be read, a prefix with files of another job (without
            `overwrite`), the first bad record (on_error="fail"), a full disk.
        WorkerDied: a tokenising process was killed.
    """
    tokenizer, bos_id, inputs = _opened(options)
    job = describe_job(options, tokenizer, bos_id, inputs)
    made = find_made(options, job)
    if made is not None:
        return made
    obstacles = look_at(inputs, options.given_fields, options.on_error)
    if not options.overwrite:
        refuse_others(options, job)
    if options.show_progress and (warning := warning_of_held_out(options)):
        sys.stderr.write(f"{warning}\n")
    _make_folders(options)
    try:
        return _Job(options, tokenizer, inputs, job, obstacles).run()
    except OSError as error:
        if error.errno in OUT_OF_SPACE:
            raise ValueError(
                f"output={options.output}: no space left on the disk ({error.strerror}); make room"
                " and run the same command again, it goes on where it stopped"
            ) from error
        raise


def _opened(options: PrepareOptions) -> tuple[TextTokenizer, int | None, Inputs]:
    """The tokenizer, the BOS id of documents, and the inputs; raises Mistakes with all problems of these."""
    mistakes = options.problems()

    def tried(make: Callable[[], T]) -> T | None:
        try:
            return make()
        except Mistakes as error:
            mistakes.extend(error.lines)
        except ValueError as error:
            mistakes.append(str(error))
        except OSError as error:
            mistakes.append(f"tokenizer={options.tokenizer}: cannot be read ({reason(error)})")
        return None

    tokenizer = tried(lambda: open_tokenizer(options.tokenizer))
    bos_id = None
    if tokenizer is not None and options.bos in BOS:
        bos_id = tried(lambda: bos_of_documents(tokenizer, options.bos))
    listed = tried(lambda: list_files(options.inputs, Roles(options.prefixes, options.tokenizer)))
    if mistakes:
        raise Mistakes(*mistakes)
    assert tokenizer is not None
    assert listed is not None
    return tokenizer, bos_id, Inputs.found(listed)


def _make_folders(options: PrepareOptions) -> None:
    for prefix in options.prefixes:
        try:
            Path(prefix).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"output={prefix}: its folder cannot be made ({reason(error)}); give another output"
            ) from error


class _Job:
    """One run: reads blocks, hands them to workers, appends results, commits, finishes."""

    def __init__(
        self,
        options: PrepareOptions,
        tokenizer: TextTokenizer,
        inputs: Inputs,
        job: Manifest,
        obstacles: dict[str, BadRecord],
    ) -> None:
        self.options = options
        self.tokenizer = tokenizer
        self.inputs = inputs
        self.obstacles = obstacles
        self.job = job
        self.errors = errors_path(options.output)
        self.fields = options.given_fields.fields
        self.growing = [growing_files(prefix, self.fields) for prefix in options.prefixes]
        self.journal = AppendJournal(
            journal_path(options.output),
            [*chain.from_iterable(self.growing), partial(self.errors)],
            job["fingerprint"],
            job,
        )
        self.documents = 0
        self.tokens = 0
        self.text_bytes = 0
        self.bad = BadRecords(options.on_error, self._say, f"in {self.errors}")
        self.progress: Progress | None = None
        self.position = (0, START)

    def run(self) -> tuple[Manifest, ...]:
        """Run the whole job; an interruption keeps all commits."""
        try:
            state = self._resumed()
            if state is not None:
                self._restore(state)
            self.bad.announce(self.obstacles)
            self._encode_all()
            self.inputs.refuse_changed()
            self.journal.commit(self._state())
            return self._finish()
        finally:
            self.journal.close()

    def _resumed(self) -> State | None:
        try:
            return self.journal.resume()
        except OSError as error:
            if error.errno in OUT_OF_SPACE:
                raise
            raise ValueError(
                f"output={self.options.output}: cannot be written ({reason(error)}); give another output"
            ) from error

    def _state(self) -> State:
        file, position = self.position
        return {
            "file": file,
            "offset": position.offset,
            "line": position.line,
            "documents": self.documents,
            "tokens": self.tokens,
            "skipped": dict(self.bad.counts),
        }

    def _restore(self, state: State) -> None:
        self.position = (state["file"], Position(state["offset"], state["line"]))
        self.documents = state["documents"]
        self.tokens = state["tokens"]
        self.bad.counts = Counter(state["skipped"])

    def _blocks(self) -> Iterator[tuple[Block, int]]:
        return read_blocks(self.inputs.files, self.obstacles, *self.position)

    def _say(self, line: str) -> None:
        if self.progress is not None:
            self.progress.say(line)
        elif self.options.show_progress:
            sys.stderr.write(f"{line}\n")

    def _encode_all(self) -> None:
        before = np.cumsum([0, *(stamp.size for stamp in self.inputs.stamps)], dtype=np.int64)
        options, total = self.options, int(before[-1])
        consumed = int(before[self.position[0]])
        uncommitted = 0
        bos_id = self.job.get("bos_id")
        with (
            Progress("tokenise", total, shown=options.show_progress, done=consumed) as progress,
            WorkerPool(self.tokenizer, self.fields, options.workers, bos_id) as pool,
        ):
            self.progress = progress
            for block, number, encoded in pool.encode(self._blocks()):
                self._append(encoded)
                self.position = (number, block.end)
                step = max(0, int(before[number]) + block.consumed - consumed)
                consumed += step
                progress.advance(step, self._words())
                uncommitted += step
                if uncommitted >= options.commit_bytes:
                    self.journal.commit(self._state())
                    uncommitted = 0
            progress.advance(total - consumed, self._words())
        self.progress = None

    def _words(self) -> str:
        text = f"{in_bytes(self.text_bytes)} of text" if self.text_bytes else "no text yet"
        return f"{self.documents:,} documents, {self.tokens:,} tokens, {text}"

    def _append(self, encoded: EncodedBlock) -> None:
        for bad in encoded.bad:
            self._report(bad)
        sizes = encoded.sizes
        out = np.zeros(len(sizes), dtype=bool)
        if self.options.heldout_output:
            ordinals = np.arange(self.documents, self.documents + len(sizes), dtype=np.uint64)
            out = held_out(ordinals, self.options.heldout_fraction, self.options.heldout_seed)
        for part, (files, chosen) in enumerate(zip(self.growing, (~out, out), strict=False)):
            contents = contents_of(encoded, chosen)
            for number in range(len(files)):
                self.journal.append(part * len(files) + number, contents[number].tobytes())
        self.documents += len(sizes)
        self.tokens += len(encoded.tokens)
        self.text_bytes += encoded.text_bytes

    def _report(self, bad: BadRecord) -> None:
        self.bad.note(bad)
        entry = {"path": bad.path, "line": bad.line, "kind": bad.kind, "reason": bad.reason}
        self.journal.append(len(self.journal.files) - 1, json.dumps(entry).encode() + b"\n")

    def _finish(self) -> tuple[Manifest, ...]:
        """Rename the files to their final names, manifests last."""
        prefixes, errors = self.options.prefixes, partial(self.errors)
        for prefix, files in zip(prefixes, self.growing, strict=True):
            if not sizes_path(prefix).stat().st_size:
                self._refuse_empty(prefix)
            write_tables(prefix, files, self.tokenizer.dtype)
        for prefix in prefixes:
            remove_outdated(prefix, keep_errors=prefix == self.options.output)
        labels = [labels_path] if self.fields.say_labels else []
        for path in (
            named(prefix) for prefix in prefixes for named in (idx_path, *labels, bin_path)
        ):
            partial(path).replace(path)
        if errors.stat().st_size:
            errors.replace(self.errors)
        else:
            self.errors.unlink(missing_ok=True)
        manifests = tuple(
            describe(prefix, self._details(part), show_progress=self.options.show_progress)
            for prefix, part in zip(prefixes, PARTS, strict=False)
        )
        for prefix, manifest in zip(prefixes, manifests, strict=True):
            write_durably(manifest_path(prefix), seal(manifest))
        self._remove_unfinished()
        return manifests

    def _remove_unfinished(self) -> None:
        """Removes what this job, or one that it has replaced, leaves unfinished; the journal last."""
        files = [path for prefix in self.options.prefixes for path in partial_files(prefix)]
        for path in (*files, self.journal.path):
            path.unlink(missing_ok=True)

    def _refuse_empty(self, prefix: str) -> None:
        self._remove_unfinished()
        if not self.documents:
            given = ", ".join(self.options.inputs)
            none = f" ({in_words(self.bad.counts)})" if self.bad.counts else ""
            raise ValueError(
                f"input={given}: holds no document{none}; name files or folders that do"
            )
        raise ValueError(
            f"heldout_fraction={self.options.heldout_fraction}: none of {self.documents} documents"
            f" falls into {prefix}; use a fraction nearer to 0.5 or more documents"
        )

    def _details(self, part: str) -> Manifest:
        heldout = {"part": part} if self.options.heldout_output else {}
        return {**self.job, **heldout, "skipped": dict(sorted(self.bad.counts.items()))}
