"""launch/container.py: three forms of one list of steps; tests/smoke/test_container.py does the steps."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def recipe(*arguments: str) -> str:
    command = [sys.executable, str(ROOT / "launch/container.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def commands(text: str) -> list[str]:
    """The commands of a recipe in order, whatever its form."""
    text = text.replace(" \\\n && ", "\nRUN ")
    starts = ("apt-get", "DEBIAN_FRONTEND", "rm ", "python3 ", "/opt/", "PIP_", "printf", "chmod")
    lines = [line.strip().removeprefix("RUN ") for line in text.splitlines()]
    return [
        line for line in lines if line.startswith(starts) and not re.match(r"\S+ /opt/\S+$", line)
    ]


def copied(text: str) -> list[tuple[str, str]]:
    pattern = r"^(?:COPY|cp -R|   ) +(\S+) (/opt/ropewalk/\S+)$"
    return re.findall(pattern, text, re.MULTILINE)


def test_the_three_forms_hold_the_same_commands_and_files() -> None:
    for options in ([], ["--base", "pytorch", "--extra", "gpu"], ["--index", "https://a/cu126"]):
        docker, apptainer, steps = (
            recipe(form, *options) for form in ("docker", "apptainer", "steps")
        )
        assert len(commands(docker)) >= 7 and len(copied(docker)) >= 7
        assert commands(docker) == commands(apptainer) == commands(steps)
        assert copied(docker) == copied(apptainer) == copied(steps)
        for name, path in copied(docker):
            assert (ROOT / name).exists() and path == f"/opt/ropewalk/{name}"


def test_every_pinned_package_is_installed_and_torch_only_where_the_image_has_none() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = project["dependencies"]
    torch = next(pin for pin in pins if pin.startswith("torch=="))
    gpu = project["optional-dependencies"]["gpu"]

    def installed(*options: str) -> list[str]:
        lines = [line for line in commands(recipe("docker", *options)) if "pip install" in line]
        return [word for line in lines for word in line.split() if "==" in word]

    assert installed() == [torch, *(pin for pin in pins if pin != torch)]
    assert installed("--extra", "gpu") == [*installed(), *gpu]
    own = recipe("docker", "--base", "pytorch")
    assert torch not in own and "--system-site-packages" in own and "the image has torch" in own
    assert recipe("docker", "--base", "my/image:1").splitlines()[1] == "FROM my/image:1"


def test_the_packages_that_a_run_imports_are_copied() -> None:
    included = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    names = {name for name, _ in copied(recipe("docker"))}
    packages = {name.rstrip("*") for name in included["packages"]["find"]["include"]}
    assert packages | {"conf", "launch", "pyproject.toml", "LICENSE"} <= names
