"""This checkout: its version, and whether `model`, `data` and `parallel` are its own and not another distribution's.

Needed by the commands of train/ alone: the commands of data/ import no other package of ours.
"""

import importlib.util
import sys
import tomllib
from pathlib import Path

PACKAGES = ("model", "data", "parallel", "train")
ROOT = Path(__file__).resolve().parents[2]


def version() -> str:
    """The version that pyproject.toml states."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def strangers(root: Path) -> list[str]:
    """One line for every package that would be imported from outside `root`."""
    found = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        where = Path(spec.origin).resolve() if spec and spec.origin else None
        if where is None or root not in where.parents:
            found.append(
                f"package {name}: would be imported from {where}, not from {root}; start "
                f"`ropewalk train ...` (ropewalk is {root}/launch/ropewalk.py, and make setup puts it into .venv/bin)"
            )
    return found


def refuse_strangers() -> None:
    """End this program, with status 2 and a line each, where a package of ours would be another's."""
    found = strangers(ROOT)
    if found:
        sys.stderr.write("\n".join(found) + "\n")
        sys.exit(2)
