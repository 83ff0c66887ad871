"""All communication of ring attention: swaps along the ring, and exchanges among all ranks of the axis.

    swap, distance 1         rank 0 -> 1 -> 2 -> 3 -> 0      a point-to-point message a rank
    exchange                 every rank to every rank         one all-to-all with a length for every pair

Messages hold one row per token, key and value side by side, so a peer gets ONE message. Both return a `Transfer` at
once; after its `wait` the received rows may be used (on CUDA by kernels launched after it: the host does not wait).
All ranks of the axis must start their transfers in the same order; a rank with nothing to send or receive in a swap
takes no part in it.

Shape letters: R rows of a message; 2 is key and value; G key/value heads, K head dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from parallel.mesh import AxisGroup
from parallel.sequence.traffic import Direction, TrafficMeter
from parallel.transfer import Transfer


@dataclass(frozen=True)
class Wire:
    """Transfers on the sequence axis for one kind of layer. Counts the received bytes."""

    axis: AxisGroup
    kind: str
    meter: TrafficMeter

    def swap(self, send_R2GK: Tensor, distance: int, receive_R2GK: Tensor) -> Transfer:
        """Starts a send to the rank `distance` after this one and a receive from the rank `distance` before it.

        With 0 rows there is no message in that direction.
        """
        messages = []
        for call, rows_R2GK, peer in (
            (dist.isend, send_R2GK, self._peer(distance)),
            (dist.irecv, receive_R2GK, self._peer(-distance)),
        ):
            if len(rows_R2GK):
                messages.append(dist.P2POp(call, rows_R2GK, peer, self.axis.group))
        works = dist.batch_isend_irecv(messages) if messages else []
        return self._started(works, receive_R2GK, send_R2GK)

    def exchange(
        self, send_R2GK: Tensor, send_rows: tuple[int, ...], receive_rows: tuple[int, ...]
    ) -> Transfer:
        """Starts an all-to-all: send_rows[r] rows go to rank r, in order of rank; receive_rows[r] come from it."""
        receive_R2GK = send_R2GK.new_empty(sum(receive_rows), *send_R2GK.shape[1:])
        work = dist.all_to_all_single(
            receive_R2GK,
            send_R2GK,
            list(receive_rows),
            list(send_rows),
            group=self.axis.group,
            async_op=True,
        )
        return self._started([work], receive_R2GK, send_R2GK)

    def receive(self, transfer: Transfer, direction: Direction) -> Tensor:
        """Waits for a transfer, counts its bytes, and returns the received rows."""
        received_R2GK = transfer.wait()
        self.meter.add(self.kind, direction, received_R2GK.nbytes)
        return received_R2GK

    def _started(
        self, works: Sequence[dist.Work], received_R2GK: Tensor, sent_R2GK: Tensor
    ) -> Transfer:
        group, operation = self.axis.description, "ring transfer"
        return Transfer(works, received_R2GK, sent_R2GK, group=group, operation=operation)

    def _peer(self, distance: int) -> int:
        return self.axis.ranks[(self.axis.rank + distance) % self.axis.size]


class Buffers:
    """Memory for rows in transfer, allocated once and used again by every layer and step.

    A slot is allocated anew when it has too few rows, or when dtype, device or width change.
    """

    def __init__(self) -> None:
        self._slots: dict[str, Tensor] = {}

    def rows(self, slot: str, num_rows: int, capacity: int, like_R2GK: Tensor) -> Tensor:
        """Returns the first `num_rows` rows of a slot with at least `capacity` rows, like those of `like_R2GK`.

        Their values are undefined. A request for 0 rows allocates nothing.
        """
        if num_rows == 0:
            return like_R2GK[:0]
        held = self._slots.get(slot)
        fits = (
            held is not None
            and len(held) >= capacity
            and held.shape[1:] == like_R2GK.shape[1:]
            and (held.dtype, held.device) == (like_R2GK.dtype, like_R2GK.device)
        )
        if not fits:
            self._slots[slot] = like_R2GK.new_empty(capacity, *like_R2GK.shape[1:])
        return self._slots[slot][:num_rows]

    @property
    def num_rows(self) -> dict[str, int]:
        """Number of rows of every slot."""
        return {slot: len(held) for slot, held in self._slots.items()}


def gather_rows(x_T2GK: Tensor, pieces: tuple[range, ...]) -> Tensor:
    """Returns the rows of all pieces in one tensor; a single piece is not copied."""
    parts = [x_T2GK[piece.start : piece.stop] for piece in pieces]
    if not parts:
        return x_T2GK[:0]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def add_rows(x_T2GK: Tensor, pieces: tuple[range, ...], rows_R2GK: Tensor) -> None:
    """Adds the rows of a message to the rows of the pieces, in order."""
    done = 0
    for piece in pieces:
        x_T2GK[piece.start : piece.stop].add_(rows_R2GK[done : done + len(piece)])
        done += len(piece)
