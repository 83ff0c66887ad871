"""Install the pinned dependencies of pyproject.toml into the interpreter that runs this.

torch first: with it in place no other package pulls another build of it.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
pinned = project["dependencies"] + project["optional-dependencies"]["dev"]
torch = [name for name in pinned if name.startswith("torch==")]
for packages in (torch, [name for name in pinned if name not in torch]):
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "-q",
        *packages,
    ]
    if subprocess.run(command, check=False).returncode:
        sys.exit(
            "The installation failed; what pip said stands above. Mend it and repeat the command."
        )
