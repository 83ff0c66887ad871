"""`python -m data.manifest`: check token files, or describe those of another tool.

python -m data.manifest PREFIX [--full]      check token files against their manifest
python -m data.manifest PREFIX --create      describe files of another tool (Megatron)
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from data.interrupt import end_at_once, run

if __name__ == "__main__":
    end_at_once("data.manifest: stopped")

from data.command_line import Parser
from data.files import seal, write_durably
from data.printable import one_line, told
from data.tokenizer.any_tokenizer import open_tokenizer
from data.tokens.manifest import Manifest, describe, id_problems, labels_in_words, verify
from data.tokens.prefix import as_prefix, manifest_path, ngram_path

_OF_CREATE = ("--tokenizer", "--vocab-size", "--eos-id", "--bos-id", "--overwrite")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 0 if the files match the manifest, 2 after one line otherwise."""
    options = _parse(arguments)
    try:
        if options.create:
            _create(options)
        manifest = verify(options.prefix, full=options.full)
    except (ValueError, OSError) as error:
        sys.stderr.write(told("data.manifest", error))
        return 2
    labels = labels_in_words(manifest)
    largest = f", ids up to {manifest['largest_id']}" if "largest_id" in manifest else ""
    sys.stderr.write(
        f"{options.prefix}: {manifest['documents']} documents, {manifest['tokens']} tokens{labels}{largest}, good\n"
    )
    return 0


def make_parser() -> Parser:
    """The command line of data.manifest."""
    parser = Parser(
        prog="ropewalk manifest",
        description="Check token files against their manifest, or describe files of another tool.",
    )
    add = parser.add_argument
    add(
        "prefix",
        type=as_prefix,
        metavar="PREFIX",
        help="beginning of the file names, as corpus/web for corpus/web.bin and corpus/web.idx",
    )
    add(
        "--full",
        action="store_true",
        help="check every byte (default: of token files beyond 256 MiB only four blocks of 64 MiB)",
    )
    add(
        "--create",
        action="store_true",
        help="write the manifest of files of another tool, after a check of every id (default: check)",
    )
    add(
        "--tokenizer",
        default="",
        metavar="FILE",
        help="with --create: the file of their tokenizer (default: unknown)",
    )
    for name, what in (
        ("--vocab-size", "number of ids of the tokenizer (default: the tokenizer's)"),
        ("--eos-id", "id that ends documents and pads rows (default: the tokenizer's)"),
        ("--bos-id", "id that begins documents, if one does (default: none)"),
    ):
        add(name, type=int, metavar="N", help=f"with --create: {what}")
    add(
        "--overwrite",
        action="store_true",
        help="with --create: replace an existing manifest (default: keep it and stop)",
    )
    return parser


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser()
    options = parser.parse_args(arguments)
    if not options.create and (given := [name for name in _OF_CREATE if _is_given(options, name)]):
        parser.error(f"{', '.join(given)}: describe files of another tool; add --create")
    return options


def _is_given(options: argparse.Namespace, name: str) -> bool:
    value = getattr(options, name.removeprefix("--").replace("-", "_"))
    return value is not None and value is not False and value != ""


def _create(options: argparse.Namespace) -> None:
    """Write the manifest of files that have none."""
    path = manifest_path(options.prefix)
    if path.is_file() and not options.overwrite:
        raise ValueError(f"{path}: exists already; --overwrite replaces it")
    details: Manifest = {"tokenizer": {"file": "", "sha256": ""}, "skipped": {}}
    if options.tokenizer:
        details |= _tokenizer(Path(options.tokenizer))
    for key in ("vocab_size", "eos_id", "bos_id"):
        given = getattr(options, key)
        option = f"--{key.replace('_', '-')}"
        if given is not None and key in details and details[key] != given:
            raise ValueError(
                f"{option}={given}: {options.tokenizer} has {details[key]}; omit {option}"
            )
        if given is not None:
            details[key] = given
        elif key not in details and key != "bos_id":
            raise ValueError(
                "--create needs --vocab-size N and --eos-id I of the tokenizer, or --tokenizer FILE"
            )
    problems = id_problems(details)
    if problems:
        raise ValueError("; ".join(problems))
    described = describe(options.prefix, details, show_progress=True)
    ngram_path(options.prefix).unlink(missing_ok=True)
    write_durably(path, seal(described))


def _tokenizer(path: Path) -> Manifest:
    """SHA-256, vocabulary size and end token of a tokenizer file; only its SHA-256 if it cannot be used here."""
    try:
        tokenizer = open_tokenizer(path)
    except ValueError as error:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        sys.stderr.write(
            f"{one_line(str(error))}; only its SHA-256 is recorded, --vocab-size and --eos-id are taken as given\n"
        )
        return {"tokenizer": {"file": path.name, "sha256": sha256}}
    return {
        "tokenizer": {"file": path.name, "sha256": tokenizer.sha256},
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
    }


if __name__ == "__main__":
    sys.exit(run(main))
