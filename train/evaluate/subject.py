"""One model to evaluate: its configuration as a run of one stage, where its weights come from, and its text.

checkpoint     state.json -> model, base, lengths     data and tokenizer: of the run's config.yaml, if it is there
Hugging Face   config.json -> the same                tokenizer: the one in the folder
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from data.config import DataConfig
from data.files import seal, write_durably
from data.prompts.catalogue import TASKS
from parallel.checkpoint.index import Index
from parallel.checkpoint.tensor_files import map_tensors
from parallel.checkpoint.tensors import compare_sizes
from parallel.mesh import Mesh
from train.checkpointing.checkpoint import verify
from train.checkpointing.locate import locate
from train.checkpointing.state import FORMAT, INDEX, STATE, RunState, read_index, read_state
from train.configuration.compose import compose_run, from_yaml
from train.configuration.schema import RunConfig, StageConfig
from train.configuration.yaml_file import read_yaml
from train.evaluate.options import OF_RUN, EvaluateOptions
from train.huggingface.conversion import to_ours
from train.huggingface.import_model import OpenedModel, open_model
from train.records.evaluation_rows import ACCURACY, LONG_PERPLEXITY
from train.schedule.stages import Point, build_schedule

Whole = Callable[[str], Tensor]
_STAGE = "evaluate"


@dataclass(frozen=True)
class Subject:
    """A model to evaluate.

    label: short, different for every model of a call. folder: that was named, or its checkpoint. sha256: tells its
    files from those of another model. whole: returns a whole float32 parameter by its name; called on every rank.
    """

    kind: str
    label: str
    folder: Path
    state: RunState
    sha256: str
    whole: Whole

    @property
    def trained_length(self) -> int:
        """Length that the model was trained at, or that its config.json states, in tokens; 0: unknown."""
        return self.state.context_length

    @property
    def facts(self) -> dict[str, Any]:
        """What tells the model from others, for the folder of its results."""
        return {
            "kind": self.kind,
            "path": str(self.folder.resolve()),
            "step": self.state.step,
            "sha256": self.sha256,
        }

    def verify(self, mesh: Mesh, tell: Callable[[str], None]) -> None:
        """Checks every byte of a checkpoint; a Hugging Face model has no checksums. Collective. tell: says progress.

        Raises:
            ValueError: on every rank: a file is damaged.
        """
        if self.kind == "checkpoint":
            verify(self.folder, mesh, tell)


def open_subject(kind: str, path: Path, label: str) -> Subject:
    """Opens a checkpoint or the folder of a Hugging Face model, without reading a tensor.

    Raises:
        ValueError: it is not one, cannot be read, or a file is missing or has another size.
        OSError: a file cannot be read.
    """
    if kind == "model":
        opened = open_model(path)
        return Subject(kind, label, path, opened.state, _sha256(path), _of_huggingface(opened))
    folder = locate(path)
    state, index = read_state(folder), read_index(folder)
    compare_sizes(folder, index)
    sha256 = hashlib.sha256((folder / INDEX).read_bytes()).hexdigest()
    return Subject(kind, label, folder, state, sha256, _of_checkpoint(folder, index))


def configuration_of(subject: Subject, options: EvaluateOptions, world_size: int) -> RunConfig:
    """Returns the configuration of an evaluation of this model, by the user's changes.

    Raises:
        ValueError: all mistakes, one line each.
    """
    with TemporaryDirectory() as folder:
        state = Path(folder) / STATE
        write_durably(state, seal({"format": FORMAT, **asdict(subject.state)}))
        arguments = [
            "model=from_huggingface",
            f"checkpoint.resume={_flow(folder)}",
            f"run_name={_flow(subject.label)}",
            *_data_arguments(subject),
            *_task_arguments(subject, options),
            *options.changes,
        ]
        config = compose_run(arguments)
    if options.output is not None:
        config.paths.outputs = str(options.output.absolute())
    config.checkpoint.resume = "never"  # of the folder only the state was read
    parallel = config.parallel
    multiple = 2 * parallel.tensor * parallel.sequence
    length = max(options.lengths, default=subject.trained_length)
    length = -(-max(length, 8) // multiple) * multiple
    config.schedule.stages = {
        _STAGE: StageConfig(
            tokens=length * world_size,
            sequence_length=length,
            batch_tokens=length * world_size,
            micro_batch_tokens=length,
        )
    }
    return config


def point_of(subject: Subject, config: RunConfig) -> Point:
    """Returns the step that is evaluated: the settings of attention and the lengths that the model was trained at."""
    schedule, mistakes = build_schedule(config)
    if schedule is None:
        raise ValueError("\n".join(mistakes))
    point = schedule.at(0)
    known = tuple(subject.state.lengths) or (subject.trained_length,)
    return replace(point, lengths=known) if known[-1] else point


def data_warning(subject: Subject, changes: Sequence[str]) -> str:
    """Returns that token files of the checkpoint's run are gone; empty if they are there, or others are given."""
    run = _run_of(subject)
    missing = [] if run is None else run.data.missing()
    if not missing or any(change.startswith("data.") for change in changes):
        return ""
    return f"{subject.label}: evaluated without the documents of its run: {missing[0]}"


def _run_of(subject: Subject) -> RunConfig | None:
    """Returns the configuration of the run that made a checkpoint; None if there is none beside it.

    Raises:
        ValueError: it is damaged.
    """
    settings = subject.folder.parent.parent / "config.yaml"
    if subject.kind != "checkpoint" or not settings.is_file():
        return None
    try:
        read_yaml(settings)  # says what is wrong in one line
        return from_yaml(settings.read_text())
    except ValueError as error:
        line = str(error).partition("\n")[0]
        raise ValueError(
            f"{settings}: is no configuration ({line}); restore it, or move it away and give data.tokenizer=PATH"
        ) from error


def _data_arguments(subject: Subject) -> list[str]:
    """Returns the data of the run that made a checkpoint, or a source that stands for none."""
    run = _run_of(subject)
    if run is not None and not run.data.missing():
        data = {key: value for key, value in asdict(run.data).items() if key != "seed"}
        # One argument for each source: an argument may not be longer than some thousand characters.
        sources = data.pop("sources")
        data |= {f"sources.{name}": one for name, one in sources.items()}
        found = [f"data.{key}={_flow(value)}" for key, value in data.items()]
        if run.data.corpus:
            found.append(f"paths.prepared={_flow(run.paths.prepared)}")
        return found
    usual = DataConfig()
    return [
        f"data.corpus={_flow(usual.corpus)}",
        "data.sources={none: {generated: {task: uniform, ids: 2, heldout: 0}}}",
    ]


def _parts(length: int) -> list[int]:
    """Returns a quarter, a half and the whole of a length that a model was trained at."""
    return sorted({max(8, length // part) for part in (4, 2, 1)})


def _task_arguments(subject: Subject, options: EvaluateOptions) -> list[str]:
    lengths = {"lengths": list(options.lengths)} if options.lengths else {}
    settings = options.of_tasks | lengths
    names = [name for name in options.tasks if name not in OF_RUN]
    # A number of depths is for the tasks that have any; if none has, it is a mistake.
    flat = {name for name in names if not TASKS[name].has_depth}
    flat = flat if len(flat) < len(names) else set()
    found = [
        f"evaluation.tasks.{name}={_flow({'task': name, **_without_depths(settings, name in flat)})}"
        for name in names
    ]
    if LONG_PERPLEXITY in options.tasks:
        found.append(f"evaluation.long_perplexity={_flow({'form': 'windowed'})}")
    if ACCURACY in options.tasks:
        asked = options.lengths or _parts(subject.trained_length)
        found.append(f"evaluation.accuracy.lengths={_flow(asked)}")
    return found


def _without_depths(settings: Mapping[str, Any], flat: bool) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if not (flat and key == "depths")}


def _flow(value: Any) -> str:
    """Returns a value as the command line has it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return json.dumps(value)


def _of_checkpoint(folder: Path, index: Index) -> Whole:
    def whole(name: str) -> Tensor:
        key = f"weight/{name}"
        record = index["tensors"].get(key)
        if record is None:
            raise ValueError(f"{folder}: has no {key}; give a complete checkpoint")
        shape = torch.Size(record["shape"])
        return map_tensors(folder / record["file"], {key: shape})[key]

    return whole


def _sha256(folder: Path) -> str:
    """Returns a checksum of config.json, and of names, sizes and times of the files with tensors."""
    found = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        facts = path.stat()
        found.update(f"{path.name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return found.hexdigest()


def _of_huggingface(opened: OpenedModel) -> Whole:
    conversions = to_ours(opened.links)
    number_of = {name: number for number, one in enumerate(conversions) for name in one.targets}

    # The targets of a link are asked for one after the other.
    @lru_cache(1)
    def of_link(number: int) -> dict[str, Tensor]:
        one = conversions[number]
        made = one.convert([opened.source.read(name) for name in one.sources])
        return {name: tensor.float() for name, tensor in zip(one.targets, made, strict=True)}

    return lambda name: of_link(number_of[name])[name]
