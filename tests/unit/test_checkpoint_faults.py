"""A checkpoint against a bad disk: what is damaged is named, what is killed leaves the one before, what is
refused leaves the run alive. One process, tensors of a few bytes, every step of the file system.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data.files import seal
from parallel.checkpoint.index import DamagedCheckpoint
from parallel.engine.training import StepCounts
from parallel.mesh import Mesh, start
from ranks import run_on_ranks
from train.checkpointing.checkpoint import CheckpointFailed, Checkpoints, verify
from train.checkpointing.folder import complete, find_before, latest, pointer_problem, set_aside
from train.checkpointing.resume import sound_checkpoint
from train.checkpointing.state import INDEX, STATE, RunState, read_index, read_state

CALLS = ("open", "write", "fsync", "mkdir", "rename", "replace", "rmdir")


class Engine:
    """As much of an engine as saving asks for: two parameters."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.tensors = {"a": torch.randn(4, 3), "b": torch.randn(5)}
        self.parameters = SimpleNamespace(
            named=self.tensors, full_shape=lambda name: self.tensors[name].shape
        )

    def full_tensors(self, name: str) -> dict[str, torch.Tensor]:
        return {
            kind: self.tensors[name] + i
            for i, kind in enumerate(("weight", "exp_avg", "exp_avg_sq"))
        }

    def optimizer_steps(self) -> StepCounts:
        return StepCounts(7)


class Saver:
    """The checkpoints of one run on one process."""

    def __init__(self, folder: Path, mesh: Mesh, keep: int = 2) -> None:
        self.checkpoints = Checkpoints(folder, keep, mesh)
        self.engine: Any = Engine(mesh)

    def save(self, step: int, before: Callable[[], None] | None = None) -> None:
        self.checkpoints.save(self.engine, RunState(step=step, tokens_seen=1000 * step), before)
        self.checkpoints.wait()


def alone(work: Callable[[Mesh], None]) -> None:
    """Run `work` in a world of one process, which a test must not join itself."""

    def on_rank(rank: int, world_size: int) -> None:
        work(start(torch.device("cpu"), 60))

    run_on_ranks(on_rank, 1)


@contextmanager
def at_call(number: int, raised: Callable[[], BaseException]) -> Iterator[list[str]]:
    """The `number`th call that changes the file system raises; yields the names of those that came to pass."""
    passed: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            original = getattr(os, name)

            def call(*given: Any, original: Any = original, name: str = name, **named: Any) -> Any:
                if len(passed) == number:
                    passed.append("")
                    raise raised()
                passed.append(name)
                return original(*given, **named)

            patch.setattr(os, name, call)
        yield passed


def test_every_flipped_byte_and_truncation_is_found_and_its_file_named(tmp_path: Path) -> None:
    def work(mesh: Mesh) -> None:
        Saver(tmp_path, mesh).save(3)
        folder = tmp_path / "step_00000003"
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            ["rank_00000.safetensors", INDEX, STATE]
        )
        for path in folder.iterdir():
            whole = path.read_bytes()
            places = {int(share * (len(whole) - 1)) for share in (0, 0.05, 0.2, 0.5, 0.8, 1)}
            damaged = [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in places]
            damaged += [b"", whole[:1], whole[: len(whole) // 2], whole[:-1], whole + b"\0"]
            for content in damaged:
                path.write_bytes(content)
                with pytest.raises(DamagedCheckpoint, match=path.name) as error:
                    verify(folder, mesh, print)
                assert "\n" not in str(error.value)
            path.unlink()
            with pytest.raises(DamagedCheckpoint, match=path.name):
                verify(folder, mesh, print)
            path.write_bytes(whole)
        assert len(verify(folder, mesh, print)["tensors"]) == 6

    alone(work)


def test_damage_says_what_was_expected_and_found(tmp_path: Path) -> None:
    def work(mesh: Mesh) -> None:
        Saver(tmp_path, mesh).save(3)
        folder = tmp_path / "step_00000003"
        path = folder / "rank_00000.safetensors"
        whole = path.read_bytes()
        path.write_bytes(whole[:-4])
        size = f"{len(whole):,}"
        with pytest.raises(
            DamagedCheckpoint, match=f"expected {size} bytes, found {len(whole) - 4}"
        ):
            verify(folder, mesh, print)
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(
            DamagedCheckpoint, match=r"expected sha256 [0-9a-f]{64}, found [0-9a-f]{64}"
        ):
            verify(folder, mesh, print)
        path.write_bytes(whole)
        state = folder / STATE
        state.write_bytes(
            state.read_bytes().replace(b'"tokens_seen": 3000', b'"tokens_seen": 3001')
        )
        with pytest.raises(DamagedCheckpoint, match=r"state\.json is damaged: expected sha256"):
            verify(folder, mesh, print)

    alone(work)


class Killed(BaseException):
    """Nothing after it runs: no handler of ours catches it."""


def test_a_kill_at_any_step_of_the_file_system_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    def work(mesh: Mesh) -> None:
        moments: set[str] = set()
        for number in range(1000):
            folder = tmp_path / str(number)
            saver = Saver(folder, mesh, keep=1)
            saver.save(1)
            with at_call(number, Killed) as passed, suppress(Killed):
                saver.save(2)
            moments.update(passed)
            found = latest(folder)
            assert found is not None
            verify(found, mesh, print)
            again = Saver(folder, mesh, keep=1)
            assert not list(folder.glob("*.partial"))
            again.save(3)
            assert [path.name for path in complete(folder)] == ["step_00000003"]
            shutil.rmtree(folder)
            if "" not in passed:
                break
        assert number > 20
        assert moments >= {"open", "write", "fsync", "mkdir", "rename", "replace"}

    alone(work)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_what_the_disk_refuses_leaves_the_run_alive_and_nothing_behind(
    tmp_path: Path, code: int
) -> None:
    def work(mesh: Mesh) -> None:
        reason = os.strerror(code)
        for number in range(1000):
            folder = tmp_path / str(number)
            saver = Saver(folder, mesh)
            saver.save(1)
            with at_call(number, lambda: OSError(code, reason)) as passed:
                saver.save(2)
            found = latest(folder)
            assert found is not None
            verify(found, mesh, print)
            news = saver.checkpoints.news()
            if "" not in passed:
                assert news == []
                break
            assert len(news) == 1
            assert reason in news[0]
            if found.name == "step_00000001":
                assert news[0].startswith(
                    "warning: the checkpoint of step 2 could not be written: rank 0: "
                )
                assert saver.checkpoints.failures == 1
                assert sorted(path.name for path in folder.iterdir()) == ["latest", found.name]
            saver.save(3)
            saver.checkpoints.require()
            newest = latest(folder)
            assert newest is not None
            assert newest.name == "step_00000003"
            verify(newest, mesh, print)
        assert number > 20

    alone(work)


def test_a_checkpoint_the_run_cannot_do_without_is_required(tmp_path: Path) -> None:
    def refuse() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl")

    def work(mesh: Mesh) -> None:
        saver = Saver(tmp_path, mesh)
        saver.save(1)
        saver.save(2, before=refuse)
        with pytest.raises(
            CheckpointFailed, match=r"step 2 .* rank 0: No space left on device \(metrics"
        ):
            saver.checkpoints.require()
        assert saver.checkpoints.news() == []
        with pytest.raises(CheckpointFailed):  # still
            saver.checkpoints.require()
        assert latest(tmp_path) == tmp_path / "step_00000001"
        saver.save(3)
        saver.checkpoints.require()
        assert saver.checkpoints.failures == 1

    alone(work)


def test_the_newest_whole_checkpoint_is_taken_and_damaged_ones_are_kept_aside(
    tmp_path: Path,
) -> None:
    def work(mesh: Mesh) -> None:
        saver = Saver(tmp_path, mesh, keep=4)
        for step in (10, 20, 30, 40):
            saver.save(step)
        for step, file in ((40, STATE), (30, "rank_00000.safetensors")):
            path = tmp_path / f"step_{step:08d}" / file
            path.write_bytes(path.read_bytes()[:-9])
        said: list[str] = []

        def find() -> Path | None:
            found = latest(tmp_path)
            if found is None:
                raise ValueError("none is left")
            return found

        assert sound_checkpoint(find, tmp_path, mesh, said.append) == tmp_path / "step_00000020"
        (line,) = said
        for part in (
            "step_00000040: state.json is damaged: expected sha256",
            "kept as step_00000040.damaged",
            "step_00000030: rank_00000.safetensors is damaged: expected",
            "kept as step_00000030.damaged",
            "going on from step_00000020: 20 steps are done again",
        ):
            assert part in line
        # Neither a new start nor retention touches what was set aside.
        later = Saver(tmp_path, mesh, keep=1)
        later.save(30)
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == [
            "latest",
            "step_00000030",
            "step_00000030.damaged",
            "step_00000040.damaged",
        ]
        assert sound_checkpoint(find, tmp_path, mesh, said.append) == tmp_path / "step_00000030"
        assert len(said) == 1
        (tmp_path / "step_00000030" / INDEX).unlink()
        with pytest.raises(ValueError, match=r"index\.json is not readable .* none is left"):
            sound_checkpoint(find, tmp_path, mesh, said.append)
        assert (tmp_path / "step_00000030.damaged-2").is_dir()

    alone(work)


def test_a_damaged_checkpoint_that_was_named_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    def work(mesh: Mesh) -> None:
        Saver(tmp_path / "other", mesh).save(5)
        named = tmp_path / "other" / "step_00000005"
        (named / STATE).write_bytes(b"\xff\x00")
        with pytest.raises(ValueError, match=r"state\.json is damaged.*name another"):
            sound_checkpoint(lambda: named, tmp_path / "own", mesh, print)
        assert named.is_dir()

    alone(work)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00binary",
        b"../../etc",
        b"/",
        b"step_00000099",
        b"step_00000002.damaged",
        b"x" * 10**6,
    ],
)
def test_whatever_stands_in_latest_the_newest_checkpoint_is_found(
    tmp_path: Path, content: bytes
) -> None:
    for name in (
        "step_00000001",
        "step_00000002",
        "step_00000002.damaged",
        "step_00000003.partial",
    ):
        (tmp_path / name).mkdir()
    pointer = tmp_path / "latest"
    pointer.write_bytes(content)
    assert latest(tmp_path) == tmp_path / "step_00000002"
    problem = pointer_problem(tmp_path)
    assert "no complete checkpoint here" in problem
    assert problem.isprintable()
    assert len(problem) < 1000


def test_latest_may_be_missing_a_folder_or_one_behind(tmp_path: Path) -> None:
    for name in ("step_00000001", "step_00000002"):
        (tmp_path / name).mkdir()
    assert pointer_problem(tmp_path) == ""
    pointer = tmp_path / "latest"
    pointer.write_text("step_00000001")  # a kill came between the name and this file
    assert pointer_problem(tmp_path) == ""
    pointer.unlink()
    pointer.mkdir()
    assert pointer_problem(tmp_path) == f"{pointer} is not a file"
    assert latest(tmp_path) == tmp_path / "step_00000002"


def test_folders_are_found_by_step(tmp_path: Path) -> None:
    names = ("step_00000009", "step_00000010", "step_100000000", "step_9", "step_00000011.damaged")
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / "step_00000012").write_text("no folder")
    assert [path.name for path in complete(tmp_path)] == [
        "step_100000000",
        "step_00000010",
        "step_00000009",
    ]
    assert find_before(tmp_path, 10) == tmp_path / "step_00000009"
    assert find_before(tmp_path, 9) is None
    assert set_aside(tmp_path / "step_00000009").name == "step_00000009.damaged"


def test_a_run_that_goes_back_forgets_what_it_left(tmp_path: Path) -> None:
    def work(mesh: Mesh) -> None:
        saver = Saver(tmp_path, mesh, keep=9)
        for step in (1, 2, 3):
            saver.save(step)
        saver.checkpoints.forget_after(1)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000001"]
        assert pointer_problem(tmp_path) == ""
        assert read_state(tmp_path / "step_00000001").step == 1

    alone(work)


def test_other_formats_and_hostile_indexes_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / STATE).write_text('{\n "format": 1,\n "step": 3\n}')
    with pytest.raises(
        ValueError, match="written in format 1, this version reads format 2; go on"
    ) as old:
        read_state(tmp_path)
    assert not isinstance(old.value, DamagedCheckpoint)
    (tmp_path / STATE).write_bytes(seal({"format": 2, "surprise": 1}))
    with pytest.raises(ValueError, match="of another version"):
        read_state(tmp_path)
    (tmp_path / STATE).write_bytes(seal({"format": 2, "step": "three"}))
    with pytest.raises(ValueError, match="step must be a int"):
        read_state(tmp_path)
    record = {"bytes": 1, "sha256": ""}
    for content in (
        {"files": [], "tensors": {}},
        {"files": {"../../x": record}, "tensors": {}},
        {"files": {"/etc/passwd": record}, "tensors": {}},
        {"files": {"": record}, "tensors": {}},
        {"files": {"a": {}}, "tensors": {}},
        {"files": {"a": record}, "tensors": {"weight/x": {"file": "b", "shape": []}}},
        {"files": {"a": record}, "tensors": {"weight/x": {"file": "a", "shape": "long"}}},
    ):
        (tmp_path / INDEX).write_bytes(seal({"format": 2, **content}))
        with pytest.raises(ValueError, match=r"index\.json: ") as refused:
            read_index(tmp_path)
        assert not isinstance(refused.value, DamagedCheckpoint)


def test_a_state_from_before_there_was_an_optimizer_to_choose_is_adamws(tmp_path: Path) -> None:
    (tmp_path / STATE).write_bytes(seal({"format": 2, "step": 9, "adam_steps": 7}))
    state = read_state(tmp_path)
    assert (state.step, state.optimizer, state.optimizer_steps) == (9, "adamw", 7)
