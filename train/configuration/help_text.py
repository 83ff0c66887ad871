"""`python -m train --help`: the groups, the keys that matter, the commands around a run."""

from dataclasses import fields
from pathlib import Path

from train.configuration.groups import CONF, groups
from train.configuration.schema import RunConfig, StageConfig

_USAGE = """\
Ropewalk: pretrain long-context language models through stages of growing length.

  python -m train [GROUP=CHOICE ...] [KEY=VALUE ...]             one process
  torchrun --standalone --nproc-per-node N -m train ...          N processes of one host

  python -m train experiment=quickstart                          the main job, small (as `make train`)
  python -m train experiment=quickstart run_name=long_tail schedule.stages.long.tokens=2e6
  python -m train experiment=quickstart model=125m recipe=full_rope train.device=cuda

Flags
  --print    show the resolved configuration and stop       --check    validate it and stop
  --folder   validate it, name the run's folder and stop
  --preflight    under any launcher: look at every host and link, and stop

The same command goes on where a run stopped. The command line wins over the files in conf/.
A stage is a row of schedule.stages: +schedule.stages.longer={tokens: 1e6, ...} adds one,
~schedule.stages.short removes one.
"""

_AFTER = """
After a run
  outputs/RUN_NAME/report.html       what it did, to look at
  python -m train.report RUN_FOLDER  write that again
  python -m data.prepare --help      token files from your own documents
"""


def help_text() -> str:
    """The whole page."""
    lines = [_USAGE, "Groups (files in conf/)"]
    for group, choices in groups().items():
        lines.append(f"  {group}=")
        lines += [
            f"    {choice:<16} {_about(CONF / group / f'{choice}.yaml')}" for choice in choices
        ]
    lines += ["", "Keys (KEY=VALUE; every key with its value: --print)"]
    for field in fields(RunConfig):
        inner = getattr(field.type, "__dataclass_fields__", None)
        names = ", ".join(inner) if inner else ""
        lines.append(f"  {field.name}{': ' + names if names else ''}")
    lines.append(f"  schedule.stages.NAME: {', '.join(f.name for f in fields(StageConfig))}")
    return "\n".join(lines) + "\n" + _AFTER


def _about(path: Path) -> str:
    """The first comment of a YAML file that is not Hydra's own."""
    for line in path.read_text().splitlines():
        if line.startswith("#") and "@package" not in line:
            return line.removeprefix("#").strip()
    return ""
