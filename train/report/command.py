"""The command `python -m train.report RUN [RUN ...]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data.command_line import Parser
from data.files import reason
from data.printable import one_line
from train.report.comparison import write_comparison
from train.report.page import write_report

_DESCRIPTION = """\
One run: write RUN/report.html again, also while the run trains, or after it was killed.
Several: write one page that compares them, comparison.html beside the first."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page for the given folders of runs and prints its path. Returns the exit status."""
    parser = Parser(
        prog="ropewalk report",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run", nargs="+", type=Path, help="a run's folder, such as outputs/RUN_NAME"
    )
    parser.add_argument(
        "--output", type=Path, help="where the comparison is written (several runs only)"
    )
    given = parser.parse_args(arguments)
    if given.output and len(given.run) == 1:
        output = one_line(str(given.output))
        parser.exit(
            2,
            f"error: --output={output}: only a comparison is written elsewhere; give several runs\n",
        )
    try:
        # A file of the run, such as its config.yaml, names it too.
        runs = [path.parent if path.is_file() else path for path in given.run]
        path = write_comparison(runs, given.output) if len(runs) > 1 else write_report(runs[0])
    except ValueError as error:
        parser.exit(2, f"error: {one_line(str(error))}\n")
    except OSError as error:
        parser.exit(2, f"error: {one_line(reason(error))}\n")
    sys.stdout.write(f"{path}\n".encode(errors="backslashreplace").decode())
    return 0
