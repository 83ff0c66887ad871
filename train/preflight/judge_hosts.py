"""Finds hosts that differ from the others or are unfit: versions, code, files, memory, disks. Pure functions."""

from collections.abc import Iterator

from train.preflight.facts import Site
from train.preflight.findings import Finding
from train.preflight.world_facts import WorldFacts, odd_ones, ranks_of

_NONE = "none"
# Versions that may differ: results do not depend on them.
_HARMLESS = ("driver",)
_LITTLE_TEMPORARY = 100 << 20
# Bytes of /dev/shm that NCCL may use for a rank with other ranks on its host.
_SHARED_MEMORY_OF_A_RANK = 64 << 20


def problems(world: WorldFacts) -> Iterator[Finding]:
    """Yields why the run may not start on these hosts."""
    for host, site in world.sites.items():
        for problem in site.problems:
            yield Finding(host.ranks, problem)
        if site.output_problem:
            yield Finding(host.ranks, site.output_problem)
    yield from (f for name, f in _versions(world) if name not in _HARMLESS)
    yield from _code(world)
    yield from _corpora(world)


def warnings(world: WorldFacts, needed_memory: float) -> Iterator[Finding]:
    """Yields possible problems. needed_memory: least bytes of weights, gradients and optimizer states of a rank."""
    yield from (f for name, f in _versions(world) if name in _HARMLESS)
    for host, site in world.sites.items():
        facts = world.of_host(host)
        on_gpus = any(fact.gpu for fact in facts)
        wanted = _SHARED_MEMORY_OF_A_RANK * len(facts)
        if on_gpus and len(facts) > 1 and site.shared_memory_free < wanted:
            yield Finding(
                host.ranks,
                f"/dev/shm has {_size(site.shared_memory_free)} free, NCCL may want {_size(wanted)} for "
                f"{len(facts)} ranks; give the container more (docker: --shm-size)",
            )
        if site.temporary_free < _LITTLE_TEMPORARY:
            yield Finding(
                host.ranks,
                f"the folder for temporary files has {_size(site.temporary_free)} free; free some, or set TMPDIR",
            )
        if not on_gpus and 0 < site.memory_available < needed_memory * len(facts):
            yield Finding(
                host.ranks,
                f"{_size(site.memory_available)} of memory are left; weights, gradients and optimizer states of "
                f"{len(facts)} rank(s) take {_size(needed_memory * len(facts))} at least",
            )


def _versions(world: WorldFacts) -> Iterator[tuple[str, Finding]]:
    sites = {host: _all_versions(site) for host, site in world.sites.items()}
    names = dict.fromkeys(name for versions in sites.values() for name in versions)
    for name in names:
        usual, odd = odd_ones({h: versions.get(name, _NONE) for h, versions in sites.items()})
        for value, hosts in odd.items():
            text = f"{name} {value}, the others have {usual}; install the same on every host"
            yield name, Finding(ranks_of(hosts), text)


def _all_versions(site: Site) -> dict[str, str]:
    drivers = sorted({gpu.driver for gpu in site.gpus.values()})
    return site.versions | ({"driver": " and ".join(drivers)} if drivers else {})


def _code(world: WorldFacts) -> Iterator[Finding]:
    sites = world.sites
    usual, odd = odd_ones({host: (site.code, site.commit) for host, site in sites.items()})
    for (code, commit), hosts in odd.items():
        assert usual is not None
        if code == usual[0]:
            continue
        texts = [
            f"{short[:10]}{f' (commit {of})' if of else ''}"
            for short, of in ((code, commit), usual)
        ]
        yield Finding(
            ranks_of(hosts),
            f"other program text in {sites[hosts[0]].folder}: {texts[0]}, the others have {texts[1]}; use the "
            "same checkout everywhere",
        )


def _corpora(world: WorldFacts) -> Iterator[Finding]:
    sites = world.sites
    for host, site in sites.items():
        for corpus in site.corpora.values():
            if corpus.problem:
                yield Finding(host.ranks, corpus.problem)
    for name in dict.fromkeys(name for site in sites.values() for name in site.corpora):
        there = {h: s.corpora[name] for h, s in sites.items() if name in s.corpora}
        whole = {host: corpus for host, corpus in there.items() if corpus.manifest}
        usual, odd = odd_ones({h: (c.manifest, c.tokenizer, c.tokens) for h, c in whole.items()})
        for found, hosts in odd.items():
            assert usual is not None
            what = "made with another tokenizer" if found[1] != usual[1] else "other token files"
            yield Finding(
                ranks_of(hosts),
                f"{whole[hosts[0]].path}: {what} than on the other hosts ({found[2]:,} tokens, manifest "
                f"{found[0][:10]}; there {usual[2]:,}, {usual[0][:10]}); copy the same files everywhere",
            )


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.0f} MB"
