"""A slow rank is the one whose own work takes longer, not the one whose steps do."""

import torch

from parallel.mesh import start
from ranks import run_on_ranks
from train.health.stragglers import Round, Stragglers


def test_the_slowest_rank_and_its_slowdown() -> None:
    found = Round(torch.tensor([1.0, 1.1, 3.0, 0.9]) * 1e-3, torch.tensor([0.0, 0.2, 0.0, 0.0]))
    assert found.row() == {
        "slowest_rank": 2,
        "slowdown": 3.0,
        "data_rank": 1,
        "data_seconds": float(torch.tensor(0.2)),
    }
    assert found.slow(1.5) == {2}


def test_a_rank_is_named_when_it_was_slow_twice_in_a_row() -> None:
    def work(rank: int, _: int) -> list[str]:
        stragglers = Stragglers(start(torch.device("cpu"), 60), steps=2, factor=1.5)
        slow_rounds = [True, False, True, True]
        times = [(5e-3 if rank == 2 and slow else 1e-3) for slow in slow_rounds for _ in range(2)]
        probes = iter([1.0, 1.0, *times])  # two steps to warm up come first
        stragglers._time_probe = lambda: next(probes)  # type: ignore[method-assign]
        said = []
        for _ in range(10):
            said += stragglers.step(data_seconds=0.0)[1]
        return said

    for said in run_on_ranks(work, 3):
        assert len(said) == 1
        assert "rank 2 on " in said[0]
        assert "takes it 5.0 times the median, over the last 4 steps" in said[0]
