"""The command `python -m train.evaluate`."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data.printable import one_line, print_result
from parallel import mesh as world
from parallel.launcher import launched_world_size
from train.evaluate.options import EvaluateOptions, read_options
from train.evaluate.prepare import Prepared, prepare
from train.evaluate.run import run
from train.evaluate.subject import open_subject
from train.evaluate.table import table_of
from train.health.exit_status import FAILURE, MISTAKE, refuse
from train.job import start_world
from train.report.comparison import write_comparison
from train.report.page import write_report

_NAME = "evaluate"


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluates; prints a table on the main rank. Returns the exit status."""
    options = read_options(arguments)
    try:
        subjects = _prepared(options)
        mesh = start_world(subjects[0].config, None)
    except ValueError as error:
        return refuse(str(error).splitlines(), MISTAKE, _NAME)
    except OSError as error:
        return refuse([one_line(f"{error.filename}: {error.strerror}")], MISTAKE, _NAME)
    found = run(subjects, mesh, options.output)
    problem = ""
    if mesh.is_main:
        if options.output is not None:
            page = _page(options.output, [one.subject.label for one in subjects])
            sys.stderr.write(f"{one_line(str(page))}: the page with pictures\n")
        problem = print_result(table_of(found))
    world.stop()
    return refuse([problem], FAILURE, _NAME) if problem else 0


def _prepared(options: EvaluateOptions) -> list[Prepared]:
    labels = _labels([path for _, path in options.subjects])
    return [
        prepare(open_subject(kind, path, label), options, launched_world_size())
        for (kind, path), label in zip(options.subjects, labels, strict=True)
    ]


def _labels(paths: Sequence[Path]) -> list[str]:
    """Returns a short name for every path: its last part, or with a number where that is not unique."""
    names = [path.resolve().name for path in paths]
    if len({*names}) < len(names):  # checkpoints of several runs: with the run's name
        names = [_of_run(path.resolve()) for path in paths]
    seen = Counter[str]()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return found


def _of_run(path: Path) -> str:
    return f"{path.parents[1].name}_{path.name}" if path.parent.name == "checkpoints" else path.name


def _page(output: Path, labels: Sequence[str]) -> Path:
    folders = [output / label for label in labels]
    return write_report(folders[0]) if len(folders) == 1 else write_comparison(folders, None)
