"""What an evaluation could disturb, one by one: generators, traffic meters, peak memory."""

import random
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from parallel.sequence.traffic import TrafficMeter
from train.evaluation import peak_memory
from train.evaluation.peak_memory import PeakMemory
from train.evaluation.undisturbed import undisturbed

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def trainer() -> SimpleNamespace:
    engine = SimpleNamespace(only_forwards=nullcontext)
    return SimpleNamespace(traffic=TrafficMeter(), engine=engine, evaluated_tokens=5)


def drawn() -> list[float]:
    return [random.random(), np.random.rand(), float(torch.rand(()))]


@pytest.mark.parametrize("fails", [False, True])
def test_generators_and_traffic_meters_are_set_back_also_after_an_error(fails: bool) -> None:
    one = trainer()
    one.traffic.add("full", "forward", 100)
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    wanted = drawn()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    with (
        pytest.raises(KeyError) if fails else nullcontext(),
        undisturbed(one, CPU, PeakMemory()) as cost,
    ):
        drawn()
        torch.manual_seed(9), random.seed(9), np.random.seed(9)
        one.traffic.add("full", "forward", 7)
        one.traffic.reset()
        one.traffic.add("window", "backward", 7)
        one.evaluated_tokens += 64
        if fails:
            raise KeyError
    assert drawn() == wanted
    assert one.traffic.bytes == {("full", "forward"): 100}
    if not fails:
        assert cost.tokens == 64
        assert cost.seconds > 0


def test_the_peak_of_a_process_is_that_of_training_until_an_evaluation_raises_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = SimpleNamespace(ru_maxrss=4)
    monkeypatch.setattr(peak_memory.resource, "getrusage", lambda _: now)
    memory = PeakMemory()
    found = []
    # The peak of the process, in KiB: before, in and after each of three evaluations.
    for before, within, after in ((4, 6, 6), (6, 6, 7), (7, 9, 8)):
        now.ru_maxrss = before
        with memory.apart(CPU) as apart:
            now.ru_maxrss = within
        now.ru_maxrss = max(within, after)
        found.append((apart.bytes, memory.of_training(CPU)))
    assert found == [(6 << 10, 4 << 10), (None, 7 << 10), (9 << 10, 7 << 10)]


def test_a_gpu_counts_both_peaks_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = SimpleNamespace(now=1, peak=3)

    def reset(_: torch.device) -> None:
        allocator.peak = allocator.now

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: allocator.peak)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    memory = PeakMemory()
    with memory.apart(GPU) as apart:
        allocator.peak = 2
    assert (apart.bytes, memory.of_training(GPU)) == (2, 3)
    with memory.apart(GPU) as apart:
        allocator.peak = 9
    assert (apart.bytes, memory.of_training(GPU)) == (9, 3)
    allocator.peak = 4
    assert memory.of_training(GPU) == 4
