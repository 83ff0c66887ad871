"""The roll call before a run: missing ranks, mistakes, launchers that contradict themselves, names of hosts."""

import json
from collections.abc import Sequence

import pytest

from parallel.launcher import launch_problems
from train.preflight.findings import Finding, Host, say_by_host
from train.preflight.joining import stuck_problems
from train.preflight.roll_call import roll_problems


def said(rank: int, host: str, *mistakes: str, world_size: int = 4) -> tuple[int, str]:
    word = {"host": host, "machine": host, "world_size": world_size, "mistakes": mistakes}
    return rank, json.dumps(word)


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ([said(r, f"n{1 + r // 2}") for r in (1, 0, 3, 2)], []),
        (
            [said(0, "n1"), said(2, "n2"), said(1, "n1")],
            [
                "WORLD_SIZE=4: rank 3 did not come in 9 s; 3 came. See",
                "came: n1 (ranks 0-1), n2 (rank 2)",
            ],
        ),
        (
            [said(0, "n1"), said(1, "n1"), said(1, "n2"), said(3, "n2")],
            ["WORLD_SIZE=4: rank 2 did not", "WORLD_SIZE=4: more than one process came as rank 1"],
        ),
        (
            [said(0, "n1"), said(1, "n1"), said(2, "n2"), said(3, "n2", world_size=8)],
            ["n2 (rank 3): WORLD_SIZE=8, on the main rank 4; give"],
        ),
        (
            [said(r, f"n{1 + r // 2}", *(["no c.bin"] if r > 1 else [])) for r in range(4)],
            ["n2: no c.bin"],
        ),
        ([said(r, "n1", "model.window=0: must be") for r in range(4)], ["model.window=0: must be"]),
    ],
)
def test_the_roll_names_who_is_missing_and_who_has_a_mistake(
    words: Sequence[tuple[int, str]], lines: list[str]
) -> None:
    found = roll_problems(words, 4, 9.0)
    for line in lines:
        assert any(text.startswith(line) for text in found), found
    assert bool(found) is bool(lines)


def test_who_is_stuck_is_told_by_host() -> None:
    words = [(r, json.dumps([f"n{1 + r // 2}", "making the group of all ranks"])) for r in range(3)]
    stuck, silent = sorted(stuck_problems(words, 4, 60.0))
    assert stuck.startswith("all 2 hosts: making the group of all ranks took more than 60 s")
    assert silent.startswith("rank 3 said nothing")


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({}, ""),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}, ""),
        ({"WORLD_SIZE": "2"}, ""),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 with WORLD_SIZE=2: ranks go from 0 to 1"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK=one: must be a whole number"),
        ({"RANK": "0"}, "RANK is set but WORLD_SIZE is not"),
        (
            {"RANK": "0", "WORLD_SIZE": "8", "LOCAL_RANK": "4", "LOCAL_WORLD_SIZE": "4"},
            "LOCAL_RANK=4 with 4 ranks on this host",
        ),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "4"}, "more than there are"),
    ],
)
def test_a_launcher_that_contradicts_itself_is_caught(
    variables: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = launch_problems()
    assert (found == []) if not says else (says in found[0]), found


def test_many_hosts_are_not_all_named() -> None:
    hosts = [Host(f"n{number}", (2 * number, 2 * number + 1)) for number in range(9)]
    assert say_by_host([Finding((), "nobody's")], hosts) == ["nobody's"]
    assert say_by_host([Finding(tuple(range(18)), "a")], hosts) == ["all 9 hosts: a"]
    some = Finding((0, 1, 3, 4, 5, 6, 8, 9, 10), "b")
    assert say_by_host([some], hosts) == ["n0, n1 (rank 3), n2, n3 (rank 6), and 2 more hosts: b"]
    assert say_by_host([Finding((40,), "c")], hosts) == ["an unknown host (rank 40): c"]
