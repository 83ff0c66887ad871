"""Who is missing, from what every rank says about itself: invented worlds with one thing wrong."""

import dataclasses
import os
import subprocess
import sys
import threading
import time

import pytest

from parallel.timeouts import Timeouts
from parallel.watch.verdict import Members, Status, rank_ranges, verdict
from parallel.watch.waiting import Wait, pending, recorded_waits, waiting
from parallel.watch.watch import _begun, _home, _is_gone

GROUPS = {
    "tensor#0": Members("tensor", (0, 1)),
    "tensor#1": Members("tensor", (2, 3)),
    "sequence#2": Members("sequence", (0, 2)),
    "sequence#3": Members("sequence", (1, 3)),
    "data#4": Members("data", (0, 1, 2, 3)),
}


def status(rank: int, *waits: Wait, phase: str = "step 7", seconds: float = 9.0) -> Status:
    return Status(rank, f"n{rank // 2 + 1}", 100 + rank, phase, seconds, waits, beat=3)


def world(*statuses: Status) -> dict[int, Status]:
    return {one.rank: one for one in statuses}


def test_a_silent_rank_is_named_with_host_process_and_last_words() -> None:
    everyone = world(
        status(0, Wait("data#4", "all_reduce", 8, 31.0)),
        status(1, Wait("data#4", "all_reduce", 8, 31.0)),
        status(2, Wait("data#4", "all_reduce", 8, 30.0)),
        status(3, phase="evaluation"),
    )
    found = verdict(everyone[0], everyone, {3}, GROUPS)
    assert "rank 0 on n1 has waited 31 s in all_reduce on axis data (ranks 0-3), step 7" in found
    assert "no sign of life from rank 3 on n2 (process 103), last seen in evaluation" in found


def test_the_axis_named_is_the_one_on_which_the_silent_rank_is_missed() -> None:
    """Rank 0 waits for rank 1, which waits for rank 3: the axis that matters is rank 1's."""
    everyone = world(
        status(0, Wait("tensor#0", "all_gather", 5, 31.0)),
        status(1, Wait("sequence#3", "ring transfer", None, 31.0)),
        status(2, Wait("tensor#1", "all_gather", 5, 30.0)),
        status(3),
    )
    found = verdict(everyone[0], everyone, {3}, GROUPS)
    assert "rank 1 on n1 has waited 31 s in ring transfer on axis sequence (ranks 1, 3)" in found


def test_of_several_waits_the_one_for_the_silent_rank_is_told() -> None:
    everyone = world(
        status(0, Wait("sequence#2", "all_to_all", 5, 31.0)),
        status(1),
        status(2, Wait("sequence#2", "all_to_all", 5, 31.0)),
        status(
            3, Wait("tensor#1", "all_gather", 5, 31.0), Wait("sequence#3", "all_to_all", 5, 30.0)
        ),
    )
    found = verdict(everyone[0], everyone, {1}, GROUPS)
    assert "rank 3 on n2 has waited 30 s in all_to_all on axis sequence (ranks 1, 3)" in found


def test_a_silent_host_is_named_as_a_whole() -> None:
    everyone = world(*(status(rank, Wait("data#4", "all_reduce", 8, 31.0)) for rank in range(4)))
    found = verdict(everyone[0], everyone, {2, 3}, GROUPS)
    assert "ranks 2-3 on n2 (all of n2's: the host is down, stopped or cut off)" in found


def test_a_living_rank_that_did_not_come_is_found_through_those_that_wait_for_it() -> None:
    """0 waits for 1, 1 for 3, 3 for 2, and 2 waits for nobody: it is the one."""
    everyone = world(
        status(0, Wait("tensor#0", "all_gather", 5, 31.0)),
        status(1, Wait("sequence#3", "ring transfer", None, 31.0)),
        status(2, phase="checkpoint", seconds=77.0),
        status(3, Wait("tensor#1", "all_gather", 5, 30.0)),
    )
    found = verdict(everyone[0], everyone, set(), GROUPS)
    assert "rank 2 on n2 (process 102) is not there: it has been in checkpoint for 77 s" in found


def test_a_rank_one_collective_behind_is_not_taken_for_arrived() -> None:
    everyone = world(
        status(0, Wait("tensor#0", "all_gather", 6, 31.0)),
        status(1, Wait("data#4", "all_reduce", 2, 30.0)),
        status(2, Wait("tensor#1", "all_gather", 6, 30.0)),
        status(3, Wait("", "its next batch from the loader", None, 29.0)),
    )
    found = verdict(everyone[0], everyone, set(), GROUPS)
    assert found.endswith("rank 3 on n2 has waited 29 s in its next batch from the loader, step 7")


def test_ranks_that_wait_for_each_other_are_shown_as_a_ring() -> None:
    everyone = world(
        status(0, Wait("tensor#0", "all_gather", 5, 31.0)),
        status(1, Wait("sequence#3", "all_reduce", 4, 31.0)),
        status(2, Wait("sequence#2", "all_reduce", 4, 31.0)),
        status(3, Wait("tensor#1", "all_gather", 5, 30.0)),
    )
    found = verdict(everyone[0], everyone, set(), GROUPS)
    assert found.startswith("ranks wait for each other in a ring: rank 0 on n1 has waited 31 s")
    assert found.count(" has waited ") == 4


def test_ranks_are_written_in_ranges() -> None:
    assert rank_ranges([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"


def test_a_thread_that_blocks_says_in_what() -> None:
    entered, leave = threading.Event(), threading.Event()

    def block() -> None:
        with waiting("sequence#2", "ring transfer"):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=block)
    thread.start()
    entered.wait(10)
    during = [(wait.group, wait.operation, wait.number) for wait in pending()]
    leave.set()
    thread.join()
    assert during == [("sequence#2", "ring transfer", None)]
    assert pending() == []


def test_a_wait_within_a_wait_ends_alone_and_hides_no_error() -> None:
    with pytest.raises(OSError, match="what happened"), waiting("control", "outer"):
        with waiting("tensor#0", "inner"):
            assert [wait.operation for wait in pending()] == ["inner"]
        assert [wait.operation for wait in pending()] == ["outer"]
        raise OSError("what happened")
    assert pending() == []


@pytest.mark.parametrize(
    ("purpose", "started", "seconds"),
    [
        ("tensor", True, 60.0),
        ("window", True, 40.0),
        ("zero", True, 600.0),
        ("control", True, 600.0),
        ("checkpoint", True, 1800.0),
        ("tensor", False, 1800.0),
    ],
)
def test_limits_are_per_axis_and_long_before_the_first_step(
    purpose: str, started: bool, seconds: float
) -> None:
    timeouts = Timeouts(600.0, {"tensor": 60.0, "sequence": 40.0}, first_step=1800.0)
    assert timeouts.of(purpose, started=started) == seconds
    assert timeouts.of_backend(purpose, started=started).total_seconds() == 1.5 * seconds


def entry(name: str, seq: int, *, retired: bool, group: str = "data#4") -> dict[str, object]:
    """One line of torch's flight record; sequence numbers stand for the time, in seconds."""
    return {
        "profiling_name": name,
        "process_group": ["1", group],
        "collective_seq_id": seq,
        "is_p2p": name.startswith(("nccl:send", "nccl:recv", "nccl:coalesced")),
        "retired": retired,
        "state": "scheduled",
        "time_created_ns": seq * 10**9,
    }


def test_single_messages_of_a_batch_which_nccl_never_retires_are_nothing_to_wait_for() -> None:
    record = [
        entry("nccl:send 0->1", 1, retired=False),
        entry("nccl:recv 0<-1", 1, retired=False),
        entry("nccl:coalesced", 1, retired=True),
        entry("nccl:all_reduce", 2, retired=False, group="tensor#0"),  # older than what is over
        entry("nccl:all_reduce", 3, retired=True, group="tensor#0"),
        entry("nccl:all_gather", 4, retired=False, group="tensor#0"),
        entry("nccl:send 0->1", 5, retired=False),
        entry("nccl:coalesced", 5, retired=False),
    ]
    waits = [(w.group, w.operation, w.number, w.seconds) for w in recorded_waits(record, 9 * 10**9)]
    assert waits == [("data#4", "coalesced", None, 4.0), ("tensor#0", "all_gather", 4, 5.0)]


def test_of_gloo_which_works_out_of_order_every_entry_counts() -> None:
    record = [
        entry("gloo:all_gather", 1, retired=False),
        entry("gloo:all_gather", 2, retired=True),
    ]
    assert [wait.number for wait in recorded_waits(record, 9 * 10**9)] == [1]


def test_a_process_is_gone_when_another_has_its_number_and_only_where_it_lives() -> None:
    me = Status(0, "n1", os.getpid(), "step 1", 0.0, (), home=_home(), begun=_begun(os.getpid()))
    assert not _is_gone(me, me)
    assert _is_gone(dataclasses.replace(me, begun="1"), me)
    assert not _is_gone(dataclasses.replace(me, begun="1", home="another container"), me)
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        begun = _begun(ended.pid)
        while _begun(ended.pid):  # not waited for: it stays as a zombie
            time.sleep(0.01)
        assert _is_gone(dataclasses.replace(me, process=ended.pid, begun=begun), me)
