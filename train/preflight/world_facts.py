"""The facts of all ranks, by host; finding the hosts that differ from the others."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from train.preflight.facts import Facts, Site
from train.preflight.findings import Host, hosts_of

Value = TypeVar("Value", bound=Hashable)


class WorldFacts:
    """Facts of the ranks that sent them. A host has no `Site` if the rank that collects it sent none."""

    def __init__(self, facts: Iterable[Facts]) -> None:
        self.by_rank = {fact.rank: fact for fact in sorted(facts, key=lambda fact: fact.rank)}
        self.hosts: list[Host] = hosts_of(
            [(fact.rank, fact.host, fact.machine) for fact in self.by_rank.values()]
        )
        self._home = {rank: host for host in self.hosts for rank in host.ranks}
        # Facts of each host, in order of hosts.
        self.sites: dict[Host, Site] = {
            host: site
            for host in self.hosts
            for fact in reversed(self.of_host(host))
            if (site := fact.site) is not None
        }

    def name(self, rank: int) -> str:
        """Returns a rank with its host, for a sentence."""
        host = self._home.get(rank)
        return f"rank {rank}" if host is None else f"rank {rank} on {host.name}"

    def host(self, rank: int) -> Host | None:
        """Returns the host of a rank, if the rank sent its facts."""
        return self._home.get(rank)

    def of_host(self, host: Host) -> list[Facts]:
        """Returns the facts of a host's ranks."""
        return [self.by_rank[rank] for rank in host.ranks]


def majority(values: Sequence[Value]) -> Value:
    """Returns the most frequent value; of equally frequent ones, the first."""
    counts = Counter(values)
    return max(counts, key=lambda value: counts[value])


def odd_ones(values: Mapping[Host, Value]) -> tuple[Value | None, dict[Value, list[Host]]]:
    """Returns the most frequent value, and by each other value the hosts that have it."""
    if not values:
        return None, {}
    usual = majority(list(values.values()))
    odd: dict[Value, list[Host]] = {}
    for host, value in values.items():
        if value != usual:
            odd.setdefault(value, []).append(host)
    return usual, odd


def ranks_of(hosts: Iterable[Host]) -> tuple[int, ...]:
    """Returns all ranks of the hosts."""
    return tuple(rank for host in hosts for rank in host.ranks)
