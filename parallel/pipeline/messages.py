"""Single tensors between two ranks of a pipeline, on the communicator that the group's ranks share.

NCCL gives a send or a receive that is called by itself a communicator of its two ranks, made at their first
meeting: more memory, and a host that waits for the other. As a batch of one it travels on the group's, which
`mesh` has warmed. There a rank's transfers run one after the other: every rank must start its own in the order
that one list of all of them has. Any contiguous tensor may travel.
"""

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import Tensor

from parallel.mesh import AxisGroup
from parallel.transfer import Transfer


def start_send(tensor: Tensor, peer: int, group: AxisGroup) -> Transfer:
    """Send to the rank with coordinate `peer`; `wait` returns the tensor."""
    return _start(dist.isend, tensor, peer, group)


def start_receive(tensor: Tensor, peer: int, group: AxisGroup) -> Transfer:
    """Receive into `tensor` from the rank with coordinate `peer`; `wait` returns it."""
    return _start(dist.irecv, tensor, peer, group)


def _start(call: Callable[..., Any], tensor: Tensor, peer: int, group: AxisGroup) -> Transfer:
    rank = group.ranks[peer]
    works = dist.batch_isend_irecv([dist.P2POp(call, tensor, rank, group.group)])
    operation = f"{call.__name__} with rank {rank}"
    return Transfer(works, tensor, group=group.description, operation=operation)
