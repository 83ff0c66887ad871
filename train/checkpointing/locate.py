"""Finds the checkpoint that a path stands for. Every command that takes a checkpoint takes all of these:

outputs/RUN                              the newest complete checkpoint of the run
outputs/RUN/checkpoints                  the same
outputs/RUN/checkpoints/latest           the checkpoint that this file names (or links to)
outputs/RUN/checkpoints/step_00000123    this checkpoint
imported                                 this checkpoint, made by `python -m train.import_huggingface`
"""

import shlex
from pathlib import Path

from train.checkpointing.folder import LATEST, complete, is_named, latest, pointed
from train.checkpointing.state import INDEX, STATE

CHECKPOINTS = "checkpoints"
# Files that every run leaves in its folder.
_OF_A_RUN = ("config.yaml", "metrics.jsonl")
_GIVE = (
    "give a run's folder, its checkpoints/step_NNNNNNNN, or a folder that `ropewalk import` made"
)


def locate(named: Path) -> Path:
    """Returns the folder of the complete checkpoint that `named` stands for, without reading its files.

    Raises:
        ValueError: there is none; one line that begins with `named`.
    """
    try:
        found = _located(named)
    except OSError as error:
        raise ValueError(f"{named}: cannot be read ({error.strerror}); {_GIVE}") from error
    return found.resolve() if found.is_symlink() else found


def _located(named: Path) -> Path:
    if named.name == LATEST and named.is_file():
        return _of_pointer(named)
    if not named.is_dir():
        if named.is_symlink() and not named.exists():
            raise ValueError(f"{named}: links to {named.readlink()}, which is gone; {_GIVE}")
        raise ValueError(f"{named}: {'is a file' if named.exists() else 'no such folder'}; {_GIVE}")
    if named.suffix == ".partial":
        raise ValueError(
            f"{named}: is incomplete, a run is writing it or was stopped meanwhile; {_GIVE}"
        )
    if is_named(named) or any((named / name).exists() for name in (STATE, INDEX)):
        return named
    inside = named / CHECKPOINTS
    folder = inside if inside.is_dir() else named
    newest = latest(folder)
    if newest is None:
        raise ValueError(f"{named}: {_why_none(named, folder)}")
    return newest


def _of_pointer(file: Path) -> Path:
    name, there = pointed(file.parent), complete(file.parent)
    for checkpoint in there:
        if checkpoint.name == name:
            return checkpoint
    newest = f"; the newest there is {there[0].name}" if there else "; there is none"
    raise ValueError(f"{file}: names {name!a}, which is no complete checkpoint there{newest}")


def _why_none(named: Path, folder: Path) -> str:
    """Returns why there is no complete checkpoint in `folder`, and what to do."""
    entries = sorted(folder.iterdir())
    for mark, what in ((".partial", "incomplete"), (".damaged", "damaged")):
        if spoiled := [path.name for path in entries if mark in path.name and path.is_dir()]:
            return f"has {what} checkpoints only ({_some(spoiled)}); {_GIVE}"
    if any((run / file).is_file() for run in (named, folder.parent) for file in _OF_A_RUN):
        return "has no checkpoint yet; checkpoint.every_steps says when the run writes one"
    if (named / "config.json").is_file():
        return (
            "is a Hugging Face model's folder; make a checkpoint of it with `ropewalk import "
            f"--model {shlex.quote(str(named))} --output DIR`"
        )
    if runs := [path.name for path in entries if (path / CHECKPOINTS).is_dir()]:
        return f"holds runs ({_some(runs)}); give the folder of one"
    return f"is neither a checkpoint nor a run's folder; {_GIVE}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
