"""Reads the files of a run into one record.

A run may have been killed at any moment, so a file may be missing and the last line of a log may be torn. Any other
damage in config.yaml or a log raises a ValueError that names the place. Optional files (starts, preflight, summary,
checkpoints, error.txt) are left out if they are not readable, with a note.
"""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped,unused-ignore]

from model.config import ModelConfig
from model.layer_pattern import pattern_problems
from train.configuration.renamed_keys import renamed_model
from train.configuration.typed import field_types, read
from train.records.evaluation_rows import ACCURACY, HELD_OUT, rows_of_task
from train.records.file_names import STARTS
from train.records.prompt_rows import PROMPTS
from train.report.rows import Row, finite_value, known, mapping

NUM_COLOURS = 6  # --stage0 ... --stage5, --source0 ... --source5 in the page's style sheet
_MOST_LAYERS = 10_000  # more than any model has: such a configuration is damaged
_LOGS = ("metrics.jsonl", "evaluation.jsonl")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's folder in checkpoints/."""

    name: str
    written: datetime
    num_bytes: int


@dataclass(frozen=True)
class RunRecord:
    """A run as read from its files.

    steps: rows of metrics.jsonl. evaluations, accuracies, more: rows of evaluation.jsonl: held-out loss, accuracy, and
    all other tasks.
    """

    name: str
    config: Row = field(default_factory=dict)
    steps: tuple[Row, ...] = ()
    evaluations: tuple[Row, ...] = ()
    accuracies: tuple[Row, ...] = ()
    more: tuple[Row, ...] = ()
    summary: Row = field(default_factory=dict)
    # One row for every start of the run, oldest first.
    starts: tuple[Row, ...] = ()
    preflight: Row = field(default_factory=dict)
    checkpoints: tuple[Checkpoint, ...] = ()
    # The last line of error.txt: why the newest start failed; empty if no failure is recorded.
    error: str = ""
    # When metrics.jsonl was last written; None if it has no rows.
    last_row: datetime | None = None
    notes: tuple[str, ...] = ()
    # Of a folder that `ropewalk evaluate` made: which model it is of. Such a folder has no steps.
    evaluated: Row = field(default_factory=dict)

    @property
    def planned_stages(self) -> dict[str, Row]:
        """Returns the configured stages by name, in order; empty if the configuration has none."""
        stages = mapping(mapping(self.config, "schedule"), "stages") if not self.evaluated else {}
        return {str(name): row if isinstance(row, dict) else {} for name, row in stages.items()}

    @cached_property
    def stage_names(self) -> tuple[str, ...]:
        """Returns all stages: the configured ones in order, then the others in the logs."""
        seen = [row["stage"] for row in (*self.steps, *self.evaluations, *self.more)]
        return tuple(dict.fromkeys([*self.planned_stages, *seen]))

    @cached_property
    def model(self) -> ModelConfig | None:
        """Returns the configured model; None if the configuration has no valid one."""
        content = renamed_model(mapping(self.config, "model"))
        if not {"num_layers", "hidden_size", "layer_pattern"} <= content.keys():
            return None
        ours = {key: value for key, value in content.items() if key in field_types(ModelConfig)}
        model, mistakes = read(ModelConfig, ours, "model")
        if mistakes or model is None or model.num_layers > _MOST_LAYERS:
            return None
        return None if pattern_problems(model, model.head_dim) else model

    @cached_property
    def prompt_tasks(self) -> dict[str, list[Row]]:
        """Returns the evaluations of every long-context task by its name, oldest first."""
        found = dict[str, list[Row]]()
        for row in self.more:
            if row.get("kind") == PROMPTS:
                found.setdefault(str(row.get("task")), []).append(row)
        return found

    @cached_property
    def by_stage(self) -> dict[str, list[Row]]:
        """Returns the steps by stage, without stages that have none."""
        found = dict[str, list[Row]]()
        for row in self.steps:
            found.setdefault(row["stage"], []).append(row)
        return found

    @property
    def newest_start(self) -> Row:
        """Returns the last row of starts.jsonl; {} if there is none."""
        return self.starts[-1] if self.starts else {}

    @property
    def tokens_seen(self) -> float:
        """Returns the stream tokens up to the newest row."""
        return max(known((*self.steps, *self.evaluations), "tokens_seen"), default=0.0)

    @property
    def planned_tokens(self) -> float:
        """Returns the stream tokens of the whole run; 0 if unknown."""
        planned = finite_value(self.newest_start, "total_tokens")
        return planned or sum(known(self.planned_stages.values(), "tokens"))

    def steps_of(self, stage: str) -> list[Row]:
        """Returns the steps of one stage."""
        return self.by_stage.get(stage, [])

    def last_evaluation(self, stage: str) -> Row:
        """Returns the stage's newest evaluation; {} if there is none."""
        return next((row for row in reversed(self.evaluations) if row["stage"] == stage), {})

    def colour(self, stage: str) -> str:
        """Returns the name of the stage's colour in the style sheet."""
        return f"@stage{self.stage_names.index(stage) % NUM_COLOURS}"

    def dash(self, stage: str) -> str:
        """Returns the dash style: solid for the first round of colours, dashed for the second."""
        cycle = ("solid", "dash", "dot", "dashdot")
        return cycle[self.stage_names.index(stage) // NUM_COLOURS % len(cycle)]

    def spans(self) -> list[tuple[str, float, float]]:
        """Returns (stage, tokens seen before its first step, tokens seen after its last), in order."""
        spans, start = [], 0.0
        for stage, rows in groupby(self.steps, key=lambda row: row["stage"]):
            end = float(list(rows)[-1]["tokens_seen"])
            spans.append((stage, start, end))
            start = end
        return spans


def read_run(run_folder: Path) -> RunRecord:
    """Returns the record of the run in outputs/<run_name>/.

    Raises:
        ValueError: the folder is not a run's, or config.yaml or a log is broken (a log's last line may be cut off).
        OSError: config.yaml or a log exists and cannot be read.
    """
    paths = [run_folder / name for name in ("config.yaml", *_LOGS)]
    if not any(path.is_file() for path in paths):
        raise ValueError(
            f"run_folder={run_folder}: holds no config.yaml, metrics.jsonl or evaluation.jsonl; "
            "give the folder of a run, such as outputs/RUN_NAME"
        )
    config = read_mapping(paths[0])
    (steps, steps_torn), (evaluations, evaluations_torn) = map(read_log, paths[1:])
    torn = [name for name, cut in zip(_LOGS, (steps_torn, evaluations_torn), strict=True) if cut]
    notes = [f"The last line of {name} was cut off and is left out." for name in torn]

    def optional(name: str, reading: Callable[[Path], Any], nothing: Any) -> Any:
        try:
            return reading(run_folder / name)
        except (ValueError, OSError, RecursionError):
            notes.append(f"{name} is not readable and is left out.")
            return nothing

    return RunRecord(
        name=str(config.get("run_name") or run_folder.resolve().name),
        config=config,
        steps=tuple(steps),
        evaluations=tuple(rows_of_task(evaluations, HELD_OUT)),
        accuracies=tuple(rows_of_task(evaluations, ACCURACY)),
        more=tuple(
            row for row in evaluations if row.get("task", HELD_OUT) not in (HELD_OUT, ACCURACY)
        ),
        summary=optional("summary.json", read_json, {}),
        starts=tuple(optional(STARTS, read_rows, ())),
        preflight=optional("preflight.json", read_json, {}),
        checkpoints=tuple(optional("checkpoints", read_checkpoints, ())),
        error=optional("error.txt", read_error, ""),
        last_row=_modified(paths[1]) if steps else None,
        evaluated=optional("evaluated.json", read_json, {}),
        notes=tuple(notes),
    )


def read_mapping(path: Path) -> Row:
    """Returns the mapping in a YAML file; {} if the file is missing or empty. Raises ValueError, OSError."""
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        words = " ".join(str(error).split())
        raise ValueError(f"{path}: not readable as YAML ({words}); restore or delete it") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a mapping; restore it")
    return content


def read_log(path: Path) -> tuple[list[Row], bool]:
    """Returns the rows of a .jsonl file, and whether its last line was torn (killed while writing).

    Raises:
        ValueError: a line before the last is not JSON, or any line lacks step, stage or tokens_seen.
    """
    if not path.is_file():
        return [], False
    lines = [(i, line) for i, line in enumerate(path.read_bytes().split(b"\n"), 1) if line.strip()]
    rows = list[Row]()
    for number, line in lines:
        try:
            row = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:  # broken JSON or broken UTF-8
            if number == lines[-1][0]:
                return rows, True
            raise ValueError(
                f"{path} line {number}: not a JSON object ({error}); repair or delete that line"
            ) from error
        if missing := _missing(row):
            raise ValueError(
                f"{path} line {number}: lacks {', '.join(missing)}; repair or delete that line"
            )
        row["stage"] = str(row["stage"])
        rows.append(row)
    return rows, False


def _missing(row: Any) -> list[str]:
    """Returns the required keys that a line of either log lacks."""
    if not isinstance(row, dict):
        return ["step", "stage", "tokens_seen"]
    missing = [key for key in ("step", "tokens_seen") if finite_value(row, key) is None]
    return missing + (["stage"] if row.get("stage") is None else [])


def read_json(path: Path) -> Row:
    """Returns the mapping in a JSON file; {} if the file is missing. Raises ValueError, OSError."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a mapping")
    return content


def read_rows(path: Path) -> list[Row]:
    """Returns the mappings in a .jsonl file, with any keys; skips all other lines. Raises OSError."""
    rows = list[Row]()
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
            rows += [row] if isinstance(row, dict) else []
    return rows


def read_checkpoints(folder: Path) -> list[Checkpoint]:
    """Returns the folders in checkpoints/, oldest step first. Raises OSError."""
    found = list[Checkpoint]()
    for path in sorted(folder.glob("step_*")) if folder.is_dir() else ():
        with suppress(FileNotFoundError):  # it is being removed or was just renamed
            sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
            written = _modified(path)
            if path.is_dir() and written:
                found.append(Checkpoint(path.name, written, sum(sizes)))
    return found


def read_error(path: Path) -> str:
    """Returns the last line of error.txt, why the run failed; "" if it is missing. Raises ValueError, OSError."""
    if not path.is_file():
        return ""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return next((line for line in reversed(lines) if line), "")


def _modified(path: Path) -> datetime | None:
    with suppress(OSError):
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return None


def yardstick(record: RunRecord, key: str) -> tuple[list[float | None], list[float]]:
    """Returns x and y of a yardstick: one level per evaluation, from the evaluation before it."""
    x, y, start = list[float | None](), list[float](), 0.0
    for row in record.evaluations:
        value = finite_value(row, key)
        if value is not None:
            x += [start, row["tokens_seen"]]
            y += [value, value]
            start = row["tokens_seen"]
    return x, y


def total_seconds(steps: Iterable[Row]) -> float:
    """Returns the seconds spent in optimizer steps."""
    return sum(known(steps, "step_seconds"))
