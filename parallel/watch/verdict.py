"""Turns the statuses of all ranks into one sentence that names the missing ranks. No clocks, no network."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace

from parallel.watch.waiting import Wait


@dataclass(frozen=True)
class Status:
    """One rank's latest status.

    process: its process number. home: boot of its machine, and container; only there the number has a meaning.
    begun: start time of the process, which tells it from a later process with the same number.
    """

    rank: int
    host: str
    process: int
    # What the rank is doing: "step 12", "evaluation", ...; and for how long, in seconds.
    phase: str
    seconds: float
    waits: tuple[Wait, ...]
    # Counts the statuses that the rank has published.
    beat: int = 0
    home: str = ""
    begun: str = ""

    def to_dict(self) -> dict[str, object]:
        """Returns the fields for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, object]) -> "Status":
        """Returns the status with the fields of `to_dict`."""
        waits = tuple(Wait(**wait) for wait in content.pop("waits"))  # type: ignore[attr-defined]
        return cls(waits=waits, **content)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Members:
    """The ranks of a process group and the axis it belongs to."""

    axis: str
    ranks: tuple[int, ...]


def verdict(
    judge: Status,
    statuses: Mapping[int, Status],
    silent: Set[int],
    groups: Mapping[str, Members],
) -> str:
    """Returns one line: which ranks keep `judge` waiting.

    judge: status of the rank that investigates. statuses: the latest of every rank that ever published one. silent:
    the ranks without a sign of life. groups: by description, as in `Wait.group`.
    """
    if silent:
        waited = describe_wait(_waits_for(silent, judge, statuses, groups), groups)
        return f"{waited}; no sign of life from {name_ranks(sorted(silent), statuses)}"
    waited = describe_wait(judge, groups)
    path = _follow(judge, statuses, groups)
    last = path[-1]
    if last in path[:-1]:
        ring = "; ".join(describe_wait(status, groups) for status in path[:-1])
        return f"ranks wait for each other in a ring: {ring}"
    if last is judge:
        return f"{waited}; every other rank has reached that operation or passed it"
    if last.waits:  # not in a group of ranks, but for its data
        return f"{waited}; {describe_wait(last, groups)}"
    return (
        f"{waited}; rank {last.rank} on {last.host} (process {last.process}) is not there: it has been in "
        f"{last.phase} for {last.seconds:.0f} s, waiting for no one"
    )


def describe_wait(status: Status, groups: Mapping[str, Members]) -> str:
    """Returns what a rank waits for, with axis and peers."""
    who = f"rank {status.rank} on {status.host}"
    if not status.waits:
        return f"{who} is in {status.phase}"
    wait = status.waits[0]
    members = groups.get(wait.group)
    where = ""
    if members is not None:
        where = f" on axis {members.axis} (ranks {rank_ranges(members.ranks)})"
    return f"{who} has waited {wait.seconds:.0f} s in {wait.operation}{where}, {status.phase}"


def rank_ranges(ranks: Sequence[int]) -> str:
    """Formats [0, 1, 2, 3, 8] as "0-3, 8"."""
    parts: list[list[int]] = []
    for rank in ranks:
        if parts and rank == parts[-1][-1] + 1:
            parts[-1].append(rank)
        else:
            parts.append([rank])
    return ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)


def _waits_for(
    silent: Set[int],
    judge: Status,
    statuses: Mapping[int, Status],
    groups: Mapping[str, Members],
) -> Status:
    """Returns the first living rank that waits in a group of a silent one, with that wait only; else `judge`."""
    for status in (judge, *(statuses[rank] for rank in sorted(statuses))):
        for wait in status.waits if status.rank not in silent else ():
            members = groups.get(wait.group)
            if members is not None and not silent.isdisjoint(members.ranks):
                return replace(status, waits=(wait,))
    return judge


def _follow(
    judge: Status, statuses: Mapping[int, Status], groups: Mapping[str, Members]
) -> list[Status]:
    """Returns the shortest path of waits from `judge` to a rank that waits for no rank, or a cycle if there is none."""
    ring: list[Status] = []
    paths, seen = [[judge]], {judge.rank}
    while paths:
        path = paths.pop(0)
        missing = _missing_from(path[-1], statuses, groups)
        if not missing:
            return path
        for status in missing:
            if status.rank not in seen:
                seen.add(status.rank)
                paths.append([*path, status])
            elif not ring and status in path:
                ring = [*path[path.index(status) :], status]
    return ring or [judge]


def _missing_from(
    waiter: Status, statuses: Mapping[int, Status], groups: Mapping[str, Members]
) -> list[Status]:
    """Returns the members of the group that `waiter` waits in which have not reached the same operation."""
    if not waiter.waits:
        return []
    wait = waiter.waits[0]
    members = groups.get(wait.group)
    if members is None:
        return []
    arrived: Callable[[Status], bool]
    if wait.number is None:  # a message: every rank that waits in the same group counts as arrived
        arrived = lambda status: any(w.group == wait.group for w in status.waits)  # noqa: E731
    else:
        number = wait.number
        arrived = lambda status: any(  # noqa: E731
            w.group == wait.group and w.number is not None and w.number >= number
            for w in status.waits
        )
    others = [statuses[r] for r in members.ranks if r != waiter.rank and r in statuses]
    return [status for status in others if not arrived(status)]


def name_ranks(ranks: Sequence[int], statuses: Mapping[int, Status]) -> str:
    """Formats ranks by host, with process and latest status of the first rank of each host."""
    by_host: dict[str, list[int]] = {}
    for rank in ranks:
        host = statuses[rank].host if rank in statuses else "an unknown host"
        by_host.setdefault(host, []).append(rank)
    named = []
    for host, members in by_host.items():
        everyone = [rank for rank, status in statuses.items() if status.host == host]
        lost = len(everyone) > 1 and sorted(everyone) == members
        text = f"rank{'s' if len(members) > 1 else ''} {rank_ranges(members)} on {host}"
        if lost:
            text += f" (all of {host}'s: the host is down, stopped or cut off)"
        if members[0] in statuses:
            last = statuses[members[0]]
            text += f" (process {last.process}), last seen in {_last_words(last)}"
        named.append(text)
    return "; ".join(named)


def _last_words(status: Status) -> str:
    if not status.waits:
        return status.phase
    return f"{status.phase}, waiting in {status.waits[0].operation}"
