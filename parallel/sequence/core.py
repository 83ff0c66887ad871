"""The attention core of one kind of layer on a stream that is cut among ranks, with a window or without.

A stage of the schedule may give a kind a window, or end it; so the core is chosen by the reach of each step.

Shape letters: T local tokens, H query heads, G key/value heads, K head dimension.
"""

from dataclasses import dataclass

from torch import Tensor

from model.packed_layout import PackedLayout
from model.reach import Reach
from parallel.sequence.ring import RingCore
from parallel.sequence.window import WindowCore


@dataclass(frozen=True)
class SequenceCore:
    """See `AttentionCore`. Collective over the axis of the core in use."""

    without_window: RingCore
    windowed: WindowCore

    def __call__(
        self,
        q_THK: Tensor,
        k_TGK: Tensor,
        v_TGK: Tensor,
        layout: PackedLayout,
        reach: Reach,
        sinks_H: Tensor | None = None,
    ) -> Tensor:
        """Attention of local queries to the keys in reach, of which other ranks may hold a part."""
        core = self.without_window if reach.window is None else self.windowed
        return core(q_THK, k_TGK, v_TGK, layout, reach, sinks_H)
