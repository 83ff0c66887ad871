"""The residual blocks on the tensor axis; transfers overlap with matrix products.

Parallel block, with the stream in pieces A to D (`parallel.tensor.residual`):

    compute            | ff(A) | ff(B) |    attention(all)   | ff(C) | ff(D)  |
    wire     gather A  |  gather B, C, D                     |  sum A, B, C   | sum D

The backward runs the same schedule from right to left (`parallel.collectives`). If a piece's products take as long
as its transfer, only the first gather and the last sum are not overlapped; the bytes are those of one gather and one
scatter of the stream. The sequential block does this twice: pieces pass through the projections of attention and,
after attention over all of them, through its output projection; then through the feed-forward in the same way.

A recomputation does not repeat the sums at the end of a block, unless a norm follows them.

Shape letters: T tokens, D width.
"""

from itertools import chain

import torch
from torch import Tensor, nn

from model.block import ParallelBlock, SequentialBlock
from model.kind_at_step import KindAtStep
from model.packed_layout import PackedLayout
from parallel.mesh import AxisGroup
from parallel.tensor.residual import Arriving, Leaving, pieces


class TensorParallelBlock(nn.Module):
    """`ParallelBlock` with cut matrices, under the same names."""

    def __init__(self, block: ParallelBlock, group: AxisGroup) -> None:
        super().__init__()
        self.norm = block.norm
        self.attention = block.attention
        self.feed_forward = block.feed_forward
        self.residual_scale = block.residual_scale
        self._group = group

    def forward(self, x_TD: Tensor, layout: PackedLayout, at: KindAtStep) -> Tensor:
        """(T / n, D) to (T / n, D); layout and `at` are of all tokens."""
        arriving = Arriving(self.norm(x_TD), self._group)
        early = arriving.count // 2
        f_TD = [self.feed_forward(arriving.piece()) for _ in range(early)]
        n_TD = [arriving.piece() for _ in range(early, arriving.count)]
        a_TD = pieces(self.attention(arriving.whole(), layout, at), self._group.size)
        leaving = Leaving(self._group, ends_block=True)
        # `map` is lazy: the transfer of a sum starts before the next piece's feed-forward.
        for a, f in zip(a_TD, chain(f_TD, map(self.feed_forward, n_TD)), strict=True):
            leaving.send(a + f)
        return torch.add(x_TD, leaving.landed(), alpha=self.residual_scale)


class TensorSequentialBlock(nn.Module):
    """`SequentialBlock` with cut matrices, under the same names."""

    def __init__(self, block: SequentialBlock, group: AxisGroup) -> None:
        super().__init__()
        self.norm = block.norm
        self.attention = block.attention
        self.post_norm = block.post_norm
        self.feed_forward_norm = block.feed_forward_norm
        self.feed_forward_post_norm = block.feed_forward_post_norm
        self.feed_forward = block.feed_forward
        self.residual_scale = block.residual_scale
        self._group = group

    def forward(self, x_TD: Tensor, layout: PackedLayout, at: KindAtStep) -> Tensor:
        """(T / n, D) to (T / n, D); layout and `at` are of all tokens."""
        arriving = Arriving(self.norm(x_TD), self._group)
        projected = [self.attention.project(arriving.piece()) for _ in range(arriving.count)]
        *qkv, gates = zip(*projected, strict=True)
        for gate_TW in gates:
            self.attention.count_gate(gate_TW)
        q_THK, k_TGK, v_TGK = (torch.cat(parts) for parts in qkv)
        q_THK, k_TGK = self.attention.position(q_THK, k_TGK, at.positioning)
        o_TD = self.attention.attend(q_THK, k_TGK, v_TGK, layout, at.reach)
        leaving = Leaving(self._group, ends_block=False)
        for piece_TD, gate_TW in zip(pieces(o_TD, self._group.size), gates, strict=True):
            leaving.send(self.attention.output(piece_TD, gate_TW))
        a_TD = self.post_norm(leaving.landed())
        h_TD = torch.add(x_TD, a_TD, alpha=self.residual_scale)
        arriving = Arriving(self.feed_forward_norm(h_TD), self._group)
        # A norm after the sums keeps them for its backward, so a recomputation needs them.
        ends_block = isinstance(self.feed_forward_post_norm, nn.Identity)
        leaving = Leaving(self._group, ends_block=ends_block)
        for _ in range(arriving.count):
            leaving.send(self.feed_forward(arriving.piece()))
        f_TD = self.feed_forward_post_norm(leaving.landed())
        return torch.add(h_TD, f_TD, alpha=self.residual_scale)


def cut_block(block: nn.Module, group: AxisGroup) -> nn.Module:
    """Returns the parallel block with the modules of `block`."""
    if isinstance(block, ParallelBlock):
        return TensorParallelBlock(block, group)
    assert isinstance(block, SequentialBlock)
    return TensorSequentialBlock(block, group)
