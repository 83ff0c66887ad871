"""Transfers of the sequence axis run beside computation: counted, without a clock.

A transfer is exposed if its rank called no kernel between starting it and waiting for it. All that hides nothing is
the end of a full layer's backward, where the gradients of the last step's keys go home.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from model.attention.segments import BandedSegments
from model.documents import Documents
from model.reach import Reach
from parallel.mesh import Mesh, start
from parallel.sequence import exchanged, ring
from parallel.sequence.dealing import deal_zigzag
from parallel.sequence.layout import ShardedLayout, build_share
from parallel.sequence.ring import RingCore
from parallel.sequence.traffic import TrafficMeter
from parallel.sequence.window import WindowCore
from parallel.sequence.wire import Wire
from parallel.topology import Topology
from parallel.transfer import Transfer
from ranks import run_on_ranks
from tests.layer_kinds import kind_of

TOKENS, WINDOW, SHORT = 768, 20, (20,) * 38 + (8,)


@dataclass
class Watch:
    """Kernel calls, transfers and exposed ones so far."""

    calls: int = 0
    transfers: int = 0
    exposed: int = 0


class WatchedTransfer(Transfer):
    """A transfer that notes whether anything was computed while it was under way."""

    def __init__(self, transfer: Transfer, watch: Watch) -> None:
        self._transfer, self._watch, self._calls = transfer, watch, watch.calls
        watch.transfers += 1

    def wait(self) -> Tensor:
        """The received rows."""
        self._watch.exposed += self._calls == self._watch.calls
        return self._transfer.wait()


@dataclass(frozen=True)
class WatchedWire(Wire):
    """The same wire, watched."""

    watch: Watch = field(default_factory=Watch)

    def swap(self, send_R2GK: Tensor, distance: int, receive_R2GK: Tensor) -> Transfer:
        """See `Wire`."""
        transfer = super().swap(send_R2GK, distance, receive_R2GK)
        talks = len(send_R2GK) + len(receive_R2GK)
        return WatchedTransfer(transfer, self.watch) if talks else transfer

    def exchange(
        self, send_R2GK: Tensor, send_rows: tuple[int, ...], receive_rows: tuple[int, ...]
    ) -> Transfer:
        """See `Wire`."""
        return WatchedTransfer(super().exchange(send_R2GK, send_rows, receive_rows), self.watch)


class WatchedKernel:
    """A `SegmentKernel` whose calls are counted."""

    def __init__(self, kernel: Any, watch: Watch) -> None:
        self._kernel, self._watch = kernel, watch

    def forward(self, *given: Any) -> Any:
        """As the kernel does."""
        self._watch.calls += 1
        return self._kernel.forward(*given)

    def backward(self, *given: Any) -> Any:
        """As the kernel does."""
        self._watch.calls += 1
        return self._kernel.backward(*given)


def watched_cores(
    mesh: Mesh, watch: Watch, kernel: Any, wire: Callable[..., Wire] = WatchedWire
) -> tuple[RingCore, WindowCore]:
    """Both cores, with wires and kernels that are watched; the latter for all of this process."""
    for module in (ring, exchanged):
        module.choose_segment_kernel = lambda *_: WatchedKernel(kernel, watch)
    full, windowed, meter = (
        RingCore("full", mesh.sequence),
        WindowCore("window", mesh.window),
        TrafficMeter(),
    )
    full.wire = wire(mesh.sequence, "full", meter, watch)
    windowed.wire = wire(mesh.window, "window", meter, watch)
    return full, windowed


@pytest.mark.parametrize("size", [2, 4])
def test_only_the_last_gradients_of_a_full_layer_travel_with_nothing_to_compute(size: int) -> None:
    """Zigzag, so that every rank has work in every step."""

    def work(rank: int, world_size: int) -> None:
        watch = Watch()
        mesh = start(torch.device("cpu"), 60, Topology(sequence=size))
        full, windowed = watched_cores(mesh, watch, BandedSegments())
        steps = size - 1
        for core, reach, lengths, forward, both, exposed in (
            (full, Reach(), (TOKENS,), steps, 3 * steps, 1),
            (full, Reach(), SHORT, 1, 2, 0),
            (windowed, Reach(WINDOW), (TOKENS,), 1, 2, 0),
        ):
            share = build_share(
                deal_zigzag(TOKENS, size), Documents.of(lengths), rank, {kind_of(reach): reach}
            )
            leaves = [torch.randn(TOKENS // size, n, 4, requires_grad=True) for n in (2, 1, 1)]
            watch.transfers = watch.exposed = 0
            out = core(*leaves, ShardedLayout.from_share(share), reach)
            assert (watch.transfers, watch.exposed) == (forward, 0)
            out.sum().backward()
            assert (watch.transfers, watch.exposed) == (both, exposed)

    run_on_ranks(work, size)
