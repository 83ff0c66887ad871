"""The names of checkpoint folders.

    checkpoints/step_00000123/           complete
    checkpoints/step_00000123.partial/   being written or removed; never read
    checkpoints/step_00000123.damaged/   failed its checksums; kept for inspection, never read
    checkpoints/latest                   names the newest complete one, for people and scripts

A run looks at the folders only; it does not depend on the content of `latest`.
"""

import re
from pathlib import Path

_COMPLETE = re.compile(r"step_(\d{8,})")
LATEST = "latest"


def named(step: int) -> str:
    """Returns the folder name of the complete checkpoint of a step."""
    return f"step_{step:08d}"


def step_of(checkpoint: Path) -> int:
    """Returns the step in the name of a complete checkpoint.

    Raises:
        ValueError: the name is not that of a complete checkpoint.
    """
    match = _COMPLETE.fullmatch(checkpoint.name)
    if match is None:
        raise ValueError(f"{checkpoint}: not the name of a checkpoint, like {named(123)}")
    return int(match[1])


def is_named(path: Path) -> bool:
    """Whether a path has the name of a complete checkpoint."""
    return _COMPLETE.fullmatch(path.name) is not None


def complete(folder: Path) -> list[Path]:
    """Returns the complete checkpoints in `folder`, newest first."""
    found = [path for path in folder.glob("step_*") if is_named(path)]
    return sorted((path for path in found if path.is_dir()), key=step_of, reverse=True)


def latest(folder: Path) -> Path | None:
    """Returns the newest complete checkpoint, if there is one."""
    return next(iter(complete(folder)), None)


def find_before(folder: Path, step: int) -> Path | None:
    """Returns the newest complete checkpoint of a step before `step`, if there is one."""
    return next((path for path in complete(folder) if step_of(path) < step), None)


def had_any(folder: Path) -> bool:
    """Whether the folder once had a complete checkpoint, even if none is left."""
    return (folder / LATEST).exists() or any(folder.glob("step_*.damaged*"))


def set_aside(checkpoint: Path) -> Path:
    """Renames a damaged checkpoint so that it is never read again; returns its new path."""
    kept = checkpoint.with_name(f"{checkpoint.name}.damaged")
    number = 2
    while kept.exists():
        kept = checkpoint.with_name(f"{checkpoint.name}.damaged-{number}")
        number += 1
    return checkpoint.rename(kept)


def pointed(folder: Path) -> str:
    """Returns the content of the file `latest`, unchecked. Raises OSError if it cannot be read."""
    with (folder / LATEST).open("rb") as file:
        content = file.read(100)
    return content.decode("ascii", "backslashreplace").strip()


def pointer_problem(folder: Path) -> str:
    """Returns what is wrong with `latest`, in one line; empty if nothing, or if the file does not exist."""
    path = folder / LATEST
    if not path.exists():
        return ""
    if not path.is_file():
        return f"{path} is not a file"
    name = pointed(folder)
    if name in {found.name for found in complete(folder)}:
        return ""
    return f"{path} says {name!a}, which is no complete checkpoint here"
