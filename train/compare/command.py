"""The command `python -m train.compare A B`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from data.command_line import Parser
from data.files import reason
from data.printable import one_line, print_result
from train.compare.comparison import compare
from train.compare.sides import read_side
from train.compare.words import words
from train.records.metrics_log import finite_or_null

_DESCRIPTION = """\
Says where two runs part: the first step whose numbers in metrics.jsonl differ, and in the oldest checkpoints of a
common step that differ, the first tensor in the order of the model. Numbers are compared exactly; times, speeds,
memory and traffic are left out. A and B may have other layouts and ZeRO stages."""
_STATUS = "exit status: 0 no number differs, 1 some do, 2 nothing could be compared"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the comparison. Returns the exit status: 0 equal, 1 different."""
    parser = Parser(
        prog="ropewalk compare",
        description=_DESCRIPTION,
        epilog=_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    named = "a run's folder, such as outputs/RUN_NAME, or a checkpoint, such as outputs/RUN_NAME/checkpoints/latest"
    parser.add_argument("a", metavar="A", type=Path, help=named)
    parser.add_argument("b", metavar="B", type=Path, help="the same")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(arguments)
    try:
        found = compare(read_side(given.a), read_side(given.b))
    except ValueError as error:
        parser.exit(2, f"error: {one_line(str(error))}\n")
    except OSError as error:
        parser.exit(2, f"error: {one_line(reason(error))}\n")
    text = json.dumps(finite_or_null(found), indent=1) + "\n" if given.json else words(found)
    if problem := print_result(text):
        parser.exit(2, f"error: {problem}\n")
    return 0 if found["equal"] else 1
