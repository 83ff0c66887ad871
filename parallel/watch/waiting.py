"""Lists the operations in which this rank is blocked now.

torch's flight recorder has the collectives, on NCCL and (from torch 2.13) on gloo. It has neither point-to-point
messages on gloo nor waits for data: code that blocks in one of these is wrapped in `waiting`.
"""

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch._C._distributed_c10d as c10d


@dataclass(frozen=True)
class Wait:
    """One operation that has begun and not ended.

    group: description of its group (parallel/mesh.py), or "" without a group. number: sequence number of the
    collective within its group, equal on all members; None for a message. seconds: time since it began.
    """

    group: str
    operation: str
    number: int | None
    seconds: float


# By thread: (group, operation, begin) of the block that it is in. One for the process, as torch's recorder is.
_noted: dict[int, tuple[str, str, float]] = {}


@contextmanager
def waiting(group: str, operation: str) -> Iterator[None]:
    """Records that this thread blocks in `operation`, until the end of the block. In nested blocks the inner counts."""
    thread = threading.get_ident()
    outer = _noted.get(thread)
    _noted[thread] = (group, operation, time.monotonic())
    try:
        yield
    finally:
        if outer is None:
            del _noted[thread]
        else:
            _noted[thread] = outer


def pending() -> list[Wait]:
    """Returns all operations that this process is blocked in, longest first."""
    now = time.monotonic()
    try:
        recorded = recorded_waits(flight_record(), time.time_ns())
    except (
        KeyError,
        TypeError,
        ValueError,
    ):  # a torch with another format of the record: the backends' own timeouts remain
        recorded = []
    known = {wait.group for wait in recorded}
    noted = [
        Wait(group, what, None, now - since)
        for group, what, since in list(_noted.values())
        if group not in known  # the recorder's entry has the number too
    ]
    return sorted([*noted, *recorded], key=lambda wait: -wait.seconds)


def flight_record() -> list[dict[str, Any]]:
    """Returns torch's record of the last collectives of this process, oldest first; empty where no backend has one.

    NCCL and gloo have separate recorders.
    """
    entries: list[dict[str, Any]] = []
    for name in ("_dump_nccl_trace_json", "_dump_fr_trace_json"):
        dump = getattr(c10d, name, None)
        if dump is not None:
            entries += json.loads(dump(includeCollectives=True, onlyActive=False)).get(
                "entries", []
            )
    return entries


def recorded_waits(entries: Sequence[dict[str, Any]], now: int) -> list[Wait]:
    """Returns the operations of a flight record that have not ended. now: wall clock in nanoseconds.

    NCCL never retires the single messages of a batch, only the batch. But its groups work in order, so everything
    older than a retired entry of the same group has ended.
    """
    waits: list[Wait] = []
    over: set[str] = set()
    for entry in reversed(entries):
        group, name = entry["process_group"][1], entry["profiling_name"]
        backend, _, operation = name.partition(":")
        if entry["retired"] or entry["state"] == "completed":
            over.add(group)
            continue
        message = entry["is_p2p"] and operation != "coalesced"
        if backend == "nccl" and (group in over or message):
            continue
        waits.append(
            Wait(
                group,
                operation or name,
                entry["collective_seq_id"] if not entry["is_p2p"] else None,
                seconds=(now - entry["time_created_ns"]) / 1e9,
            )
        )
    return waits
