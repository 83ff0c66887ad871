"""What is frozen takes no memory beside its weights: no master, no states, no gradients, under every ZeRO stage.

Counted are the storages that exist after a step beyond those before the engine was built.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch

from parallel.config import ParallelConfig, ParameterGroup
from parallel.mesh import arrange, start
from ranks import run_on_ranks
from tests.parity.engine_steps import CPU, small_configuration, step, trainer_of, weights
from tests.parity.group_cases import training_of
from tests.parity.layout_cases import MODELS, Case
from tests.parity.test_costs_held import let_go_of_transfers, live_storages

CASE = Case(1, 1, 1, 1, "-", "-", 2, "wide", "input")
WIDE = replace(MODELS["cohere"], num_layers=4, hidden_size=128, intermediate_size=512)
# Only the final norm trains, 128 numbers.
GROUPS = {
    "rest": ParameterGroup(frozen=True),
    "norm": ParameterGroup(parameters=["norm.weight"]),
    "layers": ParameterGroup(parameters=["layers.*"], frozen=True),
}
LAYOUTS = [
    (ParallelConfig(), "bfloat16"),
    (ParallelConfig(zero_stage=3), "float32"),
]
OTHERS = [
    (ParallelConfig(zero_stage=0), "float32"),
    (ParallelConfig(), "float32"),
    (ParallelConfig(zero_stage=2), "float32"),
    (ParallelConfig(zero_stage=2), "bfloat16"),
    (ParallelConfig(zero_stage=3), "bfloat16"),
    (ParallelConfig(tensor=2), "bfloat16"),
    (ParallelConfig(pipeline=2), "bfloat16"),
]


@pytest.mark.parametrize(
    "layouts", [LAYOUTS, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["first", "others"]
)
def test_frozen_parameters_have_weights_alone(
    layouts: list[tuple[ParallelConfig, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS, "wide", WIDE)
    small_configuration()
    training = training_of(WIDE, GROUPS)

    def work(rank: int, world_size: int) -> list[Any]:
        world, found = start(CPU, 60).world, []
        for parallel, precision in layouts:
            mesh = arrange(world, parallel.topology(world_size))
            before = live_storages()
            how = {"training": training, "precision": precision, "keep_for_backward": "input"}
            trainer = trainer_of(mesh, WIDE, parallel, **how)
            for number in range(2):
                assert step(trainer, mesh, CASE, parallel, number).applied
            let_go_of_transfers(mesh)
            after = live_storages()
            grown = sum(after[key].nbytes() for key in after.keys() - before.keys())
            parameters = trainer.engine.parameters
            held = sum(parameters.shape(name).numel() for name in parameters.named)
            share = held / (world_size if parallel.zero_stage == 3 else 1)
            size = torch.tensor([], dtype=getattr(torch, precision)).element_size()
            whole = weights(trainer)
            trains = [name for name, of_name in whole.items() if len(of_name) > 1]
            found.append((grown, share * size, trains))
            trainer.engine.close()
            del trainer, whole, before, after
        return found

    for number, found in enumerate(run_on_ranks(work, 2)):
        for (parallel, precision), (grown, own, trains) in zip(layouts, found, strict=True):
            last = parallel.pipeline == 1 or number == 1
            assert trains == (["norm.weight"] if last else [])
            # Streams, tables of rotations and DeepSpeed's small buffers; one state of all would be 3 MB.
            assert own <= grown <= own + 200_000, f"{parallel} {precision}"
