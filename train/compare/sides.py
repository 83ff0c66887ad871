"""What the path A or B stands for: a run, one of its checkpoints, or a checkpoint without a run."""

from dataclasses import dataclass, field
from pathlib import Path

from train.checkpointing.folder import complete, step_of
from train.checkpointing.locate import CHECKPOINTS, locate
from train.records.file_names import STARTS
from train.report.record import read_log, read_mapping, read_rows
from train.report.rows import Row, finite_value

_OF_A_RUN = ("config.yaml", "metrics.jsonl")


@dataclass(frozen=True)
class Side:
    """One of the two.

    path: as given. config, steps, evaluations, starts: content of the run's files; empty without a run.
    checkpoints: folders by step, ascending. only: the one checkpoint that was named; None if a run was named.
    """

    path: Path
    config: Row = field(default_factory=dict)
    steps: tuple[Row, ...] = ()
    evaluations: tuple[Row, ...] = ()
    starts: tuple[Row, ...] = ()
    checkpoints: dict[int, Path] = field(default_factory=dict)
    only: Path | None = None

    def start_before(self, step: int) -> Row:
        """Returns the row of starts.jsonl of the start that took `step`; the first or {} if none is earlier."""
        earlier = [row for row in self.starts if (finite_value(row, "step") or 0) < step]
        return earlier[-1] if earlier else next(iter(self.starts), {})


def read_side(path: Path) -> Side:
    """Reads the run or the checkpoint that a path stands for; of checkpoints only their names.

    Raises:
        ValueError: the path is neither, or a log or config.yaml is broken.
        OSError: a file exists and cannot be read.
    """
    folder = path.parent if path.is_file() and path.name in _OF_A_RUN else path
    if folder.name == CHECKPOINTS and _is_run(folder.resolve().parent):
        folder = folder.resolve().parent
    if _is_run(folder):
        return _read(path, folder, None)
    only = locate(folder)
    run = only.parent.parent
    return _read(path, run, only) if _is_run(run) else Side(path, only=only)


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _OF_A_RUN)


def _read(path: Path, run: Path, only: Path | None) -> Side:
    steps, _ = read_log(run / "metrics.jsonl")
    evaluations, _ = read_log(run / "evaluation.jsonl")
    return Side(
        path,
        read_mapping(run / "config.yaml"),
        tuple(steps),
        tuple(evaluations),
        tuple(read_rows(run / STARTS)),
        {step_of(one): one for one in reversed(complete(run / CHECKPOINTS))},
        only,
    )
