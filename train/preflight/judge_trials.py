"""Evaluates the group tests: failing groups, slow links, clocks, speed of each axis. Pure functions."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from parallel.links import GroupTest
from parallel.mesh import GROUPS
from parallel.topology import AXES, Topology
from parallel.watch.verdict import rank_ranges
from train.preflight.clocks import offset_span
from train.preflight.facts import Trial
from train.preflight.findings import Finding, Host
from train.preflight.world_facts import WorldFacts

# Most findings of one kind on one axis that are reported.
_TOLD = 5
# Groups of the whole world.
_OF_ALL = ("control", "world", "checkpoint")


@dataclass(frozen=True)
class TimedLink:
    """Link from one rank to the next of its group; speed in bytes per second."""

    giver: int
    taker: int
    speed: float


@dataclass(frozen=True)
class Speeds:
    """Results for an axis of the first layout: latency in s, all_reduce in bytes/s; links within or between hosts."""

    name: str
    size: int
    num_groups: int
    latency: float
    all_reduce: float
    between_hosts: bool
    links: tuple[TimedLink, ...]

    @property
    def label(self) -> str:
        """Returns the name of the axis for users, such as "zero (data x sequence)"."""
        axes = GROUPS.get(self.name, ())
        return self.name if len(axes) < 2 else f"{self.name} ({' x '.join(axes)})"

    @property
    def slowest(self) -> TimedLink:
        """Returns the slowest link."""
        return min(self.links, key=lambda link: link.speed)

    @property
    def median(self) -> float:
        """Returns the median of the links' speeds."""
        return statistics.median(link.speed for link in self.links)


def wrong_clocks(
    offsets: Mapping[Host, tuple[float, float]], clock_seconds: float
) -> Iterator[Finding]:
    """Yields hosts whose clock offset is certainly above `clock_seconds`, by the bound nearest to 0."""
    for host, (least, most) in offsets.items():
        certain = max(least, -most)
        if certain > clock_seconds:
            yield Finding(
                host.ranks,
                f"the clock is {certain:.1f} s {'ahead of' if least > 0 else 'behind'} the main rank's; set it "
                "(chrony, ntp), or allow it with preflight.clock_seconds",
            )


def warnings(world: WorldFacts, speeds: Sequence[Speeds], slow_link: float) -> Iterator[Finding]:
    """Yields links more than `slow_link` times slower than the median of their kind on their axis."""
    for axis in speeds:
        if not axis.links:
            continue
        median = axis.median
        slow = [link for link in axis.links if link.speed * slow_link < median]
        slow.sort(key=lambda link: link.speed)
        for link in slow[:_TOLD]:
            yield Finding(
                (),
                f"axis {axis.label}: {say_link(world, link)}, {median / link.speed:.1f} times slower than "
                f"the median of such links, {median / 1e9:.2f} GB/s",
            )
        if len(slow) > _TOLD:
            yield Finding((), f"axis {axis.label}: {len(slow) - _TOLD} more links are as slow")


def clock_offsets(world: WorldFacts, trials: Sequence[Trial]) -> dict[Host, tuple[float, float]]:
    """Returns least and greatest offset of every other host's clock to the main rank's, in seconds."""
    rounds = {trial.rank: trial.clock for trial in trials if trial.clock}
    if 0 not in rounds:
        return {}
    return {
        host: offset_span(rounds[host.ranks[0]], rounds[0])
        for host in world.hosts
        if 0 not in host.ranks and host.ranks[0] in rounds
    }


def say_link(world: WorldFacts, link: TimedLink) -> str:
    """Returns sender, receiver and speed of a link, for a sentence."""
    return (
        f"{world.name(link.giver)} -> {world.name(link.taker)} carries {link.speed / 1e9:.2f} GB/s"
    )


def measure(world: WorldFacts, trials: Sequence[Trial], topology: Topology) -> list[Speeds]:
    """Returns the speeds of every measured axis, separately for links within a host and between hosts."""
    tests = {
        (test.name, trial.rank): test
        for trial in trials
        for test in trial.groups
        if test.layout == 0 and not test.error
    }
    found = []
    for name in dict.fromkeys(name for name, _ in tests):
        groups = _members(name, topology)
        seen = [t for ranks in groups for r in ranks if (t := tests.get((name, r))) is not None]
        links: dict[bool, list[TimedLink]] = {}
        for giver, taker in _neighbours(groups):
            test = tests.get((name, taker))
            if test is not None and test.ring:
                between = world.host(giver) != world.host(taker)
                link = TimedLink(giver, taker, test.num_bytes / test.ring)
                links.setdefault(between, []).append(link)
        size = len(groups[0])
        for between in sorted(links) or [False]:
            found.append(
                Speeds(
                    name,
                    size,
                    len(groups),
                    latency=max(test.latency for test in seen),
                    all_reduce=min(_bus_speed(test, size) for test in seen),
                    between_hosts=between,
                    links=tuple(links.get(between, ())),
                )
            )
    return found


def _bus_speed(test: GroupTest, size: int) -> float:
    """Returns the bus bandwidth of an all-reduce in bytes per second, as nccl-tests defines it; 0: not measured."""
    if not test.all_reduce:
        return 0.0
    return 2 * (size - 1) / size * test.num_bytes / test.all_reduce


def _members(name: str, topology: Topology) -> list[tuple[int, ...]]:
    return topology.groups(*(AXES if name in _OF_ALL else GROUPS[name]))


def _neighbours(groups: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, int]]:
    for ranks in groups:
        yield from pairwise((ranks[-1], *ranks))


def failures(
    world: WorldFacts, trials: Sequence[Trial], topologies: Sequence[Topology]
) -> Iterator[Finding]:
    """Yields ranks that stopped responding, and groups of the others that failed."""
    heard = {trial.rank for trial in trials}
    lost = tuple(rank for rank in world.by_rank if rank not in heard)
    if lost:
        yield Finding(lost, "fell silent while the groups were tried: stopped, dead or cut off")
    failed: dict[tuple[int, str], dict[int, GroupTest]] = {}
    for trial in trials:
        for test in trial.groups:
            if test.error:
                failed.setdefault((test.layout, test.name), {})[trial.rank] = test
    for (layout, name), tests in failed.items():
        groups = [
            ranks
            for ranks in _members(name, topologies[layout])
            if heard.issuperset(ranks) and not tests.keys().isdisjoint(ranks)
        ]
        for ranks in groups[:_TOLD]:
            yield _failure(world, name, ranks, tests)
        if len(groups) > _TOLD:
            yield Finding((), f"axis {name}: {len(groups) - _TOLD} more groups cannot talk")


def _failure(
    world: WorldFacts, name: str, ranks: Sequence[int], tests: dict[int, GroupTest]
) -> Finding:
    """Returns a finding with the failing links of a group; if none is known, the error of its first rank."""
    own = [(rank, tests[rank]) for rank in ranks if rank in tests]
    dead = [(test.silent_peer, rank) for rank, test in own if test.silent_peer is not None]
    rank, test = next((seen for seen in own if seen[1].silent_peer is not None), own[0])
    links = [f"{world.name(giver)} -> {world.name(taker)}" for giver, taker in dead[:_TOLD]]
    more = f" and {len(dead) - _TOLD} more" if len(dead) > _TOLD else ""
    what = f"{', '.join(links) or world.name(rank)}{more}: {test.error}"
    return Finding(
        tuple(sorted({rank for link in dead for rank in link} or ranks)),
        f"axis {name} cannot talk (ranks {rank_ranges(sorted(ranks))}): {what}; see that these hosts reach each "
        "other on any port, through the right interface (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME)",
    )
