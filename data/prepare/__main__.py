"""`python -m data.prepare`: documents to token files."""

import argparse
import sys
from collections.abc import Sequence

from data.interrupt import end_at_once, run

if __name__ == "__main__":
    end_at_once("data.prepare: stopped; the same command goes on from the last commit")

from data.formats import arguments
from data.formats.bad_records import in_words, passed_over_in_words
from data.prepare.job import prepare
from data.prepare.options import BOS, COMMIT_BYTES, PrepareOptions
from data.printable import one_line, told
from data.tokens.manifest import labels_in_words
from data.tokens.prefix import as_prefix, errors_path


def make_parser() -> argparse.ArgumentParser:
    """The command line of data.prepare."""
    parser = arguments.make_parser(
        "data.prepare",
        "Tokenise documents into token files. The same command continues an interrupted job.",
    )
    add = parser.add_argument
    add(
        "--output",
        required=True,
        type=as_prefix,
        metavar="PREFIX",
        help="beginning of the names of the written files, as corpus/web for corpus/web.bin",
    )
    add(
        "--tokenizer",
        required=True,
        metavar="FILE",
        help="a SentencePiece model, or a tokenizer.json of Hugging Face",
    )
    add(
        "--bos",
        choices=BOS,
        default="auto",
        help="begin every document with the BOS token; auto: if the tokenizer's own files have add_bos_token"
        " (default: %(default)s)",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace token files, or an unfinished job, of other inputs or options (default: keep them"
        " and stop)",
    )
    _add_heldout(parser)
    _add_work(parser)
    return parser


def _add_heldout(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--heldout-output",
        default="",
        type=as_prefix,
        metavar="PREFIX",
        help="write a part of the documents here, for evaluation (default: no such part)",
    )
    add(
        "--heldout-fraction",
        type=float,
        default=0.0,
        metavar="F",
        help="share of the documents that is held out, between 0 and 1 (default: %(default)s)",
    )
    add(
        "--seed",
        type=int,
        metavar="N",
        help="seed of the choice of held-out documents (default: 0)",
    )


def _add_work(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes that tokenise; the files are the same for every number (default: %(default)s)",
    )
    add(
        "--commit-bytes",
        type=int,
        default=COMMIT_BYTES,
        metavar="N",
        help="bytes of input between two commits, from which an interrupted job continues (default: %(default)s)",
    )


def _parse_arguments(given: Sequence[str] | None) -> PrepareOptions:
    options = make_parser().parse_args(given)
    return PrepareOptions(
        inputs=tuple(options.input),
        output=options.output,
        tokenizer=options.tokenizer,
        workers=options.workers,
        on_error=options.on_error,
        **vars(arguments.given_fields(options)),
        bos=options.bos,
        heldout_output=options.heldout_output,
        heldout_fraction=options.heldout_fraction,
        seed=options.seed,
        overwrite=options.overwrite,
        commit_bytes=options.commit_bytes,
    )


def main(given: Sequence[str] | None = None) -> int:
    """Command line; 0 when the files are there, 2 after one line about what is wrong."""
    options = _parse_arguments(given)
    try:
        manifests = prepare(options)
    except (ValueError, OSError, MemoryError) as error:
        sys.stderr.write(told("data.prepare", error))
        return 2
    said = [
        f"{one_line(prefix)}: {manifest['documents']} documents, {manifest['tokens']} tokens{labels_in_words(manifest)}"
        for prefix, manifest in zip(options.prefixes, manifests, strict=True)
    ]
    said += passed_over_in_words(manifests[0]["inputs"])
    skipped = manifests[0]["skipped"]
    if skipped:
        said.append(
            f"skipped records: {in_words(skipped)} (see {one_line(str(errors_path(options.output)))})"
        )
    sys.stderr.write("".join(f"{line}\n" for line in said))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
