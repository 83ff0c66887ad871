"""The reference implementation: attention with an explicit mask. Any dtype, any device, quadratic cost.

    layout 3 | 3     window 2   k a b c d e f      chunk 2   k a b c d e f
                              q                           q
                              a   x . . . . .             a   x . . . . .
                              b   x x . . . .             b   x x . . . .
                              c   . x x . . .             c   . . x . . .
                              d   . . . x . .             d   . . . x . .
                              e   . . . x x .             e   . . . x x .
                              f   . . . . x x             f   . . . . . x

Shape letters: T tokens as queries, S tokens as keys, H query heads, G key/value heads,
K head dimension.
"""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from model.attention.backends import DENSE, Backend
from model.layer_sums import note_products
from model.norm import statistics_dtype
from model.packed_layout import PackedLayout
from model.reach import Reach


def visible_TS(layout: PackedLayout, reach: Reach) -> Tensor:  # noqa: N802
    """bool (T, S): same document, not in the future, within the window and the attention chunk."""
    document_T = layout.document_T()
    index_T = torch.arange(layout.num_tokens, device=document_T.device)
    distance_TS = index_T[:, None] - index_T[None, :]
    seen_TS = (document_T[:, None] == document_T[None, :]) & (distance_TS >= 0)
    if reach.window is not None:
        seen_TS &= distance_TS < reach.window
    if reach.chunk is not None:
        # Counted from the document's first token.
        chunk_T = (index_T - layout.cu_seqlens.long()[document_T]) // reach.chunk
        seen_TS &= chunk_T[:, None] == chunk_T[None, :]
    return seen_TS


def attention_rows(
    q_THK: Tensor,
    k_TGK: Tensor,
    layout: PackedLayout,
    reach: Reach,
    *,
    softcap: float = 0.0,
    sinks_H: Tensor | None = None,
) -> Tensor:
    """The attention probabilities, float32 or float64 (H, T, S): each row sums to 1, or to less with sinks."""
    wide = statistics_dtype(q_THK.dtype)
    k_SHK = _per_query_head(k_TGK, q_THK)
    scores_HTS: Tensor = torch.einsum("thk,shk->hts", q_THK.to(wide), k_SHK.to(wide))
    hidden_TS = ~visible_TS(layout, reach)
    note_products(partial(_largest, scores_HTS, hidden_TS))
    scores_HTS = scores_HTS * q_THK.shape[-1] ** -0.5
    if softcap:
        scores_HTS = softcap * torch.tanh(scores_HTS / softcap)
    scores_HTS = scores_HTS.masked_fill(hidden_TS, float("-inf"))
    if sinks_H is None:
        return scores_HTS.softmax(dim=-1)
    sinks_HT1 = sinks_H.to(wide)[:, None, None].expand(-1, scores_HTS.shape[1], 1)
    return torch.cat((scores_HTS, sinks_HT1), dim=-1).softmax(dim=-1)[..., :-1]


class DenseCore:
    """Attention as the formula says it. Materialises every score: for tests and short streams.

    softcap: scores s become softcap * tanh(s / softcap); 0: they stay.
    """

    backend: ClassVar[Backend] = DENSE

    def __init__(self, softcap: float = 0.0) -> None:
        self.softcap = softcap

    @staticmethod
    def missing(head_dim: int) -> str:  # noqa: ARG004
        """See `SegmentKernel`."""
        return ""

    def __call__(
        self,
        q_THK: Tensor,
        k_TGK: Tensor,
        v_TGK: Tensor,
        layout: PackedLayout,
        reach: Reach,
        sinks_H: Tensor | None = None,
    ) -> Tensor:
        """See `AttentionCore`. The softmax is taken in float32, or float64 for float64 input."""
        rows_HTS = attention_rows(
            q_THK, k_TGK, layout, reach, softcap=self.softcap, sinks_H=sinks_H
        )
        v_SHK = _per_query_head(v_TGK, q_THK).to(rows_HTS.dtype)
        o_THK: Tensor = torch.einsum("hts,shk->thk", rows_HTS, v_SHK)
        return o_THK.to(q_THK.dtype)


def _largest(products_HTS: Tensor, hidden_TS: Tensor) -> Tensor:
    return products_HTS.masked_fill(hidden_TS, float("-inf")).amax()


def _per_query_head(x_TGK: Tensor, q_THK: Tensor) -> Tensor:
    return x_TGK.repeat_interleave(q_THK.shape[1] // x_TGK.shape[1], dim=1)
