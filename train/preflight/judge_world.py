"""Checks the assignment of ranks to hosts, GPUs and cores, and the GPUs. Pure functions."""

import math
import statistics
from collections.abc import Iterator, Sequence

from parallel.topology import Topology
from parallel.watch.verdict import rank_ranges
from train.preflight.facts import Facts, Gpu, GpuState
from train.preflight.findings import Finding, Host, name_ranks
from train.preflight.gpu import HARMFUL_SLOWDOWNS
from train.preflight.world_facts import WorldFacts, majority

# Largest share of a GPU's memory that other processes may hold; above it the run does not start.
_MOST_TAKEN = 0.25
# Bytes above the median of the ranks that mean another process uses the GPU.
_STRANGER = 2 << 30
_SLOW = 0.7
_HOT = 90


def problems(world: WorldFacts, world_size: int) -> Iterator[Finding]:
    """Yields why the run may not start with these ranks."""
    absent = tuple(rank for rank in range(world_size) if rank not in world.by_rank)
    if absent:
        yield Finding(
            (), f"{name_ranks(absent)} said nothing: stopped, dead, or cut off from rank 0"
        )
    else:  # host checks need all ranks of a host
        usual = majority([len(host.ranks) for host in world.hosts])
        for host in world.hosts:
            yield from _host_problems(world, host, usual)
    yield from _shared_gpus(world)
    states = _states(world)
    for fact in world.by_rank.values():
        if fact.gpu is not None:
            yield from _gpu_problems(fact, fact.gpu, states.get(fact.gpu.uuid))


def warnings(world: WorldFacts, topologies: Sequence[Topology]) -> Iterator[Finding]:
    """Yields what reduces speed, or may."""
    yield from _placement(world, topologies)
    for host in world.hosts:
        yield from _crowded_cores(world, host)
        site = world.sites.get(host) if world.by_rank[host.ranks[0]].gpu else None
        if site is not None and site.num_gpus > len(host.ranks):
            yield Finding(
                host.ranks,
                f"{site.num_gpus - len(host.ranks)} of {site.num_gpus} GPUs are not used",
            )
    yield from _gpu_warnings(world)


def _host_problems(world: WorldFacts, host: Host, usual: int) -> Iterator[Finding]:
    facts = world.of_host(host)
    here = len(facts)
    if here != usual:
        yield Finding(
            host.ranks,
            f"{here} rank(s) on this host, {usual} on most; start as many on each (--nproc-per-node, "
            "--ntasks-per-node, slots of the hostfile)",
        )
    local = sorted(fact.local_rank for fact in facts)
    # If each rank sees only its own GPU, its local rank is 0.
    shown_one = not any(local) and all(fact.gpu for fact in facts)
    if local != list(range(here)) and not shown_one:
        yield Finding(
            host.ranks,
            f"local ranks are {', '.join(map(str, local))}, not 0-{here - 1}: LOCAL_RANK must count the ranks "
            "of a host; two launchers on one host, or a variable set by hand",
        )
    told = {fact.local_size for fact in facts} - {None, here}
    if told:
        yield Finding(
            host.ranks,
            f"the launcher says {', '.join(map(str, sorted(filter(None, told))))} ranks here, there are {here}",
        )


def _shared_gpus(world: WorldFacts) -> Iterator[Finding]:
    holders: dict[tuple[str, str], list[int]] = {}
    for fact in world.by_rank.values():
        if fact.gpu is not None:
            holders.setdefault((fact.machine, fact.gpu.uuid), []).append(fact.rank)
    for (_, uuid), ranks in holders.items():
        if len(ranks) > 1:
            yield Finding(
                tuple(ranks),
                f"ranks {rank_ranges(ranks)} are on one GPU, {uuid}; give each its own (LOCAL_RANK, "
                "CUDA_VISIBLE_DEVICES)",
            )


def _gpu_problems(fact: Facts, gpu: Gpu, state: GpuState | None) -> Iterator[Finding]:
    where = (fact.rank,)
    if gpu.wrong:
        yield Finding(
            where, f"GPU {gpu.uuid} multiplies wrong: take it out of service and have it tested"
        )
    if gpu.used_by_others > _MOST_TAKEN * gpu.total:
        yield Finding(
            where,
            f"{gpu.used_by_others / 1e9:.1f} of {gpu.total / 1e9:.1f} GB of GPU {gpu.uuid} are taken by another "
            "process; end it (nvidia-smi shows which)",
        )
    if state is not None and state.uncorrected_errors:
        yield Finding(
            where,
            f"GPU {gpu.uuid} has {state.uncorrected_errors} uncorrected memory error(s) since its last reset; "
            "reset it (nvidia-smi --gpu-reset) or leave it out",
        )


def _gpu_warnings(world: WorldFacts) -> Iterator[Finding]:
    on_gpus = [(fact, fact.gpu) for fact in world.by_rank.values() if fact.gpu is not None]
    if not on_gpus:
        return
    model = majority([(gpu.name, round(gpu.total / 1e9)) for _, gpu in on_gpus])
    median_flops = statistics.median(gpu.flops for _, gpu in on_gpus)
    median_taken = statistics.median(gpu.used_by_others for _, gpu in on_gpus)
    states = _states(world)
    for fact, gpu in on_gpus:
        where = (fact.rank,)
        if (gpu.name, round(gpu.total / 1e9)) != model:
            yield Finding(
                where,
                f"{gpu.name} with {gpu.total / 1e9:.0f} GB, most have {model[0]} with {model[1]} GB: all wait for "
                "the slowest",
            )
        if gpu.flops < _SLOW * median_flops:
            yield Finding(
                where,
                f"GPU {gpu.uuid} multiplies at {gpu.flops / 1e12:.1f} TFLOP/s, "
                f"{median_flops / max(gpu.flops, 1):.1f} times slower than the median",
            )
        if median_taken + _STRANGER < gpu.used_by_others <= _MOST_TAKEN * gpu.total:
            yield Finding(
                where,
                f"another process holds {gpu.used_by_others / 1e9:.1f} GB of GPU {gpu.uuid}",
            )
        state = states.get(gpu.uuid)
        if state is not None:
            yield from _state_warnings(where, gpu, state)


def _state_warnings(where: tuple[int, ...], gpu: Gpu, state: GpuState) -> Iterator[Finding]:
    reasons = [name for bit, name in HARMFUL_SLOWDOWNS.items() if state.slowed_by & bit]
    if reasons:
        yield Finding(where, f"GPU {gpu.uuid} is slowed down: {', '.join(reasons)}")
    if state.temperature is not None and state.temperature >= _HOT:
        yield Finding(where, f"GPU {gpu.uuid} is at {state.temperature} degrees Celsius")


def _states(world: WorldFacts) -> dict[str, GpuState]:
    return {uuid: state for site in world.sites.values() for uuid, state in site.gpus.items()}


def _placement(world: WorldFacts, topologies: Sequence[Topology]) -> Iterator[Finding]:
    """Yields placements that put neighbouring ranks, which communicate most, on different hosts."""
    scattered = [h for h in world.hosts if h.ranks[-1] - h.ranks[0] >= len(h.ranks)]
    if scattered:
        yield Finding(
            (),
            f"ranks are dealt to hosts in turn ({scattered[0].name} has {rank_ranges(scattered[0].ranks)}): give each "
            "host neighbouring ranks (Slurm: --distribution=block), else every axis leaves the host",
        )
        return
    firsts = [host.ranks[0] for host in world.hosts]
    for tensor in dict.fromkeys(topology.tensor for topology in topologies):
        better = math.gcd(tensor, *firsts)
        if better < tensor:
            yield Finding(
                (),
                f"parallel.tensor={tensor} does not fit into a host: its transfers, the most frequent, leave it; "
                f"better parallel.tensor={better} with {tensor // better} times the sequence, pipeline or data "
                "ranks",
            )


def _crowded_cores(world: WorldFacts, host: Host) -> Iterator[Finding]:
    facts = world.of_host(host)
    if any(fact.gpu for fact in facts):
        return
    cores = {core for fact in facts for core in _numbers(fact.cores)}
    threads = sum(fact.threads for fact in facts)
    if threads <= len(cores):
        return
    most = max(1, len(cores) // len(facts))
    advice = f"set OMP_NUM_THREADS={most}"
    if all(fact.threads <= most for fact in facts):
        advice = "start fewer ranks for speed"
    yield Finding(
        host.ranks,
        f"{threads} threads of {len(facts)} rank(s) share {len(cores)} core(s); {advice}",
    )


def _numbers(text: str) -> Iterator[int]:
    """Yields the numbers in a text that `rank_ranges` made."""
    for part in filter(None, text.split(", ")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)
