"""Plain ring attention, the rival of `ring_side_by_side.py`: all keys go round, and a mask says who sees what.

Modelled on the ring attention that is in use for long documents: two chunks a rank in a zigzag; in each of n - 1
steps every rank hands the keys and values it holds to its neighbour, in every layer, whatever the documents and
the window are; in backward they go round once more, and their gradients n times, in float32.

    rank r of n holds chunks r and 2n - 1 - r. In step s it works on the shard of rank h = r - s:

    h < r      both its chunks see the shard's front chunk, its back chunk is their future
    h > r      its back chunk sees the whole shard, its front chunk none of it

So a step is one rectangle and the future is never computed. What is left is a lower bound: a query sees the keys
of the rectangle from some row on (its document's start, its window's), so a mask is a staircase. Two rivals:

    masked   a rectangle that somebody sees is computed whole, masked unless all of it is seen
    tiles    128 queries at a time, over the keys from the first that one of them sees: what a block-sparse
             kernel skips at best. It shows what masks alone cost.

To be fair they have our kernels, our log-sum-exp merge, wire and double buffering; what is on the rank itself is
the same causal call as ours, windowed where the layer is; plans are made once a stream; a rectangle without
visible keys is not computed, and one that is wholly visible gets no mask.

Shape letters: T local tokens, S keys of a tile, L queries of a tile; 2 is key and value; H query heads, G key/value
heads, K head dimension.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from model.attention.kept import Attended
from model.attention.segments import BandedSegments, Segments
from model.attention.small_problems import Problem, attend, attend_backward
from model.documents import Documents
from model.packed_layout import PackedLayout
from model.reach import Reach
from parallel.mesh import AxisGroup
from parallel.sequence.chunks import Dealing
from parallel.sequence.local import Gradients, attend_calls, attend_calls_backward
from parallel.sequence.merge import merge_part, put_part
from parallel.sequence.route import Call, Own
from parallel.sequence.traffic import TrafficMeter
from parallel.sequence.wire import Buffers, Wire

Rival = Literal["masked", "tiles"]
# Queries that share a mask; the kernel is as quick with 128 as with more.
_MASKED_QUERIES, _TILE_QUERIES = 256, 128


@dataclass(frozen=True)
class Tile:
    """These local queries over these rows of a shard; query i sees those from first[i] on, None: all."""

    queries: slice
    keys: slice
    first: Tensor | None

    def mask(self, like: Tensor) -> Tensor | None:
        """Additive (L, S)."""
        if self.first is None:
            return None
        width = self.keys.stop - self.keys.start
        hidden_LS = torch.arange(width) < self.first[:, None]
        return like.new_zeros(hidden_LS.shape).masked_fill_(hidden_LS, float("-inf"))


@dataclass(frozen=True)
class PlainPlan:
    """One rank's work in a layer: the causal calls on its own keys, then tiles[s] on the shard of step s."""

    local: tuple[Call, ...]
    tiles: tuple[tuple[Tile, ...], ...]


def plan(
    dealing: Dealing, lengths: Sequence[int], rank: int, window: int | None, rival: Rival
) -> PlainPlan:
    """dealing: zigzag."""
    own, size, chunk = Own(dealing, Documents.of(lengths), rank), dealing.size, dealing.chunk_tokens
    first = _first_visible(lengths, window)[_positions(dealing, rank)]
    steps: list[tuple[Tile, ...]] = []
    for step in range(size):
        holder = (rank - step) % size
        keys = _positions(dealing, holder)
        if holder < rank:
            steps.append(tuple(_tiles(first, keys[:chunk], 0, rival)))
        elif holder > rank:
            steps.append(tuple(_tiles(first[chunk:], keys, chunk, rival)))
        elif window is not None and len(dealing.ranges(rank)) == 2:
            # The back chunk over the front one; in a full layer the causal call has it.
            steps.append(tuple(_tiles(first[chunk:], keys[:chunk], chunk, rival)))
        else:
            steps.append(())
    if window is None:
        return PlainPlan(own.local_full(), tuple(steps))
    parts = [len(part.rows) for part in own.parts]
    segments = Segments.from_lengths(parts, parts, causal=True, window=window)
    rows = range(dealing.local_tokens)
    return PlainPlan((Call(rows, rows, segments),), tuple(steps))


def _positions(dealing: Dealing, rank: int) -> np.ndarray:
    return np.concatenate([np.arange(held.start, held.stop) for held in dealing.ranges(rank)])


def _first_visible(lengths: Sequence[int], window: int | None) -> np.ndarray:
    """Stream position of the first key that each token sees."""
    starts = np.repeat(np.cumsum([0, *lengths])[:-1], lengths)
    if window is None:
        return starts
    return np.maximum(starts, np.arange(len(starts)) - (window - 1))


def _tiles(first: np.ndarray, keys: np.ndarray, row: int, rival: Rival) -> Iterator[Tile]:
    """The tiles of a rectangle: queries from local row `row` on, keys at these stream positions."""
    seen_from = np.searchsorted(keys, first)  # ascends
    if seen_from[0] == len(keys):
        return
    if seen_from[-1] == 0:
        yield Tile(slice(row, row + len(first)), slice(0, len(keys)), None)
        return
    at_once = _MASKED_QUERIES if rival == "masked" else _TILE_QUERIES
    for done in range(0, len(first), at_once):
        some = seen_from[done : done + at_once]
        begin = 0
        if rival == "tiles":
            some = some[some < len(keys)]
            if len(some) == 0:
                return
            begin = int(some[0])
        queries = slice(row + done, row + done + len(some))
        bounds = torch.from_numpy(some - begin) if some[-1] > begin else None
        yield Tile(queries, slice(begin, len(keys)), bounds)


class PlainRing:
    """The attention core of all layers. Give it the plans of a stream, by reach, before its first step."""

    def __init__(self, axis: AxisGroup, meter: TrafficMeter) -> None:
        self.size = axis.size
        self.wire = Wire(axis, "full", meter)
        self.buffers = Buffers()
        self.plans: Mapping[Reach, PlainPlan] = {}

    def __call__(
        self,
        q_THK: Tensor,
        k_TGK: Tensor,
        v_TGK: Tensor,
        layout: PackedLayout,  # noqa: ARG002
        reach: Reach,
    ) -> Tensor:
        """See `AttentionCore`."""
        run = _PlainRingAttention.apply
        o_THK: Tensor = run(q_THK, k_TGK, v_TGK, self.plans[reach], self)
        return o_THK

    def hand_on(self, slot: str, step: int, rows_T2GK: Tensor) -> Any:
        """Give these rows to the next rank and take the previous one's, into one of two buffers."""
        arriving = self.buffers.rows(
            f"{slot} {step % 2}", len(rows_T2GK), len(rows_T2GK), rows_T2GK
        )
        return self.wire.swap(rows_T2GK, 1, arriving)


class _PlainRingAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_THK: Tensor, k_TGK: Tensor, v_TGK: Tensor, plan: PlainPlan, core: PlainRing
    ) -> Tensor:
        kv_T2GK = torch.stack((k_TGK, v_TGK), dim=1)
        o_THK = torch.empty_like(q_THK)
        lse_TH = q_THK.new_empty(q_THK.shape[:2])
        held_T2GK = kv_T2GK
        for step in range(core.size):
            last = step == core.size - 1
            pending = None if last else core.hand_on("keys", step, held_T2GK)
            if step == 0:
                into = (o_THK, lse_TH)
                attend_calls(BandedSegments(), plan.local, q_THK, kv_T2GK, into, put_part)
            for tile in plan.tiles[step]:
                _attend_tile(tile, q_THK, held_T2GK, o_THK, lse_TH)
            if pending:
                held_T2GK = core.wire.receive(pending, "forward")
        ctx.plan, ctx.core = plan, core
        ctx.save_for_backward(q_THK, kv_T2GK, o_THK, lse_TH)
        return o_THK

    @staticmethod
    def backward(ctx: Any, do_THK: Tensor) -> tuple[Tensor | None, ...]:
        q_THK, kv_T2GK, o_THK, lse_TH = ctx.saved_tensors
        plan: PlainPlan = ctx.plan
        core: PlainRing = ctx.core
        attended = Attended(o_THK, lse_TH)
        do_THK = do_THK.contiguous()
        sums = Gradients.zeros(q_THK, kv_T2GK)
        held_T2GK, returning = kv_T2GK, None
        for step in range(core.size):
            last = step == core.size - 1
            pending = None if last else core.hand_on("keys", step, held_T2GK)
            if step > 0:
                sums = Gradients(sums.dq_THK, torch.zeros_like(kv_T2GK))
            else:
                kernel = BandedSegments()
                attend_calls_backward(kernel, plan.local, do_THK, q_THK, attended, kv_T2GK, sums)
            for tile in plan.tiles[step]:
                _attend_tile_backward(tile, do_THK, q_THK, attended, held_T2GK, sums)
            if returning:
                sums.dkv_T2GK.add_(core.wire.receive(returning, "backward"))
            returning = core.hand_on("gradients", step, sums.dkv_T2GK)
            if pending:
                held_T2GK = core.wire.receive(pending, "backward")
        assert returning is not None
        dkv_T2GK = core.wire.receive(returning, "backward").clone()
        return (*Gradients(sums.dq_THK, dkv_T2GK).like(q_THK, kv_T2GK), None, None)


def _rows(x_THK: Tensor, rows: slice) -> Tensor:
    """(T, H, ...) to the kernels' (1, H, L, ...)."""
    return x_THK[rows].transpose(0, 1)[None]


def _attend_tile(tile: Tile, q_THK: Tensor, kv_T2GK: Tensor, o_THK: Tensor, lse_TH: Tensor) -> None:
    k_TGK, v_TGK = kv_T2GK.unbind(1)
    part_NHLK, part_lse_NHL = attend(
        Problem(
            _rows(q_THK, tile.queries),
            _rows(k_TGK, tile.keys),
            _rows(v_TGK, tile.keys),
            tile.mask(q_THK),
            causal=False,
        )
    )
    part_lse_LH = part_lse_NHL[0].mT
    if tile.first is not None:
        # The kernel gives 0 for a query that sees nothing.
        sees_nothing_L = tile.first == tile.keys.stop - tile.keys.start
        part_lse_LH = part_lse_LH.masked_fill(sees_nothing_L[:, None], float("-inf"))
    rows = tile.queries
    merge_part(o_THK[rows], lse_TH[rows], part_NHLK[0].transpose(0, 1), part_lse_LH)


def _attend_tile_backward(
    tile: Tile, do_THK: Tensor, q_THK: Tensor, attended: Attended, kv_T2GK: Tensor, into: Gradients
) -> None:
    k_TGK, v_TGK = kv_T2GK.unbind(1)
    dq_NHLK, dk_NGSK, dv_NGSK = attend_backward(
        _rows(do_THK, tile.queries),
        Problem(
            _rows(q_THK, tile.queries),
            _rows(k_TGK, tile.keys),
            _rows(v_TGK, tile.keys),
            tile.mask(do_THK),
            causal=False,
        ),
        _rows(attended.o_THK, tile.queries),
        _rows(attended.lse_TH, tile.queries),
    )
    into.dq_THK[tile.queries].add_(dq_NHLK[0].transpose(0, 1))
    into.dkv_T2GK[tile.keys, 0].add_(dk_NGSK[0].transpose(0, 1))
    into.dkv_T2GK[tile.keys, 1].add_(dv_NGSK[0].transpose(0, 1))
