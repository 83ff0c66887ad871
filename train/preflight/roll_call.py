"""Before any group exists: collects all ranks, their mistakes, and differences between their configurations.

A rank that found a mistake and exited alone would leave the others waiting for it. So all ranks come to the
rendezvous, with mistakes or without, and leave it together.
"""

import json
from collections.abc import Sequence

from parallel.launcher import launched_local_rank, launched_world_size
from parallel.rendezvous.meeting import Meeting, Words, attendance_problems, meet
from train.configuration.schema import RunConfig
from train.preflight.collect import this_host
from train.preflight.findings import Finding, hosts_of, name_ranks, say_by_host
from train.preflight.settings import digest, settings_findings, settings_of, spokesmen

# Prefix of a line that is no mistake: the main rank asks this rank for its configuration.
_ASKED = "\0settings of rank "


def call_roll(
    mistakes: Sequence[str], seconds: float, config: RunConfig | None = None
) -> tuple[Meeting, list[str]]:
    """Returns the rendezvous of the ranks, and the mistakes of all ranks by host. Collective.

    config: the configuration of this rank; None if it has mistakes.

    Raises:
        ValueError: this rank cannot reach the others; one line.
    """
    host, machine = this_host()
    settings = {} if config is None else settings_of(config)
    word = {
        "host": host,
        "machine": machine,
        "local_rank": launched_local_rank(),
        "world_size": launched_world_size(),
        "mistakes": list(mistakes),
        "settings": digest(settings),
    }
    meeting = meet(seconds)
    roll: list[Words] = []

    def judge(said: Words) -> list[str]:
        roll.append(said)
        found = roll_problems(said, meeting.world_size, seconds)
        ask = (
            []
            if found
            else spokesmen([(rank, json.loads(told)["settings"]) for rank, told in said])
        )
        return found or [f"{_ASKED}{rank}" for rank in ask]

    found = meeting.roll_call(json.dumps(word), judge)
    if not found or not found[0].startswith(_ASKED):
        return meeting, found
    is_asked = f"{_ASKED}{meeting.rank}" in found
    return meeting, meeting.roll_call(
        json.dumps(settings) if is_asked else "",
        lambda said: _settings_problems(roll[0], said),
        topic="settings",
    )


def _settings_problems(roll: Words, said: Words) -> list[str]:
    """Returns which configurations differ, by host. roll: words of the roll call; said: settings of those asked."""
    words = [(rank, json.loads(word)) for rank, word in roll]
    hosts = hosts_of([(rank, word["host"], word["machine"]) for rank, word in words])
    told = {rank: json.loads(settings) for rank, settings in said if settings}
    digests = [(rank, word["settings"]) for rank, word in words]
    return say_by_host(settings_findings(digests, told), hosts)


def roll_problems(said: Words, world_size: int, seconds: float) -> list[str]:
    """Returns why the ranks that came cannot start, by host. said: (rank, JSON), in order of arrival."""
    words = [(rank, json.loads(word)) for rank, word in said]
    hosts = hosts_of([(rank, word["host"], word["machine"]) for rank, word in words])
    findings = [Finding((), line) for line in attendance_problems(said, world_size, seconds)]
    if findings:
        came = ", ".join(f"{host.name} ({name_ranks(host.ranks)})" for host in hosts[:8])
        more = f" and {len(hosts) - 8} more hosts" if len(hosts) > 8 else ""
        findings.append(Finding((), f"came: {came}{more}"))
    # A mistake of all ranks is one of the configuration, and is reported without ranks.
    common = set.intersection(*(set(word["mistakes"]) for _, word in words))
    for rank, word in words:
        findings += [Finding(() if line in common else (rank,), line) for line in word["mistakes"]]
        if word["world_size"] != world_size:
            findings.append(
                Finding(
                    (rank,),
                    f"WORLD_SIZE={word['world_size']}, on the main rank {world_size}; give every process the same",
                )
            )
    return say_by_host(findings, hosts)
