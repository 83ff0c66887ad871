"""Findings about ranks as lines by host: hosts and ranks, then what is wrong and the way out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from parallel.watch.verdict import rank_ranges

# Most hosts named in one line.
_NAMED = 4


@dataclass(frozen=True)
class Finding:
    """A problem or warning about some ranks. ranks: empty if it is about no rank in particular."""

    ranks: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Host:
    """A machine and the ranks it runs."""

    name: str
    ranks: tuple[int, ...]


def hosts_of(places: Sequence[tuple[int, str, str]]) -> list[Host]:
    """Returns hosts in order of their lowest rank, from (rank, host name, machine); numbers those of equal name."""
    ranks: dict[tuple[str, str], list[int]] = {}
    for rank, name, machine in sorted(places):
        ranks.setdefault((name, machine), []).append(rank)
    seen: dict[str, int] = {}
    found = []
    for (name, _), members in ranks.items():
        seen[name] = seen.get(name, 0) + 1
        shown = name if seen[name] == 1 else f"{name} ({seen[name]})"
        found.append(Host(shown, tuple(members)))
    return found


def say_by_host(findings: Iterable[Finding], hosts: Sequence[Host]) -> list[str]:
    """Returns one line per text, in order of hosts; a text about several hosts is one line."""
    about: dict[str, set[int]] = {}
    for finding in findings:
        about.setdefault(finding.text, set()).update(finding.ranks)
    home = {rank: number for number, host in enumerate(hosts) for rank in host.ranks}
    lines = []
    for text, ranks in about.items():
        at: dict[int, list[int]] = {}
        for rank in sorted(ranks):
            at.setdefault(home.get(rank, len(hosts)), []).append(rank)
        first = min(at, default=-1)
        lines.append((first, f"{_who(at, hosts)}: {text}" if at else text))
    return [line for _, line in sorted(lines, key=lambda line: line[0])]


def _who(at: dict[int, list[int]], hosts: Sequence[Host]) -> str:
    """Names hosts and ranks. at: ranks by number of their host; the number after the last is an unknown host."""
    whole = [n for n, ranks in at.items() if n < len(hosts) and len(ranks) == len(hosts[n].ranks)]
    if len(whole) == len(hosts) > 1:
        return f"all {len(hosts)} hosts"
    named = [_one(hosts[n] if n < len(hosts) else None, ranks) for n, ranks in sorted(at.items())]
    if len(named) > _NAMED:
        named[_NAMED:] = [f"and {len(named) - _NAMED} more hosts"]
    return ", ".join(named)


def _one(host: Host | None, ranks: Sequence[int]) -> str:
    name = "an unknown host" if host is None else host.name
    if host is not None and len(ranks) == len(host.ranks):
        return name
    return f"{name} ({name_ranks(ranks)})"


def name_ranks(ranks: Sequence[int]) -> str:
    """Returns "rank 3" or "ranks 2-3", for a sentence."""
    return f"rank{'s' * (len(ranks) > 1)} {rank_ranges(ranks)}"
