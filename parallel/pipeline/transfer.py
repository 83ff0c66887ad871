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
from parallel.watch.waiting import waiting


class Delivery:
    """A tensor under way. Holds it until it has been waited for."""

    def __init__(
        self, call: Callable[..., Any], tensor: Tensor, peer: int, group: AxisGroup
    ) -> None:
        message = dist.P2POp(call, tensor, group.ranks[peer], group.group)
        self._works, self._tensor = dist.batch_isend_irecv([message]), tensor
        self._group, self._what = group, f"{call.__name__} with rank {group.ranks[peer]}"

    def wait(self) -> Tensor:
        """The tensor, sent or received. On a GPU only the current stream waits."""
        with waiting(self._group.description, self._what):
            for work in self._works:
                work.wait()
        return self._tensor


def start_send(tensor: Tensor, peer: int, group: AxisGroup) -> Delivery:
    """Send to the rank with coordinate `peer`."""
    return Delivery(dist.isend, tensor, peer, group)


def start_receive(tensor: Tensor, peer: int, group: AxisGroup) -> Delivery:
    """Receive into `tensor` from the rank with coordinate `peer`."""
    return Delivery(dist.irecv, tensor, peer, group)
