"""The command `python -m train.advise`."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from data.command_line import Parser
from data.files import write_durably
from data.printable import Mistakes, one_line, print_result
from train.advise.advice import advise, default_lengths
from train.advise.data import data_of
from train.advise.inputs import Before, read_subject
from train.advise.page import render
from train.advise.terminal import text_of

MOST_LENGTH = 2**24
MOST_LENGTHS = 16
_DESCRIPTION = """\
What published formulas say about a model and the lengths it is to be trained or used at: whether its RoPE bases reach
them, which pairs never turn once, where extrapolation ends, and what key/value cache and operations cost.
It is advice: the formulas know positions and shapes, nothing of what the model learned.

WHAT is one of
  KEY=VALUE ...                 a run's configuration, as for ropewalk train: experiment=..., model.KEY=..., all stages
  outputs/RUN                   the configuration of a run, from its config.yaml
  a checkpoint                  outputs/RUN/checkpoints/step_NNNNNNNN, or a folder that ropewalk import made
  a Hugging Face model          its folder, or its config.json alone"""
_AFTER = """\
examples
  ropewalk advise experiment=quickstart
  ropewalk advise model=8b schedule=to_128k --lengths 128k,1m --page advice.html
  ropewalk advise Llama-3.1-8B/config.json --trained-length 8192"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints tables, or JSON; writes the page if it is asked for. Returns the exit status."""
    given = _parser().parse_intermixed_args(arguments)
    before = Before(given.trained_length, given.trained_base)
    try:
        subject = read_subject(given.what, given.config_dir, before)
        found = advise(subject, given.lengths or default_lengths(subject))
    except Mistakes as error:
        return _refuse(error.lines)
    except ValueError as error:
        return _refuse(str(error).splitlines())
    if subject.note:
        sys.stderr.write(f"{subject.note}\n")
    if given.page is not None:
        try:
            if given.page.exists() and not given.page.is_file():
                return _refuse([f"--page={given.page}: is no file; name one"])
            write_durably(given.page, render(found))
        except OSError as error:
            return _refuse([f"--page={given.page}: cannot be written ({error.strerror or error})"])
        sys.stderr.write(f"{one_line(str(given.page))}: the page with pictures\n")
    return _say(json.dumps(data_of(found), indent=1) + "\n" if given.json else text_of(found))


def _say(text: str) -> int:
    """Writes to standard output; returns the exit status."""
    failure = print_result(text)
    return _refuse([failure]) if failure else 0


def _parser() -> Parser:
    parser = Parser(
        prog="ropewalk advise",
        description=_DESCRIPTION,
        epilog=_AFTER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="+", metavar="WHAT", help="what is judged; see above")
    parser.add_argument(
        "--lengths",
        type=_lengths,
        help="lengths in tokens, such as 8192,128k,1m (k is 1024); default: those of the stages, and longer ones",
    )
    parser.add_argument(
        "--trained-length",
        type=_length,
        default=0,
        help="length in tokens that the model was trained at before; default: what its files or stages say",
    )
    parser.add_argument(
        "--trained-base",
        type=_base,
        default=0.0,
        help="RoPE base that it was trained with before; default: what its files or first stage say",
    )
    parser.add_argument(
        "--page",
        type=Path,
        help="also write one HTML page with pictures, which reads without network",
    )
    parser.add_argument("--json", action="store_true", help="print the data instead of tables")
    parser.add_argument(
        "--config-dir", default="", help="find names of a configuration in DIR/GROUP/NAME.yaml too"
    )
    return parser


def _lengths(text: str) -> tuple[int, ...]:
    found = sorted({_length(part) for part in text.split(",")})
    if len(found) > MOST_LENGTHS:
        raise argparse.ArgumentTypeError(f"at most {MOST_LENGTHS} lengths")
    return tuple(found)


def _length(text: str) -> int:
    match = re.fullmatch(r"\s*(\d{1,9})\s*([kKmM]?)\s*", text, re.ASCII)
    value = int(match[1]) * {"": 1, "k": 1024, "m": 1024**2}[match[2].lower()] if match else 0
    if not 1 <= value <= MOST_LENGTH:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no length from 1 to {MOST_LENGTH} tokens; give for example 8192,128k,1m"
        )
    return value


def _base(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1.0 < value < 1e30:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no base above 1 and below 1e30; give for example 5e5"
        )
    return value


def _refuse(lines: Sequence[str]) -> int:
    count = f"{len(lines)} mistakes:\n  " if len(lines) > 1 else "error: "
    said = "\n  ".join(map(one_line, lines))
    sys.stderr.write(f"ropewalk advise: {count}{said}\n")
    return 2
