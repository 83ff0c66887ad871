#!/usr/bin/env python3
"""`ropewalk COMMAND ...`: start a command of this checkout from any folder.

    ropewalk train KEY=VALUE ...                          python -m train KEY=VALUE ...
    ropewalk torchrun --nproc-per-node 8 -- KEY=VALUE     the same on eight ranks
    srun --ntasks 8 ropewalk train KEY=VALUE              the same on the tasks of a Slurm step

The command runs in the folder where it was started, with the interpreter that runs this file. PYTHONPATH begins with
this checkout, and PYTHONSAFEPATH keeps the current folder off the import path: a `data` or `train` there is never
imported. All ranks and workers inherit both. This file imports only the standard library, so it starts quickly.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from pathlib import Path
from typing import NamedTuple, NoReturn

LAUNCHER = Path(__file__).resolve()
ROOT = LAUNCHER.parents[1]
MISTAKE = 2
# The first rendezvous port under Slurm, and the number of ports that job ids are spread over.
PORT, PORTS = 29500, 1000
# Words that every shell passes on unchanged.
PLAIN = re.compile(r"[A-Za-z0-9_./:=,@+-]+")
# Precedes a list of words in hexadecimal digits.
WORDS = "--words"


class Refused(ValueError):
    """A mistake of the user, in one line."""


class Command(NamedTuple):
    """A module that `python -m` starts, a package that it requires, and its description in the help."""

    module: str
    needs: str
    sentence: str


COMMANDS = {
    "train": Command("train", "hydra", "train a model; --help lists every key"),
    "prepare": Command("data.prepare", "numpy", "tokenise documents into token files"),
    "tokenizer": Command("data.tokenizer", "sentencepiece", "train a SentencePiece tokenizer"),
    "manifest": Command("data.manifest", "numpy", "check token files, or describe another tool's"),
    "report": Command("train.report", "pydantic", "rewrite a run's report, or compare runs"),
    "compare": Command(
        "train.compare", "pydantic", "name the step and the tensor where two runs part"
    ),
    "evaluate": Command(
        "train.evaluate",
        "hydra",
        "evaluate checkpoints and Hugging Face models with long-context tasks",
    ),
    "advise": Command("train.advise", "hydra", "what formulas say about bases, lengths and cost"),
    "import": Command("train.import_huggingface", "torch", "import a Hugging Face model"),
    "export": Command("train.export_huggingface", "torch", "export a checkpoint to Hugging Face"),
}
# Commands that run on several ranks.
ON_RANKS = ("train", "evaluate")
LAUNCHERS = {
    "torchrun": "train on several ranks: ropewalk torchrun [OPTION ...] -- [evaluate] KEY=VALUE ...",
    "deepspeed": "the same with DeepSpeed's launcher: ropewalk deepspeed [OPTION ...] -- KEY=VALUE ...",
}
# Names that are no commands, and what to do instead.
ELSEWHERE = {
    "srun": "put srun in front: srun --ntasks N ropewalk train KEY=VALUE ...",
    "sbatch": "write srun ropewalk train KEY=VALUE ... in a batch script; launch/slurm.sh submits one",
    "slurm": "launch/slurm.sh submits a run to Slurm",
}


def main(words: list[str]) -> int:
    """Replace this process by the command; return an exit status only if none is started."""
    try:
        return say(answer(words))
    except Refused as error:
        say(f"ropewalk: {error}\n", 2)
        return MISTAKE


def answer(words: list[str]) -> str:
    """Return the text of `ropewalk --help` and `--version`; every other command replaces this process.

    Raises:
        Refused: there is no such command, or it cannot be started.
    """
    if sys.version_info < (3, 11):  # noqa: UP036  (this file may be started by any python3)
        raise Refused(
            f"{sys.executable} is Python {sys.version.split()[0]}; it needs 3.11 or newer"
        )
    if os.pathsep in str(ROOT):
        raise Refused(
            f"{ROOT}: PYTHONPATH cannot hold a folder with {os.pathsep} in its name; rename it"
        )
    if words[:1] == [WORDS]:
        words = decoded(words[1:])
    if not words:
        raise Refused(
            f"needs a command: {', '.join([*COMMANDS, *LAUNCHERS])}; --help describes them"
        )
    name, *arguments = words
    if name in ("-h", "--help", "help"):
        return help_text()
    if name == "--version":
        return f"ropewalk {version()}, {printable(str(ROOT))}\n"
    if name in COMMANDS:
        start_command(name, arguments)
    if name == "torchrun":
        start_torchrun(arguments)
    if name == "deepspeed":
        start_deepspeed(arguments)
    raise Refused(f"{quoted(name)}: {what_instead(name)}")


def start_command(name: str, arguments: list[str]) -> NoReturn:
    """Start `python -m MODULE`; as one rank if Slurm started several tasks of a command of `ON_RANKS`."""
    command = COMMANDS[name]
    require(command.needs)
    ranks = rank_of_slurm(dict(os.environ)) if name in ON_RANKS else {}
    # While Python starts, Ctrl-C would give a traceback: it waits for data/interrupt.py, which unblocks it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    become([sys.executable, "-m", command.module, *arguments], ranks)


def start_torchrun(arguments: list[str]) -> NoReturn:
    """Start torchrun's agent on this host, which starts `python -m train` for every rank."""
    require("torch")
    options, rest = split(arguments, "torchrun")
    name, rest = on_ranks(rest)
    agent = str(LAUNCHER.with_name("agent.py"))
    become([sys.executable, agent, *options, "--module", COMMANDS[name].module, *rest])


def start_deepspeed(arguments: list[str]) -> NoReturn:
    """Start DeepSpeed's launcher, which starts this file for every rank.

    On other nodes it puts the current folder first on PYTHONPATH, and shells split its arguments: a rank therefore
    sets its own PYTHONPATH, and words that are not plain are passed as hexadecimal digits.
    """
    require("deepspeed")
    options, rest = split(arguments, "deepspeed")
    name, rest = on_ranks(rest)
    program = [sys.executable, str(LAUNCHER)]
    for folder in (*program, current_folder()) if reaches_other_nodes(options) else ():
        if not PLAIN.fullmatch(folder):
            raise Refused(
                f"deepspeed: {quoted(folder)}: its launcher knows no such names on other nodes; rename"
            )
    # A signal of the terminal reaches the ranks too; the launcher waits until they have saved.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    options = [*options, "--no_local_rank", "--no_python"]
    if "-h" in options or "--help" in options:
        program = []
    runner = [sys.executable, "-m", "deepspeed.launcher.runner"]
    become([*runner, *options, *program, *encoded([name, *rest])], {"PYTHONUNBUFFERED": "1"})


def on_ranks(words: list[str]) -> tuple[str, list[str]]:
    """Return the command that the ranks run, and its arguments: that which the first word names, else `train`."""
    return (words[0], words[1:]) if words and words[0] in ON_RANKS else ("train", words)


def split(arguments: list[str], launcher: str) -> tuple[list[str], list[str]]:
    """Split into the launcher's options and the arguments of `train`, at `--` or `-m train`."""
    for number, word in enumerate(arguments):
        if word == "--":
            return arguments[:number], arguments[number + 1 :]
        if word in ("-m", "--module") and arguments[number + 1 : number + 2] == ["train"]:
            rest = arguments[number + 2 :]
            return arguments[:number], rest[1:] if rest[:1] == ["--"] else rest
    if {"-h", "--help"} & set(arguments):
        return ["--help"], []
    raise Refused(
        f"{launcher}: write -- before KEY=VALUE: ropewalk {launcher} [OPTION ...] -- KEY=VALUE ..."
    )


def current_folder() -> str:
    """The folder where this was started."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        raise Refused("the current folder does not exist any more; start in another") from None


def reaches_other_nodes(options: list[str]) -> bool:
    """Whether DeepSpeed's launcher may start ranks through ssh."""
    for number, word in enumerate(options):
        name, _, value = word.partition("=")
        if name == "--force_multi":
            return True
        if name in ("-H", "--hostfile"):
            return (value or "".join(options[number + 1 : number + 2])) != os.devnull
    return False


def rank_of_slurm(environment: dict[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE and so on for one of several tasks that srun started; empty elsewhere.

    MASTER_ADDR is the step's first node. The port differs between jobs, which may share a node.
    """
    told = environment.get
    size = told("SLURM_STEP_NUM_TASKS", "1")
    if "SLURM_STEP_ID" not in environment or size == "1":
        return {}
    if "RANK" in environment or "WORLD_SIZE" in environment:
        return {}
    local_rank = told("SLURM_LOCALID", "0")
    # Where Slurm makes only its own GPU visible to each rank (--gpus-per-task, --gpu-bind), that GPU is number 0.
    visible = told("CUDA_VISIBLE_DEVICES", "")
    if visible and "," not in visible and told("SLURM_GPUS_ON_NODE", "1") not in ("0", "1"):
        local_rank = "0"
    job = told("SLURM_JOB_ID", "0") + told("SLURM_STEP_ID", "0")
    nodes = told("SLURM_STEP_NODELIST", told("SLURM_JOB_NODELIST", "localhost"))
    meeting = {
        "MASTER_ADDR": first_node(nodes),
        "MASTER_PORT": str(PORT + int(job) % PORTS if job.isdecimal() else PORT),
    }
    given = {name: value for name in meeting if (value := told(name))}
    rank = {"RANK": told("SLURM_PROCID", "0"), "WORLD_SIZE": size, "LOCAL_RANK": local_rank}
    return {**meeting, **given, **rank}


def first_node(nodes: str) -> str:
    """The first host of Slurm's notation: gpu-[003-007,9],login is gpu-003."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0] if first else nodes)


def encoded(words: list[str]) -> list[str]:
    """`words` themselves, or encoded so that any shell passes them on; `decoded` is the inverse."""
    if all(PLAIN.fullmatch(word) for word in words):
        return words
    return [WORDS, os.fsencode("".join(f"\0{word}" for word in words)).hex()]


def decoded(words: list[str]) -> list[str]:
    """The inverse of `encoded`."""
    try:
        (digits,) = words
        return os.fsdecode(bytes.fromhex(digits)).split("\0")[1:]
    except ValueError:
        raise Refused(
            f"{WORDS}: is followed by the hexadecimal digits that ropewalk deepspeed makes"
        ) from None


def environment_of_checkout(environment: dict[str, str]) -> dict[str, str]:
    """`environment` with this checkout first on PYTHONPATH and the current folder not on it."""
    path = [str(ROOT), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    path = list(dict.fromkeys(path))
    return {**environment, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}


def become(words: list[str], variables: dict[str, str] | None = None) -> NoReturn:
    """Replace this process by a program of this checkout."""
    environment = environment_of_checkout(dict(os.environ)) | (variables or {})
    try:
        os.execve(words[0], words, environment)
    except OSError as error:
        raise Refused(f"{quoted(words[0])}: {error.strerror}") from None


def require(package: str) -> None:
    """Refuse an interpreter without `package`; with -S (`make setup`'s ropewalk) nothing is checked."""
    if sys.flags.no_site:
        return
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise Refused(
            f"{printable(sys.executable)} has no package {package}; start .venv/bin/ropewalk of the "
            "checkout (make setup), or this file with the interpreter that has the packages"
        )


def what_instead(name: str) -> str:
    """Why `name` is no command, and the nearest one."""
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    if "=" in name and not name.startswith("-"):
        return f"no command; ropewalk train {printable(name)} trains"
    known = dict.fromkeys([*COMMANDS, *LAUNCHERS]) | {
        command.module: name for name, command in COMMANDS.items()
    }
    from difflib import get_close_matches

    kind = "option" if name.startswith("-") else "command"
    near = get_close_matches(name, list(known), n=1, cutoff=0.5)
    if near and kind == "command":
        return f"no such command; did you mean {known[near[0]] or near[0]}?"
    return f"no such {kind}; write ropewalk COMMAND ..., ropewalk --help lists the commands"


def help_text() -> str:
    """The help: every command with its description."""
    rows = {name: command.sentence for name, command in COMMANDS.items()} | LAUNCHERS
    lines = "".join(f"  {name:<10} {sentence}\n" for name, sentence in rows.items())
    return (
        f"usage: ropewalk COMMAND ...\n\nStarts a command of {printable(str(ROOT))} from any folder.\n"
        "Relative paths are those of the folder where it is started.\n\n"
        f"{lines}\nropewalk COMMAND --help describes one. Under Slurm: srun ropewalk train KEY=VALUE ...\n"
        "ropewalk --version names the version and the checkout.\n"
    )


def version() -> str:
    """The version in pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "([^"]+)"', text, re.MULTILINE)
    return found[1] if found else "of no version"


def printable(text: str) -> str:
    """`text` as one short line: what cannot be printed is escaped."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= 200 else f"{text[:100]} ... {text[-60:]}"


def quoted(text: str) -> str:
    """A word as it is, or in quotation marks where it would not be seen as one."""
    return printable(text) if PLAIN.fullmatch(text) else f"'{printable(text)}'"


def say(text: str, stream: int = 1) -> int:
    """Write to standard output or error; return the exit status 0."""
    with contextlib.suppress(OSError):  # a closed stream, or a pipe without a reader
        os.write(stream, text.encode("utf-8", "backslashreplace"))
    return 0


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends this process without a traceback
    sys.exit(main(sys.argv[1:]))
