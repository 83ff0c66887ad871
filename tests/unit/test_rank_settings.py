"""Ranks whose configurations differ: which, and by which keys."""

import json

from train.preflight.settings import digest, settings_findings, spokesmen


def told(**changes: object) -> dict[str, str]:
    values = {"seed": 0, "paths.outputs": "/home/a/outputs", "train.z_loss": 0.0} | changes
    return {key: json.dumps(value) for key, value in values.items()}


def test_ranks_with_another_configuration_are_named_with_the_keys_that_differ() -> None:
    usual, other = told(), told(**{"paths.outputs": "/home/b/outputs"})
    many = told(seed=1, **{"paths.outputs": "x" * 500, "train.z_loss": 1.0, "more": 2})
    turned = dict(reversed(usual.items()))
    by_rank = [other, usual, usual, usual, many, other, turned]
    digests = [(rank, digest(settings)) for rank, settings in enumerate(by_rank)]
    assert spokesmen(digests) == [1, 0, 4, 6]
    found = settings_findings(digests, {rank: by_rank[rank] for rank in (0, 1, 4)})
    assert [finding.ranks for finding in found] == [(0, 5), (4,), (6,)]
    head, end = (
        "another configuration than most ranks: ",
        "; give every rank the same arguments, files and start folder",
    )
    assert found[0].text == (
        f'{head}paths.outputs="/home/b/outputs" (most: "/home/a/outputs"){end}'
    )
    assert found[1].text.startswith(f'{head}seed=1 (most: 0), paths.outputs="xxx')
    assert found[1].text.endswith(f", and 1 more{end}")
    assert "no rank that has it answers" in found[2].text
    (again, *_) = settings_findings(digests[1:4] + digests[6:], {1: usual, 6: turned})
    assert again.text == f"{head}the same values in another order{end}"
    assert spokesmen(digests[1:4]) == []
