"""Sends single tensors between two ranks of a pipeline, on the group's communicator.

For a single send or receive NCCL makes a communicator of the two ranks at their first transfer, which takes memory
and makes one host wait for the other. A batch of one uses the group's communicator, which `mesh` has warmed up. On
it a rank's transfers run one after the other, so all ranks must start their transfers in the order of one common
list. Tensors must be contiguous.
"""

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import Tensor

from parallel.mesh import AxisGroup
from parallel.transfer import Transfer


def start_send(tensor: Tensor, peer: int, group: AxisGroup) -> Transfer:
    """Starts a send to the rank with coordinate `peer`; `wait` returns the tensor."""
    return _start(dist.isend, tensor, peer, group)


def start_receive(tensor: Tensor, peer: int, group: AxisGroup) -> Transfer:
    """Starts a receive into `tensor` from the rank with coordinate `peer`; `wait` returns it."""
    return _start(dist.irecv, tensor, peer, group)


def _start(call: Callable[..., Any], tensor: Tensor, peer: int, group: AxisGroup) -> Transfer:
    rank = group.ranks[peer]
    works = dist.batch_isend_irecv([dist.P2POp(call, tensor, rank, group.group)])
    operation = f"{call.__name__} with rank {rank}"
    return Transfer(works, tensor, group=group.description, operation=operation)
