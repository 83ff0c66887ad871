"""Another DeepSpeed is told by the name that is gone, before a step is taken."""

from types import SimpleNamespace

import pytest
import torch

from parallel.engine.zero_adapters import ADAPTERS, adapter_for
from parallel.mesh import AxisGroup

ALONE = AxisGroup(0, (0,), None)


def built(kind: str, names: tuple[str, ...], parameter_names: tuple[str, ...] = ()) -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    for name in parameter_names:
        setattr(parameter, name, None)
    outer = type(kind, (), dict.fromkeys(names))()
    inner = torch.optim.SGD([parameter])
    adapter_for(SimpleNamespace(optimizer=outer), inner, {"weight": parameter}, ALONE)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_every_private_name_that_is_gone_is_told_in_one_line(kind: str) -> None:
    adapter = ADAPTERS[kind]
    for name in adapter.names:
        others = tuple(other for other in adapter.names if other != name)
        with pytest.raises(RuntimeError, match=f"^DeepSpeed's {kind} has no {name} any more; inst"):
            built(kind, others, adapter.parameter_names)
    for name in adapter.parameter_names:
        others = tuple(other for other in adapter.parameter_names if other != name)
        with pytest.raises(RuntimeError, match=rf"has no {name} \(of a parameter\) any more"):
            built(kind, adapter.names, others)


def test_an_optimizer_of_another_name_is_told_in_one_line() -> None:
    with pytest.raises(RuntimeError, match=r"^DeepSpeed's optimizer is Stage4; known are"):
        built("Stage4", ())
