"""One evaluation, after which training goes on as if there had been none.

what an evaluation could disturb                      why training is the same after it
torch's, Python's and numpy's generators              set back to where they were
bytes counted by the traffic meter                    set back
sums over output gates                                no forward without gradients counts
peak memory                                           counted apart (peak_memory.py)
ZeRO-3: gathered parameters, recorded order           released, and the order of training kept (zero_adapters.py)
compiled regions                                      evaluations have compiled code of their own (model/regions.py)
the loader's place in the data                        held-out documents are read by readers of their own
W&B's step                                            evaluations have an axis of their own (wandb_log.py)
seconds and tokens per second of the step             the step's clock stands still

"""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from parallel.mesh import Mesh
from train.evaluation.peak_memory import ApartPeak, PeakMemory
from train.trainer import Trainer

# Fields of a row of evaluation.jsonl about what it took.
COST = ("seconds", "tokens_per_second", "peak_memory_bytes")


@dataclass
class Cost:
    """What one evaluation took on this rank; complete after it.

    tokens: of the streams that went through this rank's forwards, padding included.
    """

    seconds: float = 0.0
    tokens: int = 0
    memory: ApartPeak = field(default_factory=ApartPeak)


@contextmanager
def undisturbed(trainer: Trainer, device: torch.device, memory: PeakMemory) -> Iterator[Cost]:
    """Within it an evaluation may run; see the head of this file. Gives its cost, complete afterwards."""
    cost, started, tokens = Cost(), time.perf_counter(), trainer.evaluated_tokens
    with (
        _generators_kept(device),
        trainer.traffic.set_aside(),
        trainer.engine.only_forwards(),
        memory.apart(device) as cost.memory,
    ):
        yield cost
    cost.seconds = time.perf_counter() - started
    cost.tokens = trainer.evaluated_tokens - tokens


@contextmanager
def _generators_kept(device: torch.device) -> Iterator[None]:
    """Sets every generator of random numbers back to where it was."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(
        devices=[device] if device.type == "cuda" else [], device_type="cuda"
    ):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def cost_fields(cost: Cost, mesh: Mesh) -> dict[str, float | int | None]:
    """Returns the fields of a row of evaluation.jsonl about the evaluation's cost. Collective.

    The seconds are those of the slowest rank, the tokens those of all ranks, the memory that of this rank.
    """
    counts_once = mesh.model.rank == 0
    own = [cost.tokens if counts_once else 0, cost.seconds]
    every = mesh.gather_world(torch.tensor(own, dtype=torch.float64))
    seconds = float(every[:, 1].max())
    found = (seconds, float(every[:, 0].sum()) / seconds, cost.memory.bytes)
    return dict(zip(COST, found, strict=True))
