"""Files that go bad, under a whole job on two ranks: it goes on from what is whole, or all ranks end together in
one line.
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data import embedded_corpus
from data.embedded_corpus import stdlib_documents
from data.tokens.token_file import PAGE_BYTES
from ranks import run_on_ranks
from train import loop
from train.checkpointing.folder import latest, step_of
from train.configuration.compose import compose_run
from train.job import run_job

Arguments = Callable[..., list[str]]


def flip(path: Path) -> None:
    """One bit in every page."""
    content = bytearray(path.read_bytes())
    for at in range(5, len(content), PAGE_BYTES):
        content[at] ^= 64
    with path.open("r+b") as file:
        file.write(content)


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(100)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("bin", flip, r"train.bin: damaged between byte "),
        ("bin", truncate, r"train.bin: ends at byte 100, "),
        ("idx", truncate, r"train.idx: expected "),
    ],
)
def test_what_one_rank_cannot_read_ends_all_of_them(
    small_corpus: Any,
    small_run: Arguments,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    damage: Callable[[Path], None],
    said: str,
) -> None:
    for path in Path(small_corpus.train).parent.glob("train.*"):
        shutil.copy(path, tmp_path)
    path = tmp_path / f"train.{name}"
    whole = path.read_bytes()
    sources = "{all:{prefix:" + str(tmp_path / "train") + ",weight:1.0}}"
    arguments = small_run(tmp_path, **{"+data.sources": sources, "evaluation.enabled": "false"})

    config = compose_run(arguments)

    def work(rank: int, world_size: int) -> int:
        original = loop._advance

        def advance(run: Any, *given: Any) -> None:
            original(run, *given)
            if rank == 1 and run.state.step == 3 and path.read_bytes() == whole:
                damage(path)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "_advance", advance)
            return run_job(config)

    def steps() -> list[int]:
        lines = (tmp_path / "small" / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["step"] for line in lines]

    assert run_on_ranks(work, 2) == [1, 1]
    errors = capfd.readouterr().err
    assert errors.count(f"train: error: {tmp_path}/{said}") == 1
    assert "Traceback" not in errors
    newest = latest(tmp_path / "small" / "checkpoints")
    assert newest is not None
    assert steps() == list(range(1, step_of(newest) + 1))
    assert 3 < step_of(newest) < 20
    with path.open("wb") as file:
        file.write(whole)
    if name == "bin" and damage is flip:  # the others differ in nothing that comes after
        assert run_on_ranks(work, 2) == [0, 0]
        assert steps() == list(range(1, 21))


def test_a_run_goes_on_from_the_newest_checkpoint_that_is_whole(
    small_run: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = small_run(tmp_path, **{"checkpoint.every_steps": "4", "checkpoint.keep": "9"})
    folder = tmp_path / "small" / "checkpoints"

    config = compose_run(arguments)

    def job() -> tuple[list[int], list[float], str]:
        statuses = run_on_ranks(lambda *_: run_job(config), 2)
        lines = (tmp_path / "small" / "metrics.jsonl").read_text().splitlines()
        return statuses, [json.loads(line)["loss"] for line in lines], capfd.readouterr().err

    statuses, losses, said = job()
    assert statuses == [0, 0]
    assert "warning" not in said

    flip(folder / "step_00000020" / "rank_00001.safetensors")
    truncate(folder / "step_00000016" / "state.json")
    (folder / "latest").write_bytes(b"\xff\x00../..")
    statuses, again, said = job()
    assert statuses == [0, 0]
    assert again == losses
    (warning,) = [line for line in said.splitlines() if line.startswith("warning: ")]
    for part in (
        "step_00000020: rank_00001.safetensors is damaged: expected sha256",
        "step_00000016: state.json is damaged: expected sha256",
        "going on from step_00000012: 8 steps are done again",
    ):
        assert part in warning
    assert "Traceback" not in said
    kept = [path.name for path in folder.glob("*.damaged")]
    assert sorted(kept) == ["step_00000016.damaged", "step_00000020.damaged"]
    assert (folder / "latest").read_text() == "step_00000020"

    for path in folder.glob("step_????????/index.json"):
        path.unlink()
    statuses, rows, said = job()
    assert statuses == [2, 2]
    assert rows == losses
    (line,) = [line for line in said.splitlines() if line.startswith("train: error: ")]
    assert "no complete checkpoint is left there; put one back" in line
    assert "Traceback" not in said


@pytest.mark.parametrize("preflight", ["true", "false"])
def test_a_tokenising_process_that_is_killed_ends_all_ranks_in_one_line(
    small_run: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str], preflight: str
) -> None:
    """It is /bin/false that is started in its place: gone before it has answered."""
    own = {
        "data.corpus": "python_stdlib",
        "model.vocab_size": "600",
        "+data.sources": "{}",
        "data.heldout": "''",
    }
    arguments = small_run(tmp_path, **own, **{"preflight.enabled": preflight})
    files = stdlib_documents()[:60]

    def work(rank: int, world_size: int) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(embedded_corpus, "stdlib_documents", lambda: files)
            patch.setattr(sys, "executable", "/bin/false")
            return run_job(compose_run(arguments))

    statuses = run_on_ranks(work, 2)
    assert statuses[0] == statuses[1] != 0, "both ended, neither waits"
    errors = capfd.readouterr().err
    assert "Traceback" not in errors
    said = [
        line for line in errors.splitlines() if "a worker process ended with exit code 1" in line
    ]
    assert len(said) == 1, errors
    assert "run the same command again to go on" in said[0]
    assert "manifest.json" not in errors, "what follows from it is no mistake of its own"
