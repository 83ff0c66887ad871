"""Finds out what the words of the command name, and reads it; see `subject.py`."""

import json
import os
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data.printable import Mistakes
from model.at_step import AtStep
from model.huggingface.catalogue import family_of
from model.huggingface.wrappers import WRAPPERS, text_config
from train.advise.subject import Subject, of_model, of_schedule
from train.checkpointing.locate import CHECKPOINTS, locate
from train.checkpointing.state import STATE, read_state
from train.configuration.compose import compose_all
from train.configuration.description import default_schedule_note
from train.configuration.groups import groups, own_folder
from train.configuration.paths import start_folder
from train.configuration.typed import still_judged
from train.configuration.typed_model import typed_model
from train.configuration.validate import shape_rules
from train.schedule.rope_base import scheduled_base

_CONFIG, _MODEL = "config.yaml", "config.json"
# Larger than any config.json; a larger file is something else.
_MOST_BYTES = 16 * 1024 * 1024
_GIVE = (
    "give KEY=VALUE as for ropewalk train, a run's folder, a checkpoint, or a Hugging Face model"
)


@dataclass(frozen=True)
class Before:
    """Length in tokens and base that the model was trained at before; 0: as its stages or files say."""

    length: int = 0
    base: float = 0.0


def read_subject(words: Sequence[str], config_dir: str = "", before: Before = Before()) -> Subject:
    """Returns what the words name: KEY=VALUE of a run, or one path.

    Raises:
        Mistakes: the words, the configuration or the files are wrong.
    """
    paths = [word for word in words if names_a_path(word)]
    if not paths:
        return _of_arguments(words, config_dir, before)
    if len(words) > 1:
        other = next((word for word in words if word != paths[0]), paths[0])
        raise Mistakes(f"{other}: is given beside {paths[0]}; {_GIVE}, and only one of them")
    if config_dir:
        raise Mistakes(f"--config-dir={config_dir}: has no effect with {paths[0]}; drop it")
    try:
        return _of_path(Path(paths[0]), before)
    except Mistakes:
        raise
    except OSError as error:
        raise Mistakes(f"{paths[0]}: cannot be read ({error.strerror}); {_GIVE}") from None
    except (ValueError, RecursionError) as error:
        raise Mistakes(*(str(error).splitlines() or [f"{paths[0]}: cannot be read"])) from None


def names_a_path(word: str) -> bool:
    """Whether a word is a path and not an argument of a configuration: no key begins with a point or a slash."""
    return word.startswith((".", "/")) or not ("=" in word or word.startswith("~"))


def _of_arguments(words: Sequence[str], config_dir: str, before: Before) -> Subject:
    composed = compose_all(words, config_dir)
    found = list(composed.mistakes)
    schedule = None
    if composed.config is not None:
        schedule, rules = shape_rules(composed.config)
        found += [composed.origins.named(line) for line in still_judged(rules, composed.wrong)]
    if found or schedule is None or composed.config is None:
        raise Mistakes(*found)
    start = before.base or composed.config.schedule.start_base or schedule.at(0).rope_base
    length = before.length or composed.config.schedule.start_length or schedule.at(0).lengths[-1]
    source = "the configuration of a run"
    subject = of_schedule(composed.config.run_name, source, schedule, (start, length))
    choices = groups(own_folder(config_dir, start_folder()))["schedule"]
    return replace(subject, note=default_schedule_note(words, composed.config, schedule, choices))


def _of_path(path: Path, before: Before) -> Subject:
    run = path if path.name == _CONFIG else path / _CONFIG
    model = path if path.suffix == ".json" else path / _MODEL
    is_checkpoint = path.name == CHECKPOINTS or (path / STATE).exists()
    if run.is_file() and not is_checkpoint:
        subject = _of_arguments([f"experiment={run.absolute()}"], "", before)
        return replace(subject, source=f"the run {run.parent}")
    if model.is_file() and model.name != STATE and not is_checkpoint:
        return _of_released(model, before)
    if not path.exists():
        raise Mistakes(f"{path}: no such file or folder; {_GIVE}")
    return _of_checkpoint(path, before)


def _of_checkpoint(path: Path, before: Before) -> Subject:
    folder = locate(path)
    state = read_state(folder)
    model = typed_model(state.model, f"checkpoint {folder}")
    length = before.length or state.context_length
    lengths = tuple(n for n in state.lengths if n < length)
    _require(length, f"checkpoint {folder}")
    at = AtStep.of(model, scheduled_base(model, state.rope_base), (*lengths, length))
    start = (before.base or at.rope_base, length)
    return of_model(folder.name, f"the checkpoint {folder}", model, at, start)


def _of_released(file: Path, before: Before) -> Subject:
    try:
        content: Any = json.loads(_text(file, _MOST_BYTES))
    except ValueError as error:
        raise Mistakes(f"{file}: is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise Mistakes(f"{file}: must hold an object, as a config.json of Hugging Face does")
    try:
        if str(content.get("model_type")) in WRAPPERS:
            # Without the tensors it is unknown whether the head is one of them; nothing here depends on it but a count.
            content = text_config(content, has_head=True)
        imported = family_of(content).read(content)
        model = typed_model(asdict(imported.model), str(file))
    except ValueError as error:
        raise Mistakes(*(f"{file}: {line}" for line in str(error).splitlines())) from None
    length = before.length or imported.context_length
    _require(length, str(file))
    at = AtStep.of(model, imported.rope_base, (length,))
    name = file.resolve().parent.name if file.name == _MODEL else file.stem
    start = (before.base or at.rope_base, length)
    return of_model(name, f"the released model {name}, a {content['model_type']}", model, at, start)


def _require(length: int, where: str) -> None:
    if length < 1:
        raise Mistakes(
            f"{where}: does not say how long the model's texts were; give --trained-length N"
        )


def _text(path: Path, most_bytes: int) -> str:
    """Returns the text of a regular file.

    Raises:
        Mistakes: it is none, is too large, or is not UTF-8.
        OSError: it cannot be read.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
        raise Mistakes(f"{path}: is no regular file; {_GIVE}")
    with path.open("rb") as file:
        raw = file.read(most_bytes + 1)
    if len(raw) > most_bytes:
        raise Mistakes(f"{path}: is larger than {most_bytes // 1024} KiB; no such file is")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Mistakes(f"{path}: is not UTF-8 text; {_GIVE}") from None
