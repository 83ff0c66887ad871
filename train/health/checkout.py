"""This checkout: its version, and whether `model`, `data`, `parallel` and `train` are imported from it.

Only the commands of train/ need this: the commands of data/ import no other package of ours.
"""

import importlib.util
import sys
import tomllib
from pathlib import Path

PACKAGES = ("model", "data", "parallel", "train")
ROOT = Path(__file__).resolve().parents[2]


def version() -> str:
    """Returns the version in pyproject.toml."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def strangers(root: Path) -> list[str]:
    """Returns one line for every package that would be imported from outside `root`."""
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
    """Ends this program with status 2 and a line for each package that would be imported from elsewhere."""
    found = strangers(ROOT)
    if found:
        sys.stderr.write("\n".join(found) + "\n")
        sys.exit(2)
