"""What an update rule is given to see whole matrices with."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from parallel.engine.inner import sum_over
from parallel.mesh import AxisGroup

TWO = AxisGroup(0, (0, 1), None)


def test_all_parts_travel_together_once_an_axis_and_replicas_are_counted_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[Tensor] = []

    def with_an_equal_peer(tensor: Tensor, group: object) -> None:
        sent.append(tensor.clone())
        tensor.mul_(2)

    monkeypatch.setattr(dist, "all_reduce", with_an_equal_peer)
    parts = [torch.tensor(3.0), torch.full((2, 2), 5.0), torch.tensor([7.0])]
    scalar, matrix, vector = sum_over([TWO, TWO], parts, owners=[True, True, False])
    assert [tensor.tolist() for tensor in sent] == [
        [3.0, 5.0, 5.0, 5.0, 5.0, 0.0],
        [6.0, 10.0, 10.0, 10.0, 10.0, 0.0],
    ]
    assert torch.equal(scalar, torch.tensor(12.0))
    assert torch.equal(matrix, torch.full((2, 2), 20.0))
    assert torch.equal(vector, torch.tensor([0.0]))
    assert parts[2].item() == 7.0
