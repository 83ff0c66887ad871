#!/usr/bin/env python3
"""Prints a recipe for a container image, as a Dockerfile, an Apptainer definition or a shell script.

    python3 launch/container.py docker    >Dockerfile    && docker build --tag ropewalk --file Dockerfile .
    python3 launch/container.py apptainer >ropewalk.def  && apptainer build ropewalk.sif ropewalk.def
    python3 launch/container.py steps     >steps.sh      && sh -e steps.sh     # as root in any Debian or Ubuntu

Run all three in the root of the checkout. The image holds the packages that pyproject.toml pins in
/opt/ropewalk/.venv, this checkout in /opt/ropewalk, and `ropewalk` on its PATH. docs/cluster.md shows how to start
runs in it.
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
HOME = "/opt/ropewalk"
PYTHON = f"{HOME}/.venv/bin/python"
# Files and folders of the checkout that are copied into the image.
COPIED = (
    "pyproject.toml",
    "LICENSE",
    "README.md",
    "conf",
    "data",
    "launch",
    "model",
    "parallel",
    "train",
)


class Base(NamedTuple):
    """A base image; keep_torch: it has its own build of torch, which is kept."""

    image: str
    keep_torch: bool


BASES = {
    "cuda": Base("nvidia/cuda:13.0.2-base-ubuntu24.04", keep_torch=False),
    "pytorch": Base("nvcr.io/nvidia/pytorch:26.04-py3", keep_torch=True),
    "debian": Base("debian:bookworm", keep_torch=False),
}
# python3-dev and compilers: Triton and torch.compile build code at run time. The verbs libraries: NCCL uses TCP
# without them.
PACKAGES = "ca-certificates python3 python3-venv python3-dev gcc g++ libibverbs1 ibverbs-providers librdmacm1"
ENVIRONMENT = {
    "PATH": f"{HOME}/.venv/bin:$PATH",
    "LANG": "C.UTF-8",
    # Devices and driver parts that the NVIDIA container toolkit makes visible inside.
    "NVIDIA_VISIBLE_DEVICES": "all",
    "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
}
# The oldest and newest version of torch that the code was run with.
TORCH = ((2, 11), (2, 13))
CHECK_TORCH = (
    "import sys, importlib.metadata as m; v = m.version('torch'); "
    f"sys.exit(0 if {TORCH[0]} <= tuple(map(int, v.split('.')[:2])) <= {TORCH[1]} else "
    f"f'the image has torch {{v}}; Ropewalk was run with 2.{TORCH[0][1]} to 2.{TORCH[1][1]}')"
)


class Step(NamedTuple):
    """One step: a comment, and either commands or files of the checkout to copy to HOME."""

    comment: str
    commands: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()


def steps(*, keep_torch: bool, extras: list[str], index: str) -> list[Step]:
    """Steps from a base image to one that trains; the checkout is late, so that its changes keep the layers before it.

    extras: names of extras in pyproject.toml. index: a further package index for pip, or "".
    """
    import tomllib  # after `main` has checked the version of Python

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = list(project["dependencies"])
    for extra in extras:
        pins += project["optional-dependencies"][extra]
    torch = next(pin for pin in pins if pin.startswith("torch=="))
    others = shlex.join(pin for pin in pins if pin != torch)
    # NVIDIA's images set PIP_CONSTRAINT to the versions they hold; ours go into a separate environment.
    pip = f"PIP_CONSTRAINT= {PYTHON} -m pip install --no-cache-dir"
    if index:
        pip += f" --extra-index-url {shlex.quote(index)}"
    environment = f"python3 -m venv {'--system-site-packages ' if keep_torch else ''}{HOME}/.venv"
    first = (
        Step("torch stays the one of the image", (f"{PYTHON} -c {shlex.quote(CHECK_TORCH)}",))
        if keep_torch
        else Step("torch first: no other package pulls another build then", (f"{pip} {torch}",))
    )
    starter = f'#!/bin/sh\\nexec {PYTHON} -IS {HOME}/launch/ropewalk.py "$@"\\n'
    return [
        Step(
            "Packages of the distribution",
            (
                "apt-get update",
                f"DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends {PACKAGES}",
                "rm -rf /var/lib/apt/lists/*",
            ),
        ),
        Step("An environment of its own", (environment,)),
        first,
        Step("The packages of pyproject.toml", (f"{pip} {others}",)),
        Step("The checkout", copied=COPIED),
        Step(
            "ropewalk on the PATH",
            (f"printf '{starter}' >/usr/local/bin/ropewalk", "chmod 755 /usr/local/bin/ropewalk"),
        ),
    ]


def dockerfile(base: str, recipe: list[Step]) -> str:
    """The recipe for `docker build` and `podman build`."""
    lines = [f"FROM {base}", *(f"ENV {name}={value}" for name, value in ENVIRONMENT.items())]
    for step in recipe:
        lines += ["", f"# {step.comment}"]
        lines += ["RUN " + " \\\n && ".join(step.commands)] if step.commands else []
        lines += [f"COPY {name} {HOME}/{name}" for name in step.copied]
    return "\n".join(lines) + "\n"


def definition(base: str, recipe: list[Step]) -> str:
    """The recipe for `apptainer build` and Singularity; files are copied before any command runs."""
    lines = ["Bootstrap: docker", f"From: {base}", "", "%files"]
    lines += [f"    {name} {HOME}/{name}" for step in recipe for name in step.copied]
    exports = [f"    export {name}={value}" for name, value in ENVIRONMENT.items()]
    lines += ["", "%environment", *exports, "", "%post", "    set -e", *exports]
    for step in recipe:
        if step.commands:
            lines += [f"    # {step.comment}", *(f"    {command}" for command in step.commands)]
    return "\n".join([*lines, "", "%runscript", '    exec ropewalk "$@"']) + "\n"


def script(recipe: list[Step]) -> str:
    """The recipe for `sh -e`, as root, in the root of the checkout."""
    lines = ["#!/bin/sh", "set -e"]
    lines += [f"export {name}={value}" for name, value in ENVIRONMENT.items()]
    for step in recipe:
        lines += [f"# {step.comment}", *step.commands]
        lines += [f"mkdir -p {HOME}"] if step.copied else []
        lines += [f"cp -R {name} {HOME}/{name}" for name in step.copied]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Print the recipe selected by `arguments`."""
    if sys.version_info < (3, 11):  # noqa: UP036  (any python3 may start this file)
        sys.exit(
            f"launch/container.py: needs Python 3.11 or newer, this is {sys.version.split()[0]}"
        )
    parser = argparse.ArgumentParser(
        prog="launch/container.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("form", choices=("docker", "apptainer", "steps"))
    known = "; ".join(f"{name}: {base.image}" for name, base in BASES.items())
    parser.add_argument("--base", default="cuda", help=f"cuda (default), or any image ({known})")
    parser.add_argument("--keep-torch", action="store_true", help="keep the torch of the image")
    parser.add_argument(
        "--extra",
        action="append",
        default=[],
        choices=("gpu", "dev"),
        help="install an extra of pyproject.toml: gpu (flash attention 4) or dev (tests); may be repeated",
    )
    parser.add_argument(
        "--index",
        default="",
        help="a further index for pip, such as https://download.pytorch.org/whl/cu126 (torch for older drivers)",
    )
    options = parser.parse_args(arguments)
    base = BASES.get(options.base, Base(options.base, keep_torch=False))
    keep_torch = base.keep_torch or options.keep_torch
    recipe = steps(keep_torch=keep_torch, extras=options.extra, index=options.index)
    command = shlex.join(["launch/container.py", *arguments])
    head = f"# Made by {command}\n"
    if options.form == "docker":
        sys.stdout.write(head + dockerfile(base.image, recipe))
    elif options.form == "apptainer":
        sys.stdout.write(head + definition(base.image, recipe))
    else:
        sys.stdout.write(script(recipe))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
