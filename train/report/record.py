"""A run's own files, read into one record: configuration, a row per step, a row per evaluation.

A run may have been killed at any moment, so a file may be missing and the last line of a log may be
torn; anything else that is broken is an error that names its line.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped,unused-ignore]

from model.layer_pattern import LAYER_KINDS, LayerKind
from train.records.evaluation_rows import HELD_OUT, rows_of_task

Row = dict[str, Any]

NUM_COLOURS = 6  # --stage0 ... --stage5 in the page's style sheet
REQUIRED = ("step", "stage", "tokens_seen")  # of every line in either log


@dataclass(frozen=True)
class RunRecord:
    """A run as its files tell it. steps: the rows of metrics.jsonl; evaluations: those of held-out loss."""

    name: str
    config: Row = field(default_factory=dict)
    steps: tuple[Row, ...] = ()
    evaluations: tuple[Row, ...] = ()
    summary: Row = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def planned_stages(self) -> dict[str, Row]:
        """The configured stages by name, in order; empty where the configuration does not tell."""
        schedule = self.config.get("schedule")
        stages = schedule.get("stages") if isinstance(schedule, dict) else None
        rows = stages.items() if isinstance(stages, dict) else ()
        return {str(name): row if isinstance(row, dict) else {} for name, row in rows}

    @property
    def stage_names(self) -> tuple[str, ...]:
        """All stages: the configured ones in order, then any other the logs mention."""
        seen = [str(row["stage"]) for row in (*self.steps, *self.evaluations)]
        return tuple(dict.fromkeys([*self.planned_stages, *seen]))

    @property
    def layer_kinds(self) -> dict[str, LayerKind]:
        """Every kind of layer that the configuration has, by its name, as the one of the four that it is like."""
        model = self._model
        pattern, kinds = model.get("layer_pattern"), model.get("kinds")
        declared = kinds if isinstance(kinds, dict) else {}
        found = {}
        for name in pattern if isinstance(pattern, list) else ():
            settings = declared.get(name)
            like = settings.get("like") if isinstance(settings, dict) else ""
            if (like or name) in LAYER_KINDS:
                found[name] = LAYER_KINDS[like or name]
        return found

    @property
    def windows(self) -> dict[str, float]:
        """Keys that a token of every windowed kind of layer sees, by the kind's name."""
        declared = self._model.get("kinds")
        found = {}
        for name in (name for name, kind in self.layer_kinds.items() if kind.windowed):
            settings = declared.get(name) if isinstance(declared, dict) else None
            own = finite_value(settings, "window") if isinstance(settings, dict) else None
            window = own or finite_value(self._model, "window")
            if window:
                found[name] = window
        return found

    @property
    def _model(self) -> Row:
        model = self.config.get("model")
        return model if isinstance(model, dict) else {}

    def steps_of(self, stage: str) -> list[Row]:
        return [row for row in self.steps if str(row["stage"]) == stage]

    def last_evaluation(self, stage: str) -> Row:
        """The stage's newest evaluation; {} where there is none."""
        return next((row for row in reversed(self.evaluations) if str(row["stage"]) == stage), {})

    def colour(self, stage: str) -> str:
        return f"@stage{self.stage_names.index(stage) % NUM_COLOURS}"

    def dash(self, stage: str) -> str:
        """Solid for the first round of colours; a second round is told apart by its dashes."""
        cycle = ("solid", "dash", "dot", "dashdot")
        return cycle[self.stage_names.index(stage) // NUM_COLOURS % len(cycle)]

    def spans(self) -> list[tuple[str, float, float]]:
        """(stage, tokens seen before its first step, and after its last), in order."""
        spans, start = [], 0.0
        for stage, rows in groupby(self.steps, key=lambda row: str(row["stage"])):
            end = float(list(rows)[-1]["tokens_seen"])
            spans.append((stage, start, end))
            start = end
        return spans


def read_run(run_folder: Path) -> RunRecord:
    """The record of outputs/<run_name>/.

    Raises ValueError where the folder is not a run's, or where a file is broken anywhere but in a
    log's last line.
    """
    paths = [run_folder / name for name in ("config.yaml", "metrics.jsonl", "evaluation.jsonl")]
    if not any(path.is_file() for path in paths):
        raise ValueError(
            f"run_folder={run_folder}: holds no config.yaml, metrics.jsonl or evaluation.jsonl; "
            "give the folder of a run, such as outputs/RUN_NAME"
        )
    config = read_mapping(paths[0])
    steps, steps_torn = read_log(paths[1])
    evaluations, evaluations_torn = read_log(paths[2])
    torn = [
        path.name
        for path, cut in zip(paths[1:], (steps_torn, evaluations_torn), strict=True)
        if cut
    ]
    return RunRecord(
        name=str(config.get("run_name") or run_folder.resolve().name),
        config=config,
        steps=tuple(steps),
        evaluations=tuple(rows_of_task(evaluations, HELD_OUT)),
        summary=read_mapping(run_folder / "summary.json"),
        notes=tuple(f"The last line of {name} was cut off and is left out." for name in torn),
    )


def read_mapping(path: Path) -> Row:
    """A YAML (or JSON) file that holds a mapping; {} where there is no such file or it is empty."""
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as YAML ({error}); restore or delete it") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a mapping; restore it")
    return content


def read_log(path: Path) -> tuple[list[Row], bool]:
    """The rows of a .jsonl file, and whether its last line was torn (killed while writing)."""
    if not path.is_file():
        return [], False
    lines = [(i, line) for i, line in enumerate(path.read_bytes().split(b"\n"), 1) if line.strip()]
    rows = list[Row]()
    for number, line in lines:
        try:
            row = json.loads(line.decode("utf-8"))
        except ValueError as error:  # broken JSON or broken UTF-8
            if number == lines[-1][0]:
                return rows, True
            raise ValueError(
                f"{path} line {number}: not a JSON object ({error}); repair or delete that line"
            ) from error
        missing = [key for key in REQUIRED if not isinstance(row, dict) or row.get(key) is None]
        if missing:
            raise ValueError(
                f"{path} line {number}: lacks {', '.join(missing)}; repair or delete that line"
            )
        rows.append(row)
    return rows, False


def finite_value(row: Row, key: str) -> float | None:
    """row[key] as a float; None where it is absent, not a number, NaN or infinite."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def known(rows: Iterable[Row], key: str) -> list[float]:
    """The finite values of one key."""
    return [value for row in rows if (value := finite_value(row, key)) is not None]


def spiked(row: Row) -> bool:
    """Whether a step's loss was above the limit of train.spikes."""
    loss, limit = finite_value(row, "loss"), of_spikes(row, "limit")
    return loss is not None and limit is not None and loss > limit


def of_spikes(row: Row, key: str) -> float | None:
    """What a step's row says about spikes; None where nobody looked for them."""
    spikes = row.get("spikes")
    return finite_value(spikes, key) if isinstance(spikes, dict) else None


def weighted_mean(rows: Iterable[Row], key: str, weight: str) -> float | None:
    """Mean of `key` weighted by `weight`, over the rows that have both; None where none has."""
    pairs = [(finite_value(row, key), finite_value(row, weight)) for row in rows]
    whole = [(value, share) for value, share in pairs if value is not None and share]
    total = sum(share for _, share in whole)
    return sum(value * share for value, share in whole) / total if total else None


def short_number(value: float, digits: int = 3) -> str:
    """A number as people say it: 950, 12.4k, 1.2M, 3B."""
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * 0.9995:
            return f"{value / limit:.{digits}g}{suffix}"
    return f"{value:.{digits}g}"


def length_label(tokens: float) -> str:
    """A context length: 256, 4096, then 16k, 128k in units of 1024."""
    whole = round(tokens)
    return f"{whole // 1024}k" if whole >= 10_000 and whole % 1024 == 0 else str(whole)


def rounded(value: float | None) -> float | None:
    """Six significant digits: enough to draw, half the size of the file."""
    return None if value is None else float(f"{value:.6g}")


def yardstick(record: RunRecord, key: str) -> tuple[list[float | None], list[float]]:
    """A yardstick as one level per evaluation, held back to the evaluation before."""
    x, y, start = list[float | None](), list[float](), 0.0
    for row in record.evaluations:
        value = finite_value(row, key)
        if value is not None:
            x += [start, row["tokens_seen"]]
            y += [value, value]
            start = row["tokens_seen"]
    return x, y
