"""Changes of a step from the optimizer's states after it, and parts of gradients at their places."""

import pytest
import torch

from parallel.config import OptimizerConfig
from parallel.engine import step_squares
from parallel.engine.optimizers import OPTIMIZERS, AfterStep
from parallel.engine.step_squares import _changes, _within
from parallel.engine.zero_adapters import Place

CONFIG = OptimizerConfig(beta1=0.8, beta2=0.9, epsilon=1e-6)
RATE = 0.05


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_the_change_of_adamw_is_that_of_torch_at_every_step(
    decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_squares, "_ELEMENTS", 4)
    generator = torch.Generator().manual_seed(1)
    weight = torch.nn.Parameter(torch.randn(11, generator=generator, dtype=torch.float64))
    adamw = torch.optim.AdamW(
        [weight], lr=RATE, betas=(0.8, 0.9), eps=1e-6, weight_decay=decay, foreach=False
    )
    for number in range(1, 4):
        before = weight.detach().clone()
        weight.grad = torch.randn(11, generator=generator, dtype=torch.float64)
        adamw.step()
        states = {name: adamw.state[weight][name] for name in ("exp_avg", "exp_avg_sq")}
        kept = {name: state.clone() for name, state in states.items()}
        after = AfterStep(CONFIG, weight.detach(), states, float(number), RATE, decay)
        pieces = list(_changes(after, OPTIMIZERS["adamw"].change))
        assert [len(piece) for piece in pieces] == [4, 4, 3]
        torch.testing.assert_close(
            torch.cat(pieces), weight.detach() - before, atol=1e-14, rtol=1e-12
        )
        assert all(torch.equal(states[name], kept[name]) for name in kept), "states stay"


def test_without_a_formula_the_change_is_not_a_number() -> None:
    after = AfterStep(CONFIG, torch.ones(3), {}, 1.0, RATE, 0.0)
    assert torch.cat(list(_changes(after, None))).isnan().all()


def test_a_part_of_a_gradient_may_lie_in_several_tensors_and_in_none() -> None:
    parts = [torch.arange(3.0), None, torch.arange(3.0, 9.0).view(2, 3), torch.tensor([9.0])]
    master = torch.zeros(10)

    def at(start: int, length: int) -> list[float]:
        found = list(_within(parts, Place(master, start, 0, length)))
        return torch.cat(found).tolist() if found else []

    assert at(0, 3) == [0.0, 1.0, 2.0]
    assert at(2, 5) == [2.0, 3.0, 4.0, 5.0, 6.0]
    assert at(8, 2) == [8.0, 9.0]
    assert at(4, 0) == [] and list(_within([], Place(master, 0, 0, 4))) == []
