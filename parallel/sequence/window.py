"""Windowed layers on a stream that is cut among ranks: one exchange of the keys before each chunk.

    rank 0's chunk            rank 1's chunk
    . . . . . . w x y z  |  a b c d e f g h . .        window 4, one document
              -> x y z ->  a b c                       heads: see x y z and own keys
                           d e f g h . .               see own keys only; computed during the transfer

No query is in two calls, so nothing is merged. If a window is longer than a chunk or spans several ranks, the same
exchange has more senders.

Shape letters: T local tokens, H query heads, G key/value heads, K head dimension.
"""

from torch import Tensor

from model.packed_layout import PackedLayout
from model.reach import Reach
from parallel.mesh import AxisGroup
from parallel.sequence.exchanged import Plan, attend_exchanged
from parallel.sequence.layout import ShardedLayout
from parallel.sequence.merge import put_part
from parallel.sequence.traffic import TrafficMeter
from parallel.sequence.wire import Wire


class WindowCore:
    """The attention core of one kind of layer at a step with a window. axis: `mesh.window`."""

    def __init__(
        self,
        kind: str,
        axis: AxisGroup,
        meter: TrafficMeter | None = None,
        softcap: float = 0.0,
    ) -> None:
        self.kind = kind
        self.softcap = softcap
        self.wire = Wire(axis, kind, meter or TrafficMeter())

    def __call__(
        self,
        q_THK: Tensor,
        k_TGK: Tensor,
        v_TGK: Tensor,
        layout: PackedLayout,
        reach: Reach,
        sinks_H: Tensor | None = None,
    ) -> Tensor:
        """See `AttentionCore`; queries, keys, values and output are of local tokens. Collective over the axis."""
        assert isinstance(layout, ShardedLayout), "a sequence rank needs its share of the stream"
        assert reach.window is not None, "layers without a window have RingCore"
        plan = Plan(layout.route_of(self.kind, reach), self.wire, put_part, self.softcap)
        return attend_exchanged(q_THK, k_TGK, v_TGK, sinks_H, plan=plan)
