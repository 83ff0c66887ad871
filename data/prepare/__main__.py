"""`python -m data.prepare`: documents to token files."""

import argparse
import sys
from collections.abc import Sequence

from data.prepare.job import prepare
from data.prepare.options import BOS, COMMIT_BYTES, ON_ERROR, PrepareOptions
from data.printable import one_line
from data.tokens.prefix import as_prefix, errors_path


def _parse_arguments(arguments: Sequence[str] | None) -> PrepareOptions:
    parser = argparse.ArgumentParser(
        prog="python -m data.prepare", description="tokenise documents into token files"
    )
    add = parser.add_argument
    add("--input", nargs="+", required=True, help="files or folders")
    add("--output", required=True, type=as_prefix, help="prefix of the files to write")
    add("--tokenizer", required=True, help="a SentencePiece model, or a tokenizer.json")
    add("--workers", type=int, default=1, help="tokenising processes")
    add("--on-error", choices=ON_ERROR, default="fail", help="at a record that is no document")
    add("--text-field", default="text", help="field of a JSON record")
    add(
        "--bos",
        choices=BOS,
        default="auto",
        help="begin every document with the BOS token; auto: where the tokenizer's own files say so",
    )
    add("--heldout-output", default="", type=as_prefix, help="prefix of the held-out documents")
    add("--heldout-fraction", type=float, default=0.0, help="share of the documents held out")
    add("--seed", type=int, default=0, help="of the choice of held-out documents")
    add(
        "--overwrite",
        action="store_true",
        help="replace token files, or an unfinished job, of other inputs or options",
    )
    add("--commit-bytes", type=int, default=COMMIT_BYTES, help="input between two commits")
    options = parser.parse_args(arguments)
    return PrepareOptions(
        inputs=tuple(options.input),
        output=options.output,
        tokenizer=options.tokenizer,
        workers=options.workers,
        on_error=options.on_error,
        text_field=options.text_field,
        bos=options.bos,
        heldout_output=options.heldout_output,
        heldout_fraction=options.heldout_fraction,
        seed=options.seed,
        overwrite=options.overwrite,
        commit_bytes=options.commit_bytes,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 when the files are there, 2 after one line about what is wrong."""
    options = _parse_arguments(arguments)
    try:
        manifests = prepare(options)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"data.prepare: {one_line(str(error))}\n")
        return 2
    for prefix, manifest in zip(options.prefixes, manifests, strict=True):
        sys.stderr.write(
            f"{prefix}: {manifest['documents']} documents, {manifest['tokens']} tokens\n"
        )
    passed_over = manifests[0]["inputs"].get("passed_over", 0)
    if passed_over:
        sys.stderr.write(
            f"passed over: {passed_over} files of folders that are no documents by their suffix\n"
        )
    skipped = manifests[0]["skipped"]
    if skipped:
        counts = ", ".join(f"{count} {kind}" for kind, count in skipped.items())
        sys.stderr.write(f"skipped records: {counts} (see {errors_path(options.output)})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
