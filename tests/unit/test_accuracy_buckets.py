"""Buckets of the evaluation of accuracy: equal ones of a number of places, or ends at powers of two."""

import pytest

from train.evaluation.scoring import Counts


@pytest.mark.parametrize(
    ("bucket_tokens", "wanted"),
    [
        (0, [(0, 32, 32, 1.0), (32, 64, 32, 0.5), (64, 70, 6, 0.0)]),
        (32, [(0, 32, 32, 1.0), (32, 64, 32, 0.5), (64, 70, 6, 0.0)]),
        (35, [(0, 35, 35, 33.5 / 35), (35, 70, 35, 14.5 / 35)]),
        (100, [(0, 70, 70, 48 / 70)]),
    ],
)
def test_a_bucket_has_the_places_that_the_setting_gives_it(
    bucket_tokens: int, wanted: list[tuple[int, int, int, float]]
) -> None:
    counts = Counts(70, 1)
    counts.by_place[1] = 1.0
    counts.by_place[0, :32], counts.by_place[0, 32:64] = 1.0, 0.5
    buckets = counts.shares(64, bucket_tokens)["position_buckets"]
    assert [(b["start"], b["end"], b["tokens"], b["accuracy"]) for b in buckets] == wanted


def test_a_bucket_of_one_place_has_no_accuracy_where_no_token_counts() -> None:
    counts = Counts(3, 1)
    counts.by_place[:, 2] = 1.0
    buckets = counts.shares(2, 1)["position_buckets"]
    assert [bucket["accuracy"] for bucket in buckets] == [None, None, 1.0]
