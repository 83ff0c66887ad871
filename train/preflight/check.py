"""The preflight: every rank collects facts, the main rank checks them, all ranks receive the verdict.

    main rank   makes and checks the corpus, writes a token into the run's folder, sends a `Brief` to the others
    all         send their facts; test every group of every layout
    main rank   checks facts and test results, writes preflight.txt and preflight.json, sends the verdict

All messages go through the rendezvous store, never through the groups under test.
"""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from data.files import reason, write_durably
from data.sources import make_corpus, open_corpus
from parallel.links import (
    MEASURED,
    GroupTest,
    TransferFailed,
    clock_rounds,
    groups_of,
    message_bytes,
    try_group,
)
from parallel.mesh import Mesh, arrange
from parallel.rendezvous.store_gather import StoreGather, StoreLost
from parallel.topology import Topology
from parallel.watch.waiting import waiting
from train.configuration import validate
from train.configuration.room import one_checkpoint_bytes
from train.configuration.schema import RunConfig, run_folder
from train.health.exit_status import refuse, refuse_alone
from train.preflight.collect import Brief, collect, stamps, this_host
from train.preflight.facts import Facts, Trial
from train.preflight.gpu import forget_memory
from train.preflight.judge import Verdict, judge
from train.preflight.output import Token, leave_token, remove_token
from train.schedule.stages import Schedule

# Extra seconds for the main rank, because other ranks may themselves be waiting out their timeout.
_SLACK = 15.0


class Unsound(ValueError):
    """This world may not start; one line per problem. alone: this rank reports by itself, not the main rank for all."""

    def __init__(self, verdict: Verdict, *, alone: bool = False) -> None:
        super().__init__("\n".join(verdict.problems))
        self.verdict, self.alone = verdict, alone

    def __reduce__(self) -> tuple["partial[Unsound]", tuple[Verdict]]:
        """Pickles the arguments of `__init__`, not the text."""
        return partial(Unsound, alone=self.alone), (self.verdict,)


def check(config: RunConfig, mesh: Mesh, schedule: Schedule) -> Verdict:
    """Checks hosts, files and links before the first step; also makes and checks the corpus. Collective.

    Raises:
        Unsound: on every rank, all problems at once.
    """
    through_store = mesh.through_store("preflight")
    patience = config.parallel.first_step_seconds
    brief, own = Brief({}, None), list[str]()
    try:
        if mesh.is_main:
            brief, own = _prepare(config)
            through_store.is_first(_machine())
            through_store.decide("brief", json.dumps(dataclasses.asdict(brief)))
        else:
            brief = _hear_brief(through_store, patience)
        # The first rank of a host collects facts about the host; on the main rank's host, the main rank.
        looks_at_host = mesh.is_main or through_store.is_first(_machine())
        facts = collect(config, mesh, brief, own, looks_at_host=looks_at_host)
        through_store.say("facts", json.dumps(facts.to_json()))
        topologies = layouts(schedule, mesh.world_size)
        trial = _try_groups(config, mesh, topologies, through_store)
        forget_memory(mesh.device)
        through_store.say("trials", json.dumps(trial.to_json()))
        if mesh.is_main:
            verdict = _judge(config, mesh, topologies, through_store)
            through_store.decide("verdict", json.dumps(dataclasses.asdict(verdict)))
        else:
            verdict = _hear_verdict(through_store, patience)
    except (StoreLost, TimeoutError) as error:
        line = f"preflight on {this_host()[0]}: {error}"
        raise Unsound(Verdict([line], [], "", "", broken=True), alone=True) from error
    finally:
        if mesh.is_main:
            remove_token(run_folder(config), brief.token)
    if verdict.problems:
        raise Unsound(verdict)
    return verdict


def refuse_unsound(error: Unsound) -> int:
    """Prints the problems on the main rank; returns the exit status. Ends the process if groups are broken."""
    lines = error.verdict.problems
    status = refuse_alone(lines[0]) if error.alone else refuse(lines)
    if error.verdict.broken:
        sys.stdout.flush()
        os._exit(status)
    return status


def _machine() -> str:
    return "host " + " ".join(this_host())


def layouts(schedule: Schedule, world_size: int) -> list[Topology]:
    """Returns the rank grids that the run will use, in order, each once."""
    return list(dict.fromkeys(stage.parallel.topology(world_size) for stage in schedule.stages))


def _prepare(config: RunConfig) -> tuple[Brief, list[str]]:
    """Does the main rank's part: makes and checks the corpus, writes a token into the run's folder."""
    found = []
    arguments = (config.data, config.paths.prepared, config.model.vocab_size)
    try:
        make_corpus(*arguments)
        if not validate.files(config):  # otherwise the host's facts report it
            open_corpus(*arguments, check=True)
    except ValueError as error:
        found += str(error).splitlines()
    except OSError as error:
        found.append(f"the corpus cannot be made or read: {reason(error)}")
    token: Token | None = None
    folder = run_folder(config)
    try:
        token = leave_token(folder)
    except OSError as error:
        if not any(line.startswith("paths.outputs") for line in validate.places(config)):
            found.append(
                f"paths.outputs={config.paths.outputs}: {folder.absolute()} cannot be written: {reason(error)}"
            )
    return Brief(stamps(config), token), found


def _hear_brief(through_store: StoreGather, patience: float) -> Brief:
    with waiting("", "the main rank to make and check the corpus"):
        told = through_store.await_decision("brief", patience)
    if told is None:
        raise TimeoutError(f"no message from the main rank in {patience:g} s")
    content: dict[str, Any] = json.loads(told)
    token = content["token"]
    return Brief(content["stamps"], Token(**token) if token else None)


def _hear_verdict(through_store: StoreGather, patience: float) -> Verdict:
    with waiting("", "the main rank's verdict"):
        told = through_store.await_decision("verdict", patience)
    if told is None:
        raise TimeoutError(f"no verdict from the main rank in {patience:g} s")
    return Verdict(**json.loads(told))


def _try_groups(
    config: RunConfig, mesh: Mesh, topologies: Sequence[Topology], through_store: StoreGather
) -> Trial:
    """Tests every group of this rank, one after the other; all ranks start each test together.

    A failing group makes some ranks late; without the barrier the next group would seem to fail too.
    """
    wanted, limit = config.preflight, config.preflight.timeout_seconds
    trial = Trial(mesh.rank)
    reads_all = config.data.full_check
    patience = config.parallel.first_step_seconds if reads_all else wanted.join_seconds
    with waiting("", "all ranks to give their facts"):
        here = through_store.line_up("facts", patience)
    if mesh.world_size == 1 or not wanted.links or not here:
        return trial
    try:
        trial.clock.extend(clock_rounds(mesh, limit))
        latency = min(left - entered for entered, left in trial.clock)
        trial.groups.append(GroupTest("control", 0, latency))
    except TransferFailed as failed:
        trial.groups.append(GroupTest("control", 0, error=str(failed)))
        through_store.raise_flag("failed")
    tried = set()
    for layout, topology in enumerate(topologies):
        if layout and through_store.has_flag("failed"):
            break  # creating groups needs all connections
        for name, group in groups_of(arrange(mesh.world, topology)).items():
            if id(group.group) in tried:
                continue
            tried.add(id(group.group))
            with waiting(group.description, "all ranks to come to the next group"):
                if not through_store.line_up(f"{layout} {name}", 4 * limit + _SLACK):
                    return trial
            measures = layout == 0 and name in MEASURED
            length = wanted.link_bytes or message_bytes(mesh.device)
            test = try_group(name, group, mesh.device, num_bytes=length * measures, seconds=limit)
            if test.error:
                through_store.raise_flag("failed")
            trial.groups.append(dataclasses.replace(test, layout=layout))
    through_store.line_up("tried", 4 * limit + _SLACK)
    return trial


def _judge(
    config: RunConfig, mesh: Mesh, topologies: Sequence[Topology], through_store: StoreGather
) -> Verdict:
    """Checks facts and test results on the main rank; waits only briefly, since late ranks have failed."""
    facts = [Facts.from_json(json.loads(word)) for _, word in through_store.hear("facts", _SLACK)]
    trials = [Trial.from_json(json.loads(word)) for _, word in through_store.hear("trials", _SLACK)]
    verdict, content = judge(
        facts,
        trials,
        topologies,
        limits=config.preflight,
        rank_bytes=one_checkpoint_bytes(config) / mesh.world_size,
    )
    folder = run_folder(config)
    with contextlib.suppress(OSError):  # a folder that cannot be written is already reported
        write_durably(folder / "preflight.txt", verdict.page)
        write_durably(folder / "preflight.json", json.dumps(content, indent=1) + "\n")
    return verdict
