"""The command `python -m train.evaluate`."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data.files import reason
from data.printable import one_line, print_result
from parallel import mesh as world
from parallel.launcher import launched_world_size
from parallel.mesh import Mesh
from train.evaluate.options import EvaluateOptions, read_options
from train.evaluate.prepare import Prepared, prepare
from train.evaluate.results import Results, open_results
from train.evaluate.run import Row, run
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
        return refuse([_line(error)], MISTAKE, _NAME)
    status = _evaluated(subjects, mesh, options.output)
    world.stop()
    return status


def _evaluated(subjects: Sequence[Prepared], mesh: Mesh, output: Path | None) -> int:
    """Evaluates on the ranks of a world; returns the exit status. Collective."""
    try:
        results = _opened(subjects, mesh, output)
        found = run(subjects, results, mesh)
        problem = mesh.together(lambda: _shown(found, subjects, output) if mesh.is_main else "")
    except ValueError as error:
        return refuse(str(error).splitlines(), MISTAKE, _NAME)
    except OSError as error:
        return refuse([_line(error)], FAILURE, _NAME)
    return refuse([problem], FAILURE, _NAME) if problem else 0


def _opened(subjects: Sequence[Prepared], mesh: Mesh, output: Path | None) -> list[Results]:
    """Opens the folder of every model on the main rank, and checks every byte of checkpoints. Collective.

    Raises:
        ValueError, OSError: on every rank: a folder holds something else or cannot be written, or a file is damaged.
    """

    def opened() -> list[Results]:
        return [
            open_results(
                output / one.subject.label if output is not None else None,
                one.config,
                one.subject.facts,
            )
            for one in subjects
        ]

    of_main = mesh.broadcast_object(mesh.together(lambda: opened() if mesh.is_main else None))
    for one in subjects:
        one.subject.verify(mesh, _say)
    if mesh.is_main:
        for one in subjects:
            if one.warning:
                _say(f"warning: {one.warning}")
        return list(of_main)
    return [replace(one, folder=None) for one in of_main]


def _shown(found: Sequence[Row], subjects: Sequence[Prepared], output: Path | None) -> str:
    """Writes the page and prints the table; returns why the table cannot be printed, or nothing."""
    if output is not None:
        try:
            page = _page(output, [one.subject.label for one in subjects])
        except OSError as error:
            raise OSError(
                f"--output: cannot write a page in {output} ({error.strerror})"
            ) from error
        _say(f"{page}: the page with pictures")
    return print_result(table_of(found))


def _say(line: str) -> None:
    sys.stderr.write(f"{one_line(line)}\n")


def _line(error: OSError) -> str:
    return one_line(reason(error))


def _prepared(options: EvaluateOptions) -> list[Prepared]:
    labels = _labels([path for _, path in options.subjects])
    found = [
        open_subject(kind, path, label)
        for (kind, path), label in zip(options.subjects, labels, strict=True)
    ]
    seen = set[Path]()
    for (kind, path), subject in zip(options.subjects, found, strict=True):
        if (folder := subject.folder.resolve()) in seen:
            raise ValueError(f"--{kind}={path}: is given twice; give different ones")
        seen.add(folder)
    return [prepare(one, options, launched_world_size()) for one in found]


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
