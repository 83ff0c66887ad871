"""Computes one verdict from the facts of all ranks. A pure function, so that tests can construct every fault."""

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
    """Findings as lines by host, and tables. broken: groups may hang, so a process must exit without closing them."""

    problems: list[str]
    warnings: list[str]
    summary: str
    tables: str
    broken: bool

    @property
    def page(self) -> str:
        """Returns the text of preflight.txt."""
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
    """Returns the verdict, and the content of preflight.json.

    facts, trials: of the ranks that sent them. topologies: the rank grids of the run. rank_bytes: least memory
    that a rank needs.
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
