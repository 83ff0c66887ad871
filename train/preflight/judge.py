"""From the facts of all ranks to one verdict. A pure function, so that every fault can be invented in a test."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from parallel.topology import Topology
from train.configuration.schema import PreflightConfig
from train.preflight import judge_hosts, judge_trials, judge_world, table
from train.preflight.facts import Facts, Trial
from train.preflight.findings import say_by_host
from train.preflight.world_facts import WorldFacts


@dataclass(frozen=True)
class Verdict:
    """What was found, in lines by host; and as tables. broken: groups may wait for ever, so leave without them."""

    problems: list[str]
    warnings: list[str]
    summary: str
    tables: str
    broken: bool

    @property
    def page(self) -> str:
        """All of it, for preflight.txt."""
        lines = [f"problem: {line}" for line in self.problems]
        lines += [f"warning: {line}" for line in self.warnings]
        lines += [] if self.problems else [self.summary]
        return "\n".join(lines) + f"\n\n{self.tables}"


def judge(
    facts: Sequence[Facts],
    trials: Sequence[Trial],
    topologies: Sequence[Topology],
    *,
    limits: PreflightConfig,
    rank_bytes: float,
) -> tuple[Verdict, dict[str, Any]]:
    """The verdict, and all of it as JSON.

    facts, trials: of the ranks that spoke. topologies: the grids of the run. rank_bytes: memory that a rank
    needs at least.
    """
    world, world_size = WorldFacts(facts), topologies[0].world_size
    speeds = judge_trials.measure(world, trials, topologies[0])
    offsets = judge_trials.clock_offsets(world, trials)
    failures = list(judge_trials.failures(world, trials, topologies))
    problems = [
        *judge_world.problems(world, world_size),
        *judge_hosts.problems(world),
        *failures,
        *judge_trials.wrong_clocks(offsets, limits.clock_seconds),
    ]
    warnings = [
        *judge_world.warnings(world, topologies),
        *judge_hosts.warnings(world, rank_bytes),
        *judge_trials.warnings(world, speeds, limits.slow_link),
    ]
    verdict = Verdict(
        say_by_host(problems, world.hosts),
        say_by_host(warnings, world.hosts),
        summary=table.summary(world, speeds),
        tables=table.tables(world, speeds, offsets),
        broken=bool(failures) or len(trials) < world_size,
    )
    content = {"problems": verdict.problems, "warnings": verdict.warnings}
    return verdict, content | table.to_json(world, speeds, offsets)
