"""The only place where ring attention communicates: one swap along the ring, or one exchange among all.

    swap, distance 1         rank 0 -> 1 -> 2 -> 3 -> 0      a point-to-point message a rank
    exchange                 every rank to every rank         one all-to-all with a length for every pair

Messages hold one row per token, key and value side by side, so a peer gets ONE message. Both return at once
with a `Transfer`; `wait` makes the received rows usable (on CUDA for what is launched after it: the host
does not wait). All ranks of the axis must start their transfers in the same order; a rank that has nothing
to send nor to receive in a swap stays out of it.

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
    """The sequence axis for one kind of layer. Counts what arrives."""

    axis: AxisGroup
    kind: str
    meter: TrafficMeter

    def swap(self, send_R2GK: Tensor, distance: int, receive_R2GK: Tensor) -> Transfer:
        """Send to the rank `distance` further on, receive from the one as far behind; 0 rows: nothing."""
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
        """send_rows[r] rows go to rank r, in its order; receive_rows[r] come from it."""
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
        """Wait for a transfer and count what it brought."""
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
    """Memory for rows under way, taken once and used again by every layer and step.

    A slot grows to the most rows ever asked of it; it is taken anew when dtype, device or width change.
    """

    def __init__(self) -> None:
        self._slots: dict[str, Tensor] = {}

    def rows(self, slot: str, num_rows: int, capacity: int, like_R2GK: Tensor) -> Tensor:
        """The first `num_rows` rows of a slot that holds `capacity`, shaped like those of `like_R2GK`.

        What they hold is undefined. A slot that is asked for no rows takes no memory.
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
        """Rows held by every slot."""
        return {slot: len(held) for slot, held in self._slots.items()}


def gather_rows(x_T2GK: Tensor, pieces: tuple[range, ...]) -> Tensor:
    """The rows of all pieces in one message; a single piece is not copied."""
    parts = [x_T2GK[piece.start : piece.stop] for piece in pieces]
    if not parts:
        return x_T2GK[:0]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def add_rows(x_T2GK: Tensor, pieces: tuple[range, ...], rows_R2GK: Tensor) -> None:
    """Add a message into the rows it stands for, in the order of the pieces."""
    done = 0
    for piece in pieces:
        x_T2GK[piece.start : piece.stop].add_(rows_R2GK[done : done + len(piece)])
        done += len(piece)
