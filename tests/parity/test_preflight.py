"""The preflight on real processes: what it finds between ranks, and that it always ends."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch._C._distributed_c10d import TCPStore

from data.tokens.prefix import manifest_path
from parallel import links
from parallel.mesh import AxisGroup, start
from parallel.rendezvous.meeting import meet
from ranks import run_on_ranks
from train.configuration.compose import compose_run
from train.configuration.schema import RunConfig
from train.preflight import collect, output
from train.preflight.check import Unsound, check
from train.preflight.judge import Verdict
from train.preflight.roll_call import call_roll
from train.schedule.stages import build_schedule

CPU = torch.device("cpu")
Arguments = Callable[..., list[str]]
SHORT = {"preflight.timeout_seconds": "2", "preflight.link_bytes": "65536"}
GRID = {
    "schedule.stages.first.parallel": "{tensor:2}",
    "schedule.stages.second.parallel": "{sequence:2}",
}


def looked_at(config: RunConfig) -> Verdict:
    """What every rank is told; the groups may be broken."""
    schedule, problems = build_schedule(config)
    assert schedule is not None, problems
    try:
        return check(config, start(CPU, 60), schedule)
    except Unsound as error:
        return error.verdict


def play_host(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("collect", "check"):
        monkeypatch.setattr(f"train.preflight.{module}.this_host", lambda: (name, "boot"))


def test_a_sound_world_is_measured_on_every_layout(small_run: Arguments, tmp_path: Path) -> None:
    arguments = small_run(tmp_path, **SHORT, **GRID)

    config = compose_run(arguments)

    def work(rank: int, world_size: int) -> Verdict:
        return looked_at(config)

    found = run_on_ranks(work, 4)
    assert found[0].problems == []
    assert found[1:] == [found[0]] * 3
    folder = tmp_path / "small"
    assert sorted(file.name for file in folder.iterdir()) == ["preflight.json", "preflight.txt"]
    axes = json.loads((folder / "preflight.json").read_text())["axes"]
    measured = {axis["axis"]: axis["size"] for axis in axes if axis["ring_bytes_per_second"]}
    assert measured == {"tensor": 2, "zero": 2}
    assert all(axis["latency_seconds"] > 0 for axis in axes)
    assert {"control", "world", "checkpoint", "model"} < {axis["axis"] for axis in axes}
    assert found[0].summary in (folder / "preflight.txt").read_text()


def test_a_host_that_differs_in_everything_is_told_once_on_every_rank(
    small_run: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last rank plays a host of its own: another checkout, copied and damaged data, its own disk."""
    arguments = small_run(tmp_path / "shared", **SHORT)
    config = compose_run(arguments)
    prefix = config.data.heldout
    copied = tmp_path / "copy"
    for suffix in (".bin", ".idx", ".crc", ".manifest.json"):
        Path(f"{copied}{suffix}").write_bytes(Path(f"{prefix}{suffix}").read_bytes())
    content = bytearray(Path(f"{copied}.bin").read_bytes())
    content[1000] ^= 1
    Path(f"{copied}.bin").write_bytes(content)
    monkeypatch.setattr(output, "PATIENCE", 0.2)

    def work(rank: int, world_size: int) -> Verdict:
        if rank == world_size - 1:
            play_host("n2", monkeypatch)
            monkeypatch.setenv("LOCAL_RANK", "0")
            monkeypatch.setattr(collect, "ROOT", tmp_path)
            config.paths.outputs = str(tmp_path / "own")
            config.data.heldout = str(copied)
            config.data.sources["all"].prefix = "gone"
        else:
            play_host("n1", monkeypatch)
        return looked_at(config)

    verdicts = run_on_ranks(work, 2)
    assert verdicts[0] == verdicts[1]
    assert not verdicts[0].broken
    assert len(verdicts[0].problems) == 4
    for part in (
        "data.sources.all.prefix=gone: no gone.bin and no gone.idx; make them",
        "other program text in",
        f"{tmp_path}/copy.bin: damaged between byte 0",
        f"{tmp_path}/own/small is not the folder that the main rank writes to",
    ):
        assert any(f"n2: {part}" in line for line in verdicts[0].problems), part


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("silent", "(ranks 2-3): rank 3 on n1 -> rank 2 on n1: no message from rank 3 ("),
        (
            "wrong",
            "rank 2 on n1 -> rank 3 on n1: the message of rank 3 is not what it sent",
        ),
    ],
)
def test_a_group_that_cannot_talk_is_named_in_bounded_time(
    fault: str, says: str, small_run: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = small_run(tmp_path, **SHORT, **{"parallel.sequence": "2"})
    try_group = links.try_group

    def faulty(name: str, group: AxisGroup, *rest: object, **more: object) -> links.GroupTest:
        if name != "sequence":
            return try_group(name, group, *rest, **more)  # type: ignore[arg-type]
        if fault == "silent":
            return links.GroupTest(name, 0)
        with monkeypatch.context() as patch:
            patch.setattr(links, "_PERIOD", 7)
            return try_group(name, group, *rest, **more)  # type: ignore[arg-type]

    config = compose_run(arguments)

    def work(rank: int, world_size: int) -> Verdict:
        play_host("n1", monkeypatch)
        if rank == 3:
            monkeypatch.setattr("train.preflight.check.try_group", faulty)
        return looked_at(config)

    verdict = run_on_ranks(work, 4)[0]
    assert len(verdict.problems) == 1, verdict.problems
    assert verdict.problems[0].startswith("n1 (ranks 2-3): axis sequence cannot talk (ranks 2-3)")
    assert says in verdict.problems[0]
    assert verdict.broken


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[TCPStore]:
    """A store that outlives every attempt, as torchrun's agent keeps one."""
    store = TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    yield store


def test_ranks_of_a_restart_never_meet_the_dead(
    place: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt leaves asking ranks and words behind, as after a kill."""

    def first(rank: int, world_size: int) -> str:
        if rank:
            monkeypatch.setattr("parallel.rendezvous.meeting._LONGER", 0.0)
            with pytest.raises(ValueError, match="rank 0 did not come to"):
                meet(0.3)
        return ""

    def second(rank: int, world_size: int) -> tuple[list[str], bytes]:
        meeting = meet(20)
        found = meeting.roll_call(
            "", lambda said: [f"{rank} {word}" for rank, word in sorted(said)]
        )
        store = meeting.connect()
        if rank == 0:
            store.set("key", f"attempt of {os.getpid()}")
        meeting.through_store.line_up("set", 20)
        return found, store.get("key")

    run_on_ranks(first, 3)
    for _ in range(2):
        seen = run_on_ranks(second, 3)
        assert [lines for lines, _ in seen] == [["0 ", "1 ", "2 "]] * 3
        assert len({key for _, key in seen}) == 1


def test_a_mistake_of_one_rank_and_an_absent_rank_are_heard_by_all(place: TCPStore) -> None:
    def work(rank: int, world_size: int) -> list[str]:
        if rank == 2:
            return []
        return call_roll([f"rank {rank} has no GPU"] if rank == 1 else [], 1.0)[1]

    found = run_on_ranks(work, 3)
    assert found[0] == found[1]
    assert found[0][0].startswith("WORLD_SIZE=3: rank 2 did not come in 1 s; 2 came")
    assert found[0][1:] == [
        f"came: {socket.gethostname()} (ranks 0-1)",
        f"{socket.gethostname()} (rank 1): rank 1 has no GPU",
    ]


def test_a_file_of_another_time_counts_as_a_copy(small_run: Arguments, tmp_path: Path) -> None:
    config = compose_run(small_run(tmp_path))
    stamps = collect.stamps(config)
    path = manifest_path(config.data.heldout)
    os.utime(path, (1, 1))
    changed = {name for name, stamp in collect.stamps(config).items() if stamp != stamps[name]}
    assert changed == {"held-out"}


def test_ranks_of_different_configurations_are_refused_on_every_rank(place: TCPStore) -> None:
    """Rank 2 is in another folder, as where a home folder has another path on its host."""

    def work(rank: int, world_size: int) -> list[str]:
        config = compose_run([])
        if rank == 2:
            config.paths.outputs = "/elsewhere/outputs"
        alike = call_roll([], 20.0, compose_run([]))[1]
        return alike + call_roll([], 20.0, config)[1]

    found = run_on_ranks(work, 3)
    assert found[0] == found[1] == found[2]
    (line,) = found[0]
    assert line.startswith(
        f"{socket.gethostname()} (rank 2): another configuration than most ranks: "
        f'paths.outputs="/elsewhere/outputs" (most: "{Path.cwd()}/outputs"); give every rank the same'
    )
