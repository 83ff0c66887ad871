"""The text of `--help`: the groups, every key with its description, default and choices, the related commands.

`--help TOPIC` prints one part: a group, a section, or one key.
"""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from train.configuration.groups import file_of, groups
from train.configuration.help_keys import Key, all_keys
from train.configuration.nearest import did_you_mean

COLUMNS = 80
_USAGE = """\
Ropewalk: pretrain long-context language models through stages of growing length

  ropewalk train [GROUP=CHOICE ...] [KEY=VALUE ...]      one process
  ropewalk torchrun --nproc-per-node N -- KEY=VALUE ...  N processes of one host

  ropewalk train experiment=quickstart                   the main job, small
  ropewalk train experiment=quickstart schedule.stages.long.tokens=2e6
  ropewalk train experiment=quickstart model=125m train.device=cuda

ropewalk works in any folder (.venv/bin/ropewalk, or launch/ropewalk.py);
python -m train is the same in the checkout's own folder.

Flags
  --print       show the resolved configuration and stop
  --check       check it, print stages, steps and memory of a rank, and stop
  --folder      check it, print the run's folder and stop
  --preflight   under any launcher: check every host and link, and stop
  --help TOPIC  a part of this page: a group or section (schedule, checkpoint),
                or a key (train.precision)
  --config-dir DIR  find names in DIR/GROUP/NAME.yaml too
  --version; --shell-completion install=bash: eval "$(...)" completes in bash

The same command resumes a run that was stopped. CHOICE is a name or the path of
a file (schedule=own.yaml). The command line overrides all files. Relative paths
start at the current folder, in a file at the folder of that file.
A stage is a row of schedule.stages: ~schedule.stages.short removes one,
+schedule.stages.longer={tokens: 1e6, ...} adds one.
"""

_AFTER = """\
Before a run
  ropewalk advise KEY=VALUE ...      formulas on bases, lengths and cost
  ropewalk prepare --help            token files from your own documents

After a run
  outputs/RUN_NAME/report.html       curves and tables of the run
  ropewalk report RUN [RUN ...]      write the page again; compare several runs

Shorter: --help SECTION or --help KEY.
"""


def help_text(topics: Sequence[str] = (), own: Path | None = None) -> str:
    """Returns the whole page, or its parts about the topics: groups, sections and keys.

    own: the folder of --config-dir.

    Raises:
        ValueError: a topic is neither a group, a section nor a key; one line.
    """
    parts = [_part(topic.partition("=")[0].lstrip("+~"), own) for topic in topics]
    if parts:
        return "\n".join(parts) + "\n"
    chosen = "\n".join(_group(group, own) for group in groups())
    keys = "\n".join(_key(key) for key in all_keys())
    titles = "Groups: GROUP=CHOICE (files in conf/)", "Keys: KEY=VALUE, here with their defaults"
    return "\n".join([_USAGE, f"{titles[0]}\n{chosen}", f"{titles[1]}\n{keys}\n", _AFTER])


def _part(topic: str, own: Path | None) -> str:
    keys = [key for key in all_keys() if key.is_below(topic)]
    found = [_group(topic, own)] if topic in groups() else []
    found += [_key(key) for key in keys]
    if not found:
        known = [*groups(), *(key.name for key in all_keys())]
        raise ValueError(
            f"--help {topic}: there is no such group, section or key{did_you_mean(topic, known)}"
        )
    return "\n".join(found)


def _group(group: str, own: Path | None) -> str:
    lines = [f"  {group}="]
    for choice in groups(own)[group]:
        head = f"    {choice:<19} "
        lines.append(_filled(about(file_of(group, choice, own)), head, " " * len(head)))
    return "\n".join(lines) + "\n"


def _key(key: Key) -> str:
    lines = [f"  {key.name}{key.default}", _filled(key.sentence, " " * 6, " " * 6)]
    if key.allowed:
        lines.append(_filled(f"Allowed: {key.allowed}", " " * 6, " " * 8))
    return "\n".join(lines)


def _filled(text: str, first: str, rest: str) -> str:
    return textwrap.fill(
        text, COLUMNS, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    )


def about(path: Path) -> str:
    """Returns the first comment of a file, without the commands in it."""
    try:
        return " ".join(_sentences(path))
    except (OSError, UnicodeDecodeError):  # reported when the file is chosen
        return ""


def _sentences(path: Path) -> Iterator[str]:
    for line in path.read_text().splitlines():
        if line.startswith("#") and "@package" not in line:
            if line.startswith("#  "):
                return
            yield line.removeprefix("#").strip()
        elif not line.startswith("#"):
            return
