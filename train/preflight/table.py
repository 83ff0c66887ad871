"""Output of the preflight: the tables of preflight.txt, the content of preflight.json."""

from collections.abc import Mapping, Sequence, Sized
from typing import Any

from parallel.watch.verdict import rank_ranges
from train.preflight.findings import Host
from train.preflight.judge_trials import Speeds, say_link
from train.preflight.world_facts import WorldFacts

_HEADS = (
    "axis",
    "ranks",
    "groups",
    "latency us",
    "all-reduce GB/s",
    "links",
    "ring GB/s min / median",
)
# Hosts shown in the text; the JSON has all.
_HOSTS = 64


def summary(world: WorldFacts, speeds: Sequence[Speeds]) -> str:
    """Returns one line for a world without problems."""
    line = f"preflight: {_count(world.hosts, 'host')}, {_count(world.by_rank, 'rank')}, sound"
    measured = [axis for axis in speeds if axis.links]
    if not measured:
        return line
    axis = min(measured, key=lambda axis: axis.slowest.speed)
    return f"{line}; slowest link, on axis {axis.label}: {say_link(world, axis.slowest)}"


def tables(
    world: WorldFacts, speeds: Sequence[Speeds], offsets: Mapping[Host, tuple[float, float]]
) -> str:
    """Returns the tables of axes and hosts."""
    parts = [_axes(world, speeds), _hosts(world, offsets)]
    return "\n\n".join(part for part in parts if part) + "\n"


def to_json(
    world: WorldFacts,
    speeds: Sequence[Speeds],
    offsets: Mapping[Host, tuple[float, float]],
) -> dict[str, Any]:
    """Returns the same as JSON, with every host and all versions."""
    sites = world.sites
    return {
        "axes": [
            {
                "axis": axis.name,
                "size": axis.size,
                "groups": axis.num_groups,
                "latency_seconds": axis.latency,
                "all_reduce_bytes_per_second": axis.all_reduce,
                "between_hosts": axis.between_hosts,
                "ring_bytes_per_second": {"min": axis.slowest.speed, "median": axis.median}
                if axis.links
                else None,
                "slowest_link": [axis.slowest.giver, axis.slowest.taker] if axis.links else None,
            }
            for axis in speeds
        ],
        "hosts": [
            {
                "name": host.name,
                "ranks": host.ranks,
                "clock_offset_seconds": offsets.get(host),
                "versions": sites[host].versions if host in sites else None,
                "code": sites[host].code if host in sites else None,
                "commit": sites[host].commit if host in sites else None,
                "gpus": [fact.gpu.uuid for fact in world.of_host(host) if fact.gpu],
            }
            for host in world.hosts
        ],
    }


def _axes(world: WorldFacts, speeds: Sequence[Speeds]) -> str:
    if not speeds:
        return ""
    rows: list[Sequence[str]] = [_HEADS]
    notes = []
    for axis in speeds:
        ring = kind = "-"
        if axis.links:
            kind = "between hosts" if axis.between_hosts else "in a host"
            ring = f"{axis.slowest.speed / 1e9:.2f} / {axis.median / 1e9:.2f}"
            notes.append(
                f"slowest of {axis.label}, {kind}: {say_link(world, axis.slowest)}, "
                f"{axis.median / axis.slowest.speed:.1f} times slower than their median"
            )
        rows.append(
            (
                axis.label,
                str(axis.size),
                str(axis.num_groups),
                f"{axis.latency * 1e6:.0f}",
                f"{axis.all_reduce / 1e9:.2f}" if axis.all_reduce else "-",
                kind,
                ring,
            )
        )
    return "\n".join([*_columns(rows), *notes])


def _hosts(world: WorldFacts, offsets: Mapping[Host, tuple[float, float]]) -> str:
    rows: list[Sequence[str]] = [("host", "ranks", "clock, ms from the main rank's", "device")]
    for host in world.hosts[:_HOSTS]:
        clock = "-"
        if host in offsets:
            least, most = offsets[host]
            clock = f"{(least + most) * 500:.1f} +- {(most - least) * 500:.1f}"
        fact = world.of_host(host)[0]
        device = (
            fact.gpu.name if fact.gpu else f"{fact.threads} thread(s) a rank, cores {fact.cores}"
        )
        rows.append((host.name, rank_ranges(host.ranks), clock, device))
    more = len(world.hosts) - _HOSTS
    return "\n".join(_columns(rows) + ([f"and {more} more hosts"] if more > 0 else []))


def _count(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) > 1)}"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
