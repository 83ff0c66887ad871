"""Install the pinned dependencies of pyproject.toml into the interpreter that runs this, and `ropewalk` beside it.

torch first: with it in place no other package pulls another build of it. transformers 4 goes into a folder of its own,
PREFIX/transformers4, which one process of the tests puts on its path: exported models are read by both versions.
"""

import shlex
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

LAUNCHER = Path(__file__).resolve().with_name("ropewalk.py")


def install(packages: Sequence[str], *options: str) -> None:
    """Run pip; ends this program where pip fails."""
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "-q"]
    if subprocess.run([*pip, *options, *packages], check=False).returncode:
        sys.exit(
            "The installation failed; what pip said stands above. Mend it and repeat the command."
        )


def install_all() -> None:
    """Every pinned dependency."""
    content = tomllib.loads((LAUNCHER.parent.parent / "pyproject.toml").read_text())
    project = content["project"]
    pinned = project["dependencies"] + project["optional-dependencies"]["dev"]
    torch = [name for name in pinned if name.startswith("torch==")]
    install(torch)
    install([name for name in pinned if name not in torch])
    install(
        content["tool"]["ropewalk"]["transformers4"],
        "--no-deps",
        "--no-compile",
        "--upgrade",
        "--target",
        str(Path(sys.prefix) / "transformers4"),
    )


def put_launcher(python: Path) -> Path:
    """Write the program `ropewalk` beside `python`, for this checkout and that interpreter; where it is.

    -I and -S: launch/ropewalk.py needs the standard library alone, and starts without the environment's variables
    and site packages. What it starts has both.
    """
    program = python.with_name("ropewalk")
    start = shlex.join([str(python), "-IS", str(LAUNCHER)])
    program.write_text(f'#!/bin/sh\n# Written by `make setup`.\nexec {start} "$@"\n')
    program.chmod(0o755)
    return program


if __name__ == "__main__":
    install_all()
    put_launcher(Path(sys.executable))
