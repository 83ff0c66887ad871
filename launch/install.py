"""Install the pinned dependencies of pyproject.toml into the interpreter that runs this.

torch first: with it in place no other package pulls another build of it. transformers 4 goes into a folder of its own,
PREFIX/transformers4, which one process of the tests puts on its path: exported models are read by both versions.
"""

import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path


def install(packages: Sequence[str], *options: str) -> None:
    """Run pip; ends this program where pip fails."""
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "-q"]
    if subprocess.run([*pip, *options, *packages], check=False).returncode:
        sys.exit(
            "The installation failed; what pip said stands above. Mend it and repeat the command."
        )


content = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
project = content["project"]
pinned = project["dependencies"] + project["optional-dependencies"]["dev"]
torch = [name for name in pinned if name.startswith("torch==")]
install(torch)
install([name for name in pinned if name not in torch])
beside = Path(sys.prefix) / "transformers4"
install(
    content["tool"]["ropewalk"]["transformers4"],
    "--no-deps",
    "--no-compile",
    "--upgrade",
    "--target",
    str(beside),
)
