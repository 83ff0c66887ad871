"""Checks that all ranks have the same configuration, and finds the keys that differ.

Each rank sends a digest. Only if digests differ, one rank for each digest sends the whole configuration.
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
# Most differing configurations, keys and characters of a value that are reported.
_MOST, _KEYS, _CHARACTERS = 8, 3, 120
_WAY_OUT = "give every rank the same arguments, files and start folder"


def settings_of(config: RunConfig) -> Settings:
    """Returns every key of a resolved configuration with its value as JSON."""

    def leaves(value: Any, key: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                yield from leaves(inner, f"{key}.{name}" if key else name)
        else:
            yield key, json.dumps(value)

    return dict(leaves(dataclasses.asdict(config), ""))


def digest(settings: Settings) -> str:
    """Returns a digest of keys and values, in order."""
    return hashlib.sha256(json.dumps(list(settings.items())).encode()).hexdigest()


def spokesmen(digests: Sequence[tuple[int, str]]) -> list[int]:
    """Returns the first rank of each different configuration; none if all are the same. digests: (rank, digest)."""
    first: dict[str, int] = {}
    for rank, text in sorted(digests):
        first.setdefault(text, rank)
    usual = majority([text for _, text in sorted(digests)])
    others = [rank for text, rank in first.items() if text != usual]
    return [first[usual], *others[:_MOST]] if others else []


def settings_findings(
    digests: Sequence[tuple[int, str]], told: Mapping[int, Settings]
) -> list[Finding]:
    """Returns a finding for each configuration unlike most. told: configurations of the spokesmen, by rank."""
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
