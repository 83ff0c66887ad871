"""Whether all ranks have the same configuration, and which keys differ where they do not.

Each rank tells a digest. Only where digests differ, one rank of each is asked for the whole configuration.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from train.configuration.schema import RunConfig
from train.preflight.findings import Finding
from train.preflight.world_facts import majority

# Every value of a configuration as JSON, by its key.
Settings = Mapping[str, str]
# Of what differs, so many configurations, keys and characters of a value are told.
_MOST, _KEYS, _CHARACTERS = 8, 3, 120
_WAY_OUT = "give every rank the same arguments, files and start folder"


def settings_of(config: RunConfig) -> Settings:
    """Every key of a resolved configuration."""

    def leaves(value: Any, key: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                yield from leaves(inner, f"{key}.{name}" if key else name)
        else:
            yield key, json.dumps(value)

    return dict(leaves(dataclasses.asdict(config), ""))


def digest(settings: Settings) -> str:
    """The same for two configurations of the same keys, in the same order, with the same values."""
    return hashlib.sha256(json.dumps(list(settings.items())).encode()).hexdigest()


def spokesmen(digests: Sequence[tuple[int, str]]) -> list[int]:
    """Ranks with different configurations, the first of each; none where all have the same. digests: (rank, digest)."""
    first: dict[str, int] = {}
    for rank, text in sorted(digests):
        first.setdefault(text, rank)
    usual = majority([text for _, text in sorted(digests)])
    others = [rank for text, rank in first.items() if text != usual]
    return [first[usual], *others[:_MOST]] if others else []


def settings_findings(
    digests: Sequence[tuple[int, str]], told: Mapping[int, Settings]
) -> list[Finding]:
    """One finding for each configuration that is not that of most ranks. told: those of the spokesmen, by rank."""
    by_rank = dict(digests)
    usual, *odd = spokesmen(digests)
    return [
        Finding(
            tuple(rank for rank, text in by_rank.items() if text == by_rank[other]),
            f"another configuration than most ranks: {_differences(told.get(other), told.get(usual))}; {_WAY_OUT}",
        )
        for other in odd
    ]


def _differences(own: Settings | None, usual: Settings | None) -> str:
    if own is None or usual is None:
        return "no rank that has it answers any more"
    keys = [key for key in {**usual, **own} if own.get(key) != usual.get(key)]
    if not keys:
        return "the same values in another order"
    shown = [
        f"{key}={_shown(own.get(key))} (most: {_shown(usual.get(key))})" for key in keys[:_KEYS]
    ]
    more = len(keys) - _KEYS
    return ", ".join([*shown, f"and {more} more"] if more > 0 else shown)


def _shown(value: str | None) -> str:
    return "nothing" if value is None else value[:_CHARACTERS]
