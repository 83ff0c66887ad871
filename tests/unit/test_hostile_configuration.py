"""`--check` and `--print` with any words and any file: the answer is a result or clear lines, nothing else."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from composed import composed_once  # noqa: F401 (a fixture)
from train import __main__
from train.configuration.groups import groups
from train.configuration.keys import known_keys

DRAWS = settings().max_examples
ODD = [
    *("", " ", "=", "-", "--", "---", "\0", "\n", "\x1b[31m", "\udcff", "\u202e", "字", "'", '"', "\\", "${", "}", "#"),
    *("~", "../..", "/", "x" * 5000, "1e999", "[" * 500, "{" * 90, "a=b", "a,b", "a b", "@", "null", "%s"),
    "!!python/name:os.system",
]  # fmt: skip
OPTIONS = [
    *("--cfg", "-c", "job", "--resolve", "-cd", "--config-dir", "-m", "-sc", "install=bash", "--version", "-h"),
    *("--help", "--folder", "--local_rank=0", "--print", "--check", "--config-dir=own", "--config-dir=/proc/self"),
]  # fmt: skip
KEYS = st.sampled_from(
    [
        *known_keys(),
        *groups(),
        "hydra.run.dir",
        "hydra/launcher",
        "data.sources.a.prefix",
        "defaults",
    ]
)
TEXTS = st.sampled_from(ODD) | st.text(max_size=8)
VALUES = st.lists(TEXTS, max_size=3).map("".join)
CHOICES = st.sampled_from(
    ["own/a.yaml", "own", "./own/a.yaml", "own/nothing.yaml", "/dev/zero", "/proc/self/mem", "/proc/self/environ", "a",
     "/", "own/pipe.yaml", "own/loop.yaml", "own/binary.yaml", "~/a.yaml", "quickstart", "../a.yaml",
     "own/a.yaml/b.yaml"]
)  # fmt: skip
ARGUMENTS = (
    st.builds("{}{}={}".format, st.sampled_from(["", "", "+", "++", "~"]), KEYS, VALUES)
    | st.builds("{}={}".format, st.sampled_from(sorted(groups())), CHOICES)
    | st.sampled_from(OPTIONS)
    | VALUES
)
NAMES = [
    *("stages", "long", "tokens", "rope_base", "learning_rate", "policy", "seed", "model", "schedule", "paths"),
    *("outputs", "hydra", "defaults", "override /model", "/model", "_self_", "_target_"),
    *("data", "sources", "prefix", "kinds"),
]  # fmt: skip
PIECES = [
    *(b"a: ", b"&a ", b"*a", b"<<: *a", b"- ", b"\n", b"  ", b"{", b"}", b"[", b"]", b": ", b"!!set ", b"? ", b"|\n"),
    *(b"---\n", b"\xff", b"\0", b"\xef\xbb\xbf", b"\r\n", b"#", b"# @package x\n", b"defaults: [a]\n", b"'", b'"'),
]  # fmt: skip
SCALARS = (
    *(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    st.sampled_from(["${seed}", "${a}", "???"]),
)
CONTENTS = st.recursive(
    st.one_of(SCALARS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | TEXTS, inner, max_size=4)
    ),
    max_leaves=8,
)
FILES = st.one_of(
    CONTENTS.map(lambda content: yaml.safe_dump(content).encode()),
    st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join),
    st.binary(max_size=40),
)


def answer(words: list[str]) -> tuple[int, str, str]:
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        status = __main__.main(words)
    return status, out.getvalue(), errors.getvalue()


def check_answer(words: list[str]) -> None:
    status, out, errors = answer(words)
    assert status in (0, 2)
    assert out if status == 0 else errors.startswith("train: "), (words, out, errors)
    lines = errors.splitlines() if status == 2 else []
    for line in lines:
        assert line.isprintable(), line
        assert len(line.split()) >= 3, line
        assert len(line) < 2_000, line


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where commands are started: `own/` has what is no configuration file."""
    start = tmp_path_factory.mktemp("start")
    for group in ("experiment", "schedule"):
        (start / "own" / group).mkdir(parents=True)
    os.mkfifo(start / "own/pipe.yaml")
    (start / "own/loop.yaml").symlink_to("loop.yaml")
    (start / "own/binary.yaml").write_bytes(bytes(range(256)))
    with contextlib.chdir(start):
        yield start


@settings(max_examples=DRAWS, suppress_health_check=list(HealthCheck))
@given(st.lists(ARGUMENTS, max_size=4), st.sampled_from(["--check", "--print"]))
@example(["schedule=own/pipe.yaml"], "--check")
@example(["-cd"], "--check")
@example(["-cd", "x" * 5000], "--check")
@example(["-cd", "~nobody/x"], "--help")
@example(["-cd", "\0"], "--check")
@example(["parallel.zero_stage="], "--check")
@example(["--config-dir=own", "experiment=a"], "--print")
@example(["data.heldout=\n"], "--check")
@example(["data.heldout='"], "--check")
@example(["data.heldout=" + "/x" * 3000], "--check")
@example(["schedule=\0.yaml"], "--check")
@example(["schedule=" + 300 * "x" + ".yaml"], "--check")
@example(["model.layer_pattern=[]"], "--check")
@example(["model.layer_pattern=[window_rope,near]"], "--check")
def test_any_words_are_answered(words: list[str], flag: str) -> None:
    check_answer([flag, *words])


@settings(max_examples=DRAWS // 2, suppress_health_check=list(HealthCheck))
@given(FILES, st.sampled_from(["experiment", "schedule", "model", "data", "recipe"]), st.booleans())
@example(b"paths: {outputs: [a]}\ndata: {sources: [b], heldout: {c: d}}", "experiment", True)
@example(b"data: a\nmodel: b\nschedule: [c]\npaths: 5", "experiment", True)
@example(b"stages: {long: null}", "schedule", True)
@example(b"defaults: [null, 5, [a], {}, {a: b, c: d}, {'': x}, {override: x}]", "experiment", True)
def test_any_file_is_answered(folder: Path, content: bytes, group: str, by_path: bool) -> None:
    """By its path, and by its name where --config-dir holds it."""
    for path in (folder / "own/a.yaml", folder / f"own/{group}/a.yaml"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    words = [f"{group}=own/a.yaml"] if by_path else ["--config-dir", "own", f"{group}=a"]
    check_answer(["--check", *words])
    check_answer(["--print", *words])
