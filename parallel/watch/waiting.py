"""What this rank is waiting for at this moment.

Collectives are in torch's flight recorder, on NCCL and (from torch 2.13) on gloo. Point-to-point messages on
gloo are not, and neither is waiting for data: who blocks in one says so with `waiting`.
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

    group: its description (parallel/mesh.py), or "" where no group is involved. number: of the collective
    within its group, equal on all members; None for a message. seconds: for how long already.
    """

    group: str
    operation: str
    number: int | None
    seconds: float


# By thread: what it blocks in, since when. The counterpart of torch's recorder, which is one a process too.
_noted: dict[int, tuple[str, str, float]] = {}


@contextmanager
def waiting(group: str, operation: str) -> Iterator[None]:
    """Note that this thread blocks in `operation` until the end of the block. Nested blocks: the inner one counts."""
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
    """Everything this process is waiting for, longest first."""
    now = time.monotonic()
    try:
        recorded = recorded_waits(flight_record(), time.time_ns())
    except (
        KeyError,
        TypeError,
        ValueError,
    ):  # another torch, another record: its own timeouts remain
        recorded = []
    known = {wait.group for wait in recorded}
    noted = [
        Wait(group, what, None, now - since)
        for group, what, since in list(_noted.values())
        if group not in known  # the recorder knows it better: with its number
    ]
    return sorted([*noted, *recorded], key=lambda wait: -wait.seconds)


def flight_record() -> list[dict[str, Any]]:
    """torch's record of the last collectives of this process, oldest first; empty where no backend keeps one.

    NCCL and gloo write to recorders of their own.
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
    """What of a flight record is still under way. now: in nanoseconds of the wall clock.

    NCCL never retires the single messages of a batch, only the batch; but its groups work in order, so what is
    older than something retired of the same group is over.
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
