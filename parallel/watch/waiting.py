"""What this rank is waiting for at this moment.

Collectives are in torch's flight recorder, on NCCL and (from torch 2.13) on gloo. Point-to-point messages on
gloo are not, and neither is waiting for data: who blocks in one says so with `waiting`.
"""

import json
import threading
import time
from collections.abc import Iterator
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
    """Note that this thread blocks in `operation` until the end of the block."""
    thread = threading.get_ident()
    _noted[thread] = (group, operation, time.monotonic())
    try:
        yield
    finally:
        del _noted[thread]


def pending() -> list[Wait]:
    """Everything this process is waiting for, longest first."""
    now = time.monotonic()
    noted = [Wait(group, what, None, now - since) for group, what, since in list(_noted.values())]
    return sorted([*noted, *_recorded()], key=lambda wait: -wait.seconds)


def flight_record() -> dict[str, Any]:
    """torch's record of the last collectives of this process; empty where the backend keeps none."""
    dump = getattr(c10d, "_dump_fr_trace_json", None) or getattr(
        c10d, "_dump_nccl_trace_json", None
    )
    if dump is None:
        return {}
    record: dict[str, Any] = json.loads(dump(includeCollectives=True, onlyActive=False))
    return record


def _recorded() -> list[Wait]:
    now = time.time_ns()
    return [
        Wait(
            group=entry["process_group"][1],
            # "gloo:all_reduce"
            operation=entry["profiling_name"].partition(":")[2] or entry["profiling_name"],
            number=entry["collective_seq_id"] if not entry["is_p2p"] else None,
            seconds=(now - entry["time_created_ns"]) / 1e9,
        )
        for entry in flight_record().get("entries", [])
        if not entry["retired"]
    ]
