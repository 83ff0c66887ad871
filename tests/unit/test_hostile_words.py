"""Any words behind any command of launch/ropewalk.py: a result or clear lines, never a traceback, never silence.

What the options' values, the files and the configurations may hold is drawn more closely by the other files of this
name; here every command of the launcher's table has its turn, a new one as well.
"""

import contextlib
import importlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composed import composed_once  # noqa: F401 (a fixture)
from tests.unit.test_hostile_configuration import ARGUMENTS, ODD
from tests.unit.test_launcher import ropewalk

Main = Callable[[Sequence[str]], int]
# A name on Linux holds no NUL, and a test reads and writes below its own folder.
WORDS = [word for word in ODD if "\0" not in word and not word.startswith(("/", ".."))]
FILES = {
    "good.txt": b"a good document\n",
    "t.model": b"\x0a\x0e",
    "a.json": b"[",
    "empty": b"",
    "caf\u00e9 1.jsonl": b'{"text": "a"}\n{"text": 1}\n',
    "\x1b[31mred.txt": b"\xff\xfe",
    "model/config.json": json.dumps({"model_type": "llama", "hidden_size": "wide"}).encode(),
    "run/config.yaml": b"run_name: [",
    "run/metrics.jsonl": b'{"step": 1}\nx',
    "x.bin": b"\0" * 7,
    "x.idx": b"MMIDIDX\0\0" + bytes(40),
}
PLACES = [
    *FILES,
    "model",
    "run",
    "pipe",
    "loop",
    "/dev/full",
    "/dev/null",
    "/proc/self/mem",
    "x",
    "o/x",
    "o/",
]
# For `train` one of these is among the words: without any, a run would start.
QUESTIONS = ["--check", "--print", "--folder", "--help", "--version", "-h"]
DRAWS = max(10, settings().max_examples // 5)


def answer(main: Main, words: Sequence[str]) -> tuple[int, str, str]:
    """Status, stdout and stderr; stdout takes no half of a surrogate pair, as that of a process with UTF-8."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    errors = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            status = main(words)
        except SystemExit as stop:
            assert isinstance(stop.code, int), stop.code
            status = stop.code
    out.flush()
    return status, out.buffer.getvalue().decode(), errors.getvalue()


def main_of(name: str) -> Main:
    """`main` of the module that `python -m` starts for a command."""
    module = ropewalk.COMMANDS[name].module
    package = importlib.util.find_spec(module).submodule_search_locations
    main: Main = importlib.import_module(f"{module}.__main__" if package else module).main
    return main


def options_of(main: Main) -> list[str]:
    """The options that --help shows."""
    _, out, _ = answer(main, ["--help"])
    return sorted(set(re.findall(r"--[a-z][a-z-]+", out)))


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    start = tmp_path_factory.mktemp("start")
    for name, content in FILES.items():
        (start / name).parent.mkdir(exist_ok=True)
        (start / name).write_bytes(content)
    os.mkfifo(start / "pipe")
    (start / "loop").symlink_to("loop")
    # argparse folds its usage to the width of the terminal.
    with contextlib.chdir(start), mock.patch.dict(os.environ, {"COLUMNS": "80"}):
        yield


def check_answer(name: str, words: Sequence[str]) -> None:
    status, out, errors = answer(main_of(name), words)
    assert status in (0, 2), (words, status)
    assert out or errors, ("silence", words)
    if status == 2:
        lines = errors.splitlines()
        assert lines, ("a mistake without a line", words)
        assert all(line.isprintable() for line in lines), lines
        assert max(map(len, lines)) < 2_000, words


@pytest.mark.parametrize("name", ropewalk.COMMANDS)
def test_any_words_are_answered(name: str) -> None:
    options = options_of(main_of(name))
    pieces = (
        st.sampled_from(PLACES)
        | st.sampled_from(WORDS)
        | st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), max_size=6)
    )
    if name in ("train", "advise"):
        pieces |= ARGUMENTS
    given_options = st.sampled_from(options)
    one = (
        pieces.map(lambda word: [word])
        | st.tuples(given_options, pieces).map(list)
        | st.builds("{}={}".format, given_options, pieces).map(lambda word: [word])
        | given_options.map(lambda word: [word])
    )

    @settings(max_examples=DRAWS, suppress_health_check=list(HealthCheck))
    @given(st.lists(one, max_size=5), st.sampled_from(QUESTIONS))
    def draw(groups: list[list[str]], question: str) -> None:
        words = [word.replace("\0", "") for group in groups for word in group]
        check_answer(name, [question, *words] if name == "train" else words)

    draw()


@pytest.mark.parametrize("name", [name for name in ropewalk.COMMANDS if name != "train"])
def test_the_options_that_a_command_needs_with_odd_values_are_answered(name: str) -> None:
    """Words that get past the parser: every required option is there."""
    needed = re.findall(r"--[a-z-]+(?=,|$)", answer(main_of(name), [])[2])
    pieces = st.sampled_from(PLACES) | st.sampled_from(WORDS)
    more = st.lists(st.tuples(st.sampled_from(options_of(main_of(name))), pieces), max_size=2)

    @settings(max_examples=DRAWS, suppress_health_check=list(HealthCheck))
    @given(st.lists(pieces, min_size=len(needed) + 1, max_size=len(needed) + 1), more)
    def draw(values: list[str], extra: list[tuple[str, str]]) -> None:
        words = [word for pair in zip(needed, values, strict=False) for word in pair]
        check_answer(
            name, [*words, *(word for pair in extra for word in pair), *([] if needed else values)]
        )

    draw()
