"""Install the pinned dependencies of pyproject.toml into the interpreter that runs this, and `ropewalk` beside it.

torch is installed first, so that no other package pulls another build of it. transformers 4 goes into its own folder,
PREFIX/transformers4, which one process of the tests puts on its path to read exported models with both versions.
"""

import shlex
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

LAUNCHER = Path(__file__).resolve().with_name("ropewalk.py")


def install(packages: Sequence[str], *options: str) -> None:
    """Run pip; exit if pip fails."""
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "-q"]
    if subprocess.run([*pip, *options, *packages], check=False).returncode:
        sys.exit(
            "The installation failed; what pip said stands above. Mend it and repeat the command."
        )


def install_all() -> None:
    """Install every pinned dependency."""
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
    """Write the program `ropewalk` beside `python`, for this checkout and that interpreter; return its path.

    -I and -S: launch/ropewalk.py needs only the standard library, so it starts without environment variables and
    site packages. The commands that it starts have both.
    """
    program = python.with_name("ropewalk")
    start = shlex.join([str(python), "-IS", str(LAUNCHER)])
    program.write_text(f'#!/bin/sh\n# Written by `make setup`.\nexec {start} "$@"\n')
    program.chmod(0o755)
    return program


if __name__ == "__main__":
    install_all()
    put_launcher(Path(sys.executable))
