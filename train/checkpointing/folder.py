"""Which folders are checkpoints.

    checkpoints/step_00000123/           complete
    checkpoints/step_00000123.partial/   being written, or on its way out; never read
    checkpoints/step_00000123.damaged/   failed its checksums; kept for a person to look at, never read
    checkpoints/latest                   names the newest complete one, for people and scripts

The folders themselves are the truth, `latest` only repeats it: nothing that may stand in that file can
lead a run astray.
"""

import re
from pathlib import Path

_COMPLETE = re.compile(r"step_(\d{8,})")
LATEST = "latest"


def named(step: int) -> str:
    """The folder's name of a complete checkpoint."""
    return f"step_{step:08d}"


def step_of(checkpoint: Path) -> int:
    """The step that a complete checkpoint's name says.

    Raises:
        ValueError: it is no name of a complete checkpoint.
    """
    match = _COMPLETE.fullmatch(checkpoint.name)
    if match is None:
        raise ValueError(f"{checkpoint}: not the name of a checkpoint, like {named(123)}")
    return int(match[1])


def is_named(path: Path) -> bool:
    """Whether a path has the name of a complete checkpoint."""
    return _COMPLETE.fullmatch(path.name) is not None


def complete(folder: Path) -> list[Path]:
    """The complete checkpoints under `folder`, newest first."""
    found = [path for path in folder.glob("step_*") if is_named(path)]
    return sorted((path for path in found if path.is_dir()), key=step_of, reverse=True)


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint, if there is one."""
    return next(iter(complete(folder)), None)


def find_before(folder: Path, step: int) -> Path | None:
    """The newest complete checkpoint of a step before `step`, if there is one."""
    return next((path for path in complete(folder) if step_of(path) < step), None)


def had_any(folder: Path) -> bool:
    """Whether a checkpoint was ever complete here, even if none is left."""
    return (folder / LATEST).exists() or any(folder.glob("step_*.damaged*"))


def set_aside(checkpoint: Path) -> Path:
    """Rename a damaged checkpoint so that it never counts again; returns where it is kept."""
    kept = checkpoint.with_name(f"{checkpoint.name}.damaged")
    number = 2
    while kept.exists():
        kept = checkpoint.with_name(f"{checkpoint.name}.damaged-{number}")
        number += 1
    return checkpoint.rename(kept)


def pointed(folder: Path) -> str:
    """What the file `latest` says, which may be anything. Raises OSError: it cannot be read."""
    with (folder / LATEST).open("rb") as file:
        content = file.read(100)
    return content.decode("ascii", "backslashreplace").strip()


def pointer_problem(folder: Path) -> str:
    """What is wrong with `latest`, in one line; empty if nothing is, or if it is not there."""
    path = folder / LATEST
    if not path.exists():
        return ""
    if not path.is_file():
        return f"{path} is not a file"
    name = pointed(folder)
    if name in {found.name for found in complete(folder)}:
        return ""
    return f"{path} says {name!a}, which is no complete checkpoint here"
