"""The folder of one model's results: what earlier calls left there, and new rows.

OUTPUT/LABEL/evaluation.jsonl   a row for each task, as in a run's folder
OUTPUT/LABEL/config.yaml        the settings of all these tasks
OUTPUT/LABEL/evaluated.json     which model they are of

A task that the folder has is not evaluated again. A folder with results of another model or with other settings is
refused, and so is one that this command did not make.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from data.files import reason, write_durably
from train.configuration.compose import from_yaml, to_yaml
from train.configuration.schema import RunConfig
from train.configuration.yaml_file import read_yaml
from train.records.evaluation_rows import ACCURACY, LONG_PERPLEXITY, read_evaluations

Row = dict[str, Any]
_MODEL, _ROWS, _SETTINGS = "evaluated.json", "evaluation.jsonl", "config.yaml"
_OTHER = "give another folder, or remove it"


@dataclass
class Results:
    """The rows of one model. folder: None: they are not written. model: what tells it from others."""

    folder: Path | None
    config: RunConfig
    model: Mapping[str, Any]
    rows: list[Row] = field(default_factory=list)

    def row_of(self, task: str) -> Row | None:
        """Returns the row of a task that was evaluated before."""
        return next((row for row in self.rows if row.get("task") == task), None)

    def add(self, row: Row) -> None:
        """Adds a row, and writes all: a stopped command loses one task at most.

        Raises:
            OSError: the folder cannot be written.
        """
        self.rows.append(row)
        self.write()

    def write(self) -> None:
        """Writes all files of the folder.

        Raises:
            OSError: the folder cannot be written.
        """
        if self.folder is None:
            return
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in self.rows)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_durably(self.folder / _MODEL, json.dumps(dict(self.model), indent=1) + "\n")
            write_durably(self.folder / _SETTINGS, to_yaml(self.config))
            write_durably(self.folder / _ROWS, lines)
        except OSError as error:
            raise OSError(f"--output: cannot write {self.folder} ({error.strerror})") from error


def open_results(folder: Path | None, config: RunConfig, model: Mapping[str, Any]) -> Results:
    """Returns the results of a model so far; writes the folder, so that one that cannot be written is known at once.

    Raises:
        ValueError: the folder holds something else; one line.
        OSError: the folder cannot be read or written.
    """
    results = Results(folder, config, model)
    if folder is None:
        return results
    try:
        found = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        found = []
    except OSError as error:
        raise OSError(f"--output: cannot read {folder} ({error.strerror})") from error
    if found:
        if _MODEL not in found:
            raise ValueError(f"--output: {folder} holds files of something else; {_OTHER}")
        results = _continued(folder, config, model)
    results.write()
    return results


def _continued(folder: Path, config: RunConfig, model: Mapping[str, Any]) -> Results:
    """Returns the results in a folder of this model, with these settings and those of its other tasks."""
    try:
        kept_model = json.loads((folder / _MODEL).read_text())
        read_yaml(folder / _SETTINGS)
        kept = from_yaml((folder / _SETTINGS).read_text())
    except (OSError, ValueError) as error:
        what = reason(error) if isinstance(error, OSError) else "damaged"
        raise ValueError(
            f"--output: results in {folder} cannot be continued ({what}); {_OTHER}"
        ) from error
    if kept_model != dict(model):
        raise ValueError(f"--output: {folder} holds results of another model; {_OTHER}")
    rows = read_evaluations(folder / _ROWS)
    done = {str(row.get("task")) for row in rows}
    if keys := _differing(kept, config, done):
        more = ", ..." if len(keys) > 3 else ""
        raise ValueError(
            f"--output: {folder} holds results with other settings of {', '.join(keys[:3])}{more}; {_OTHER}"
        )
    evaluation, old = config.evaluation, kept.evaluation
    tasks = {name: one for name, one in old.tasks.items() if name in done} | evaluation.tasks
    merged = replace(
        evaluation,
        tasks=tasks,
        accuracy=old.accuracy if ACCURACY in done else evaluation.accuracy,
        long_perplexity=old.long_perplexity
        if LONG_PERPLEXITY in done
        else evaluation.long_perplexity,
    )
    return Results(folder, replace(config, evaluation=merged), model, rows)


def _differing(kept: RunConfig, config: RunConfig, done: set[str]) -> list[str]:
    """Returns the keys whose values differ: of the whole, and of those of the asked tasks that are done."""
    before, now = _flat(asdict(kept)), _flat(asdict(config))
    own = {f"evaluation.tasks.{name}": name for name in config.evaluation.tasks}
    if config.evaluation.accuracy.lengths:
        own |= {"evaluation.accuracy": ACCURACY}
    if config.evaluation.long_perplexity is not None:
        own |= {"evaluation.long_perplexity": LONG_PERPLEXITY}

    def counts(key: str) -> bool:
        if not key.startswith(
            ("evaluation.tasks", "evaluation.accuracy", "evaluation.long_perplexity")
        ):
            return True
        return any(key.startswith(f"{start}.") and task in done for start, task in own.items())

    keys = list(dict.fromkeys([*before, *now]))
    keys.remove("paths.outputs")  # the folder may be moved
    return [key for key in keys if before.get(key) != now.get(key) and counts(key)]


def _flat(content: Mapping[str, Any], head: str = "") -> dict[str, Any]:
    found = dict[str, Any]()
    for key, value in content.items():
        found |= (
            _flat(value, f"{head}{key}.")
            if isinstance(value, Mapping) and value
            else {f"{head}{key}": value}
        )
    return found
