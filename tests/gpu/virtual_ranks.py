"""All ranks of a ring in one process, one after the other, on the real cores and kernels.

A core reaches its neighbours through one `Wire`, so another wire is all it takes. Ranks do not run at the same
time; instead the whole layer is run in turns, and a wire answers with what was sent in the turn before:

    turn 1    every rank sends its keys           receives zeros
    turn 2    every rank sends gradients of       receives the right keys
              the right keys
    turn 3                                        receives the right keys and the right gradients

After the third turn every rank holds what it would hold after one step of a real ring.

Shape letters: T tokens, R rows of a message, G key/value heads, K head dimension; 2 is key and value.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from attention_accuracy import run_core
from torch import Tensor

from model.attention.core import AttentionCore
from model.documents import Documents
from model.reach import Reach
from parallel.mesh import AxisGroup
from parallel.sequence.chunks import Dealing
from parallel.sequence.layout import ShardedLayout, build_share
from parallel.sequence.ring import RingCore
from parallel.sequence.route import Transport
from parallel.sequence.traffic import TrafficMeter
from parallel.sequence.window import WindowCore
from parallel.sequence.wire import Wire
from parallel.transfer import Transfer
from tests.layer_kinds import kind_of

TURNS = 3
# A message: its number in the turn, who sends it and to whom.
Address = tuple[int, int, int]


class Post:
    """Messages of this turn, and of the turn before, which are the ones that arrive."""

    def __init__(self) -> None:
        self._sent: dict[Address, Tensor] = {}
        self._arriving: dict[Address, Tensor] = {}
        self._started: Counter[int] = Counter()

    def number(self, rank: int) -> int:
        """Number of the transfer that `rank` starts now; all ranks start theirs in one order."""
        self._started[rank] += 1
        return self._started[rank]

    def send(self, address: Address, rows_R2GK: Tensor) -> None:
        """Take a message; its buffer may be used again."""
        if len(rows_R2GK):
            self._sent[address] = rows_R2GK.clone()

    def fill(self, address: Address, rows_R2GK: Tensor) -> None:
        """What arrives under this address, into `rows_R2GK`; zeros in the first turn."""
        if len(rows_R2GK):
            found = self._arriving.get(address)
            rows_R2GK.copy_(torch.zeros_like(rows_R2GK) if found is None else found)

    def end_turn(self) -> None:
        """From now on what was sent arrives."""
        self._arriving, self._sent = self._sent, {}
        self._started.clear()


@dataclass(frozen=True)
class PostWire(Wire):
    """A wire that leaves messages at the post instead of sending them."""

    post: Post

    def swap(self, send_R2GK: Tensor, distance: int, receive_R2GK: Tensor) -> Transfer:
        """See `Wire`."""
        number, me = self.post.number(self.axis.rank), self.axis.rank
        self.post.send((number, me, self._peer(distance)), send_R2GK)
        self.post.fill((number, self._peer(-distance), me), receive_R2GK)
        return Transfer([], receive_R2GK, send_R2GK)

    def exchange(
        self, send_R2GK: Tensor, send_rows: tuple[int, ...], receive_rows: tuple[int, ...]
    ) -> Transfer:
        """See `Wire`."""
        number, me = self.post.number(self.axis.rank), self.axis.rank
        receive_R2GK = send_R2GK.new_empty(sum(receive_rows), *send_R2GK.shape[1:])
        for peer, rows in enumerate(send_R2GK.split_with_sizes(list(send_rows))):
            self.post.send((number, me, peer), rows)
        for peer, rows in enumerate(receive_R2GK.split_with_sizes(list(receive_rows))):
            self.post.fill((number, peer, me), rows)
        return Transfer([], receive_R2GK, send_R2GK)


@dataclass(frozen=True)
class NoiseWire(Wire):
    """A wire that brings noise at once and sends nothing: what is left is a rank's own time."""

    noise: dict[torch.dtype, Tensor] = field(default_factory=dict)

    def swap(
        self,
        send_R2GK: Tensor,
        distance: int,  # noqa: ARG002
        receive_R2GK: Tensor,
    ) -> Transfer:
        """See `Wire`; the buffer is left as it is."""
        return Transfer([], self._noise(len(receive_R2GK), receive_R2GK), send_R2GK)

    def exchange(
        self,
        send_R2GK: Tensor,
        send_rows: tuple[int, ...],  # noqa: ARG002
        receive_rows: tuple[int, ...],
    ) -> Transfer:
        """See `Wire`."""
        return Transfer([], self._noise(sum(receive_rows), send_R2GK), send_R2GK)

    def _noise(self, num_rows: int, like_R2GK: Tensor) -> Tensor:
        held = self.noise.get(like_R2GK.dtype)
        if held is None or len(held) < num_rows:
            held = torch.randn(num_rows, *like_R2GK.shape[1:], device=like_R2GK.device)
            self.noise[like_R2GK.dtype] = held = held.to(like_R2GK.dtype)
        return held[:num_rows]


def axis_of(rank: int, size: int) -> AxisGroup:
    """A sequence axis without a process group."""
    return AxisGroup(rank, tuple(range(size)), None)


def core_of(
    axis: AxisGroup, reach: Reach, wire: Callable[..., Wire] | None = None
) -> AttentionCore:
    """The core of such layers, on a wire made by `wire(axis, kind, meter)`, or on its own."""
    core = RingCore("full", axis) if reach.window is None else WindowCore("window", axis)
    if wire is not None:
        core.wire = wire(axis, core.wire.kind, TrafficMeter())
    return core


def layout_of(
    dealing: Dealing,
    lengths: Sequence[int],
    rank: int,
    reach: Reach,
    device: torch.device,
    transport: Transport = "auto",
) -> ShardedLayout:
    """What `rank` is told about the stream, on the device."""
    return ShardedLayout.from_share(
        build_share(dealing, Documents.of(lengths), rank, {kind_of(reach): reach}, transport),
        device,
    )


def attend_in_turns(
    dealing: Dealing,
    lengths: Sequence[int],
    reach: Reach,
    transport: Transport,
    streams: Sequence[Tensor],
) -> list[Tensor]:
    """Output and gradients of q, k and v of the whole stream, each row from the rank that holds it.

    streams: q, k, v and the gradient of the output, of the whole stream.
    """
    post, ranks, device = Post(), range(dealing.size), streams[0].device

    def post_wire(*arguments: object) -> Wire:
        return PostWire(*arguments, post)  # type: ignore[arg-type]

    cores = [core_of(axis_of(rank, dealing.size), reach, post_wire) for rank in ranks]
    layouts = [layout_of(dealing, lengths, rank, reach, device, transport) for rank in ranks]
    rows = [
        torch.cat([torch.arange(held.start, held.stop) for held in dealing.ranges(rank)]).to(device)
        for rank in ranks
    ]
    parts: list[list[Tensor]] = []
    for _ in range(TURNS):
        parts = [
            run_core(cores[rank], [x[rows[rank]] for x in streams], layouts[rank], reach)
            for rank in ranks
        ]
        post.end_turn()
    order = torch.cat(rows).argsort()
    return [torch.cat(found)[order] for found in zip(*parts, strict=True)]
