"""Whether `model`, `data` and `parallel` are this checkout's, and not another distribution's of that name."""

import importlib.util
from pathlib import Path

PACKAGES = ("model", "data", "parallel", "train")


def strangers(root: Path) -> list[str]:
    """One line for every package that would be imported from outside `root`."""
    found = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        where = Path(spec.origin).resolve() if spec and spec.origin else None
        if where is None or root not in where.parents:
            found.append(
                f"package {name}: would be imported from {where}, not from {root}; start with "
                f"`cd {root} && python -m train ...` and leave PYTHONSAFEPATH unset"
            )
    return found
