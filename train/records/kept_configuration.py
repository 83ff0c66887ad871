"""Keeps the text of the user's own configuration files in the run's folder, and reports what a later start changed.

outputs/RUN/configuration/GROUP/NAME.yaml                      as it was read
outputs/RUN/configuration/GROUP/NAME_before_step_NNNNNNNN.yaml of an earlier start, where the text differed
"""

import dataclasses
from collections.abc import Iterator, Mapping
from difflib import unified_diff
from itertools import islice
from pathlib import Path

from data.files import write_durably
from train.configuration.compose import from_yaml
from train.configuration.idle import flat
from train.configuration.keys import field_at
from train.configuration.paths import start_folder, with_absolute_paths
from train.configuration.resolved import resolved
from train.configuration.schema import RunConfig
from train.configuration.typed import default_of, plain
from train.configuration.wording import shown

KEPT = "configuration"
# Most changed keys and lines that are reported.
_MOST = 8


def keep_configuration(
    folder: Path, config: RunConfig, own_files: Mapping[str, str], step: int
) -> list[str]:
    """Keeps the texts of own files, by GROUP/NAME; returns the differences from an earlier start, a line each.

    Must be called before the earlier config.yaml is replaced.

    Raises:
        OSError: the folder cannot be written.
    """
    lines = [line for name, text in own_files.items() for line in _keep(folder, name, text, step)]
    changed = list(_changes(folder / "config.yaml", config))
    if changed:
        more = f" and {len(changed) - _MOST} more" if len(changed) > _MOST else ""
        shown_ones = ", ".join(changed[:_MOST])
        lines.append(f"changed since the start before: {shown_ones}{more}")
    return lines


def _keep(folder: Path, name: str, text: str, step: int) -> Iterator[str]:
    path = folder / KEPT / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        before = path.read_text(errors="replace")
        if before == text:
            return
        path.rename(path.with_name(f"{path.stem}_before_step_{step:08d}.yaml"))
        lines = unified_diff(before.splitlines(), text.splitlines(), n=0, lineterm="")
        told = [line for line in islice(lines, 2, None) if not line.startswith("@@")]
        more = f" and {len(told) - _MOST} more" if len(told) > _MOST else ""
        yield f"{KEPT}/{name}.yaml differs from the start before: {' | '.join(told[:_MOST])}{more}"
    write_durably(path, text)


def _changes(path: Path, config: RunConfig) -> Iterator[str]:
    """Yields the values that differ from an earlier config.yaml; none if there is none that can be read."""
    try:
        # An earlier version wrote paths as they were given.
        earlier = resolved(with_absolute_paths(from_yaml(path.read_text()), start_folder()))
    except (OSError, ValueError):
        return
    before, now = dict(flat(dataclasses.asdict(earlier))), dict(flat(dataclasses.asdict(config)))
    for key, value in {**before, **now}.items():
        if not (key in now and key in before) and _says_nothing(key, value):
            continue
        if key not in now:
            yield f"{key} is gone"
        elif before.get(key) != now[key]:
            was = shown(before[key]) if key in before else "nothing"
            yield f"{key}={shown(now[key])} (before: {was})"


def _says_nothing(key: str, value: object) -> bool:
    """Whether a value that only one of two configurations has is a default, or a mapping without entries."""
    field = field_at(key.split("."))
    return value == {} or (field is not None and plain(default_of(field)) == value)
