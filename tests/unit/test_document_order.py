"""The shuffled order is a permutation for every size, other in every epoch; shares are kept."""

import numpy as np
import pytest

from data.labels import EveryTarget
from data.packing.document_order import held_out, mix, mix_integers, shuffled
from data.packing.mixture import DocumentOrder, Shares, mixture_weights


class Lengths(EveryTarget):
    """Documents of given lengths."""

    def __init__(self, lengths: list[int]) -> None:
        self._lengths = np.array(lengths)
        self.num_documents = len(lengths)

    def document_lengths(self, documents: np.ndarray) -> np.ndarray:
        return self._lengths[documents]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 100, 1000, 4096, 4097])
def test_every_epoch_is_a_permutation(size: int) -> None:
    for epoch in range(3):
        order = shuffled(np.arange(size), size, seed=7, source=1, epoch=epoch)
        assert sorted(order.tolist()) == list(range(size))


def test_epochs_sources_and_seeds_differ_and_any_place_can_be_asked_for() -> None:
    def order(**changes: int) -> list[int]:
        keys = {"seed": 0, "source": 0, "epoch": 0, **changes}
        return shuffled(np.arange(1000), 1000, **keys).tolist()

    orders = [order(), order(epoch=1), order(source=1), order(seed=1)]
    for number, first in enumerate(orders):
        assert first != list(range(1000))
        for second in orders[number + 1 :]:
            assert sum(a == b for a, b in zip(first, second, strict=True)) < 10
    alone = [int(shuffled(np.array([i]), 1000, seed=0, source=0, epoch=0)[0]) for i in range(50)]
    assert alone == orders[0][:50]


def test_the_order_mixes_near_neighbours() -> None:
    order = shuffled(np.arange(10_000), 10_000, seed=0, source=0, epoch=0)
    # Correlation of place and document, and of following documents: a random order has 0 +- 0.01.
    assert abs(np.corrcoef(np.arange(10_000), order)[0, 1]) < 0.04
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.04


def test_a_corpus_of_a_trillion_documents_starts_at_once() -> None:
    size = 10**12
    order = shuffled(np.arange(size - 5, size), size, seed=0, source=0, epoch=3)
    assert len(set(order.tolist())) == 5
    assert order.min() >= 0
    assert order.max() < size


def test_mixing_is_splitmix64() -> None:
    # First outputs of SplitMix64 from state 0 (Vigna's reference implementation).
    assert [mix_integers(0), int(mix(np.array([0], dtype=np.uint64))[0])] == [
        0xE220A8397B1DCDAF
    ] * 2
    assert mix_integers(1, 2) != mix_integers(2, 1)


def test_held_out_share_is_the_fraction_and_nested() -> None:
    numbers = np.arange(100_000, dtype=np.uint64)
    few, many = held_out(numbers, 0.02, seed=0), held_out(numbers, 0.5, seed=0)
    assert few.mean() == pytest.approx(0.02, abs=0.002)
    assert many.mean() == pytest.approx(0.5, abs=0.01)
    assert (few <= many).all()
    assert not held_out(numbers, 0.0, seed=0).any()
    assert (held_out(numbers, 0.5, seed=1) != many).mean() == pytest.approx(0.5, abs=0.01)


def test_order_runs_through_epochs_without_empty_documents() -> None:
    order = DocumentOrder(Lengths([5, 0, 7]), source=2, seed=0)
    spans = [order.next() for _ in range(6)]
    assert [span.epoch for span in spans] == [0, 0, 1, 1, 2, 2]
    for epoch in range(3):
        of_epoch = [s for s in spans if s.epoch == epoch]
        assert sorted((s.document, s.length, s.source) for s in of_epoch) == [(0, 5, 2), (2, 7, 2)]


def test_sources_without_a_token_are_refused() -> None:
    with pytest.raises(ValueError, match="source 0: every document is empty"):
        DocumentOrder(Lengths([0, 0]), source=0, seed=0).next()
    with pytest.raises(ValueError, match="source 0: holds no document"):
        DocumentOrder(Lengths([]), source=0, seed=0)


def test_shares_pay_and_earn_and_forget_on_a_change() -> None:
    shares = Shares(3)
    shares.adopt((2.0, 1.0, 0.0))
    assert shares.most_behind() == 0
    shares.spend(0, 30)
    assert shares.state_dict()["credits"] == pytest.approx([-10.0, 10.0, 0.0])
    assert shares.most_behind() == 1
    assert shares.within(10.5) == [1, 0]
    assert shares.within(9.5) == [1]
    assert not shares.has_weight(2)
    shares.adopt((4.0, 2.0, 0.0))
    assert shares.most_behind() == 1, "the same mix written differently is no change"
    shares.adopt((1.0, 1.0, 1.0))
    assert shares.state_dict()["credits"] == [0.0, 0.0, 0.0]


def test_weights_are_put_in_order_and_normalised() -> None:
    assert mixture_weights(["a", "b", "c"], {"c": 1.0, "a": 3.0}) == (0.75, 0.0, 0.25)
    for weights, message in (
        ({"z": 1.0}, "mix.z=1.0: no such source; use a, b"),
        ({"a": -1.0}, "must be 0 or more"),
        ({"a": float("nan")}, "must be 0 or more"),
        ({"a": 0.0}, "no source has a positive weight"),
    ):
        with pytest.raises(ValueError, match=message):
            mixture_weights(["a", "b"], weights)
