"""Training a SentencePiece model on an even sample of documents, and its command line.

    ropewalk tokenizer --input PATH ... --output MODEL --vocab-size N

Documents are read as by data.prepare: with the same formats and the same rules for bad records.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data.formats import arguments
from data.formats.bad_records import BadRecords, in_words, passed_over_in_words
from data.formats.field_options import FieldOptions
from data.formats.input_files import Inputs, list_files
from data.formats.obstacles import look_at
from data.formats.readers import read_documents
from data.formats.records import Document, Record
from data.printable import Mistakes, one_line, told
from data.progress import Progress, in_bytes
from data.tokenizer.sentencepiece_model import (
    DEFAULT_SAMPLE_BYTES,
    META_SYMBOL,
    MINIMUM_VOCABULARY,
    Tokenizer,
    train,
)
from data.tokens.prefix import Roles

SENTENCE_CHARACTERS = 2_000
_NO_OPTIONS = FieldOptions()


def sample_sentences(
    documents: Iterable[Document], total_bytes: int, sample_bytes: int
) -> Iterator[str]:
    """Pieces of documents, spread evenly over the whole input, of about `sample_bytes` in total."""
    taken = 0
    for document in documents:
        allowed = sample_bytes * min(1.0, document.consumed / max(1, total_bytes))
        for start in range(0, len(document.text), SENTENCE_CHARACTERS):
            if taken >= allowed:
                break
            piece = document.text[start : start + SENTENCE_CHARACTERS]
            taken += len(piece.encode())
            yield piece.replace("\0", " ").replace(META_SYMBOL, " ")


def train_on_files(
    inputs: Sequence[str],
    output: str | Path,
    vocab_size: int,
    *,
    sample_bytes: int = DEFAULT_SAMPLE_BYTES,
    given: FieldOptions = _NO_OPTIONS,
    on_error: str = "fail",
    show_progress: bool = True,
) -> Tokenizer:
    """Train on an even sample of `inputs`; every file is read once.

    given: the fields of the text. on_error: "fail", or "skip" to leave out bad records, printed and counted.

    Raises:
        ValueError: invalid inputs or options; the first bad record (on_error="fail"); no document.
    """
    found = Inputs.found(list_files(inputs, Roles((), output)))
    obstacles = look_at(found, given, on_error)
    with Progress("sample", found.total_bytes, shown=show_progress) as progress:
        bad = BadRecords(on_error, progress.say if show_progress else lambda _: None)
        bad.announce(obstacles)
        records = read_documents(found.files, fields=given.fields, refused=obstacles)
        documents = _Documents(found, records, bad, progress)
        sentences = list(sample_sentences(documents, found.total_bytes, sample_bytes))
        if show_progress:
            for line in documents.told(sentences):
                progress.say(line)
    if not documents.count:
        none = f" ({in_words(bad.counts)})" if bad.counts else ""
        raise ValueError(
            f"input={', '.join(inputs)}: holds no document{none}; name files or folders that do"
        )
    return train(sentences, output, vocab_size)


class _Documents:
    """The documents of the inputs, one after the other; bad records are noted."""

    def __init__(
        self, inputs: Inputs, records: Iterable[Record], bad: BadRecords, progress: Progress
    ) -> None:
        self._inputs = inputs
        self._records = records
        self._bad = bad
        self._progress = progress
        self.count = 0
        self._text_bytes = 0

    def __iter__(self) -> Iterator[Document]:
        consumed = 0
        for record in self._records:
            if not isinstance(record, Document):
                self._bad.note(record)
                continue
            self.count += 1
            self._text_bytes += len(record.text.encode())
            self._progress.advance(record.consumed - consumed, self._words())
            consumed = record.consumed
            yield record
        self._progress.advance(self._inputs.total_bytes - consumed, self._words())

    def _words(self) -> str:
        return f"{self.count:,} documents, {in_bytes(self._text_bytes)} of text"

    def told(self, sentences: Sequence[str]) -> list[str]:
        """Lines about the documents read and the records and files left out."""
        sampled = in_bytes(sum(len(sentence.encode()) for sentence in sentences))
        lines = [f"read {self._words()}; training on {sampled} of it"]
        if self._bad.counts:
            lines.append(f"skipped records: {in_words(self._bad.counts)}")
        return lines + passed_over_in_words(self._inputs.counts)


def make_parser() -> argparse.ArgumentParser:
    """The command line of data.tokenizer."""
    parser = arguments.make_parser(
        "data.tokenizer",
        "Train a SentencePiece tokenizer (byte-pair encoding with byte fallback) on documents.",
    )
    add = parser.add_argument
    add("--output", required=True, metavar="MODEL", help="the model file to write")
    add(
        "--vocab-size",
        type=int,
        required=True,
        metavar="N",
        help=f"number of tokens, at least {MINIMUM_VOCABULARY}, of which 256 are bytes",
    )
    add(
        "--sample-bytes",
        type=int,
        default=DEFAULT_SAMPLE_BYTES,
        metavar="N",
        help="bytes of text to train on, taken evenly from all documents (default: %(default)s)",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace an existing model file (default: keep it and stop)",
    )
    return parser


def main(given: Sequence[str] | None = None) -> int:
    """Command line; 0 when a model was written, 2 after one line about a mistake."""
    options = make_parser().parse_args(given)
    try:
        _refuse_options(options)
        tokenizer = train_on_files(
            options.input,
            options.output,
            options.vocab_size,
            sample_bytes=options.sample_bytes,
            given=arguments.given_fields(options),
            on_error=options.on_error,
        )
    except (ValueError, OSError, MemoryError) as error:
        sys.stderr.write(told("data.tokenizer", error))
        return 2
    sys.stderr.write(
        f"{one_line(options.output)}: {tokenizer.vocab_size} pieces, sha256 {tokenizer.sha256}\n"
    )
    return 0


def _refuse_options(options: argparse.Namespace) -> None:
    """Raise Mistakes with every option that cannot be followed."""
    found = []
    output = Path(options.output)
    if output.is_dir() or not output.name:
        found.append(f"output={output}: is a folder; add the name of a file, as tokenizer.model")
    elif output.exists() and not options.overwrite:
        found.append(
            f"output={output}: is there already, and token files may have been made with it; give another"
            " output, or replace it with --overwrite"
        )
    if options.vocab_size < MINIMUM_VOCABULARY:
        found.append(
            f"vocab_size={options.vocab_size}: needs at least {MINIMUM_VOCABULARY} (256 of them are bytes)"
        )
    if options.sample_bytes < 1:
        found.append(f"sample_bytes={options.sample_bytes}: must be at least 1; leave it away")
    found += arguments.given_fields(options).problems()
    if any(os.path.abspath(path) == os.path.abspath(output) for path in options.input):  # noqa: PTH100
        found.append(f"output={output}: is an input too; write the model elsewhere")
    if found:
        raise Mistakes(*found)
