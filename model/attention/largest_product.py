"""The largest product of a query and a key that the mask lets it see: exact, in bounded memory.

Kernels for attention keep no products, so a measured step computes them a second time, in float32 (float64 for
float64), a block of queries and keys at a time. A block has at most 2^24 products (64 MiB in float32), or one key for
each query and head of a block where that is more; the T x T of a stream are never held.

Shape letters: T queries, S keys of a stream, H query heads, G key/value heads, K head dimension; N, L, S as in
`attention.small_problems` inside a piece.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.attention.banded import Piece
from model.norm import statistics_dtype

_PRODUCTS = 1 << 24
# Queries of a block.
_QUERIES = 256


@torch.no_grad()
def largest_product(q_THK: Tensor, k_SGK: Tensor, pieces: Sequence[Piece]) -> Tensor:
    """The largest q k^T over all pieces and heads, a scalar; NaN if one of them is. pieces: hold each query once."""
    wide = statistics_dtype(q_THK.dtype)
    # By query, so that the padding of a piece is left out.
    largest_TH1 = q_THK.new_full((*q_THK.shape[:2], 1), -torch.inf, dtype=wide)
    for piece in pieces:
        mask_LS = piece.mask(largest_TH1)
        found_NHL = _of_piece(piece.queries(q_THK), piece.keys(k_SGK), mask_LS, piece.causal)
        piece.put_queries(largest_TH1, found_NHL[..., None])
    return largest_TH1.amax()


def _of_piece(q_NHLK: Tensor, k_NGSK: Tensor, mask_LS: Tensor | None, causal: bool) -> Tensor:
    """The largest product of every query (N, H, L). mask_LS, causal: as in `attention.small_problems`."""
    wide = statistics_dtype(q_NHLK.dtype)
    problems, heads, queries, _ = q_NHLK.shape
    groups, keys = k_NGSK.shape[1:3]
    largest_NHL = q_NHLK.new_full((problems, heads, queries), -torch.inf, dtype=wide)
    for start in range(0, queries, _QUERIES):
        stop = min(start + _QUERIES, queries)
        into_NHL = largest_NHL[:, :, start:stop]
        # The queries of a group end to end: one product with its keys.
        q_NGLK = q_NHLK[:, :, start:stop].to(wide).reshape(problems, groups, -1, q_NHLK.shape[-1])
        at_once = max(1, _PRODUCTS // (problems * heads * (stop - start)))
        for first in range(0, stop if causal and mask_LS is None else keys, at_once):
            k_NGSK_block = k_NGSK[:, :, first : first + at_once].to(wide)
            products_NHLS = (q_NGLK @ k_NGSK_block.mT).view(problems, heads, stop - start, -1)
            if mask_LS is not None:
                products_NHLS += mask_LS[start:stop, first : first + at_once]
            elif causal and first + at_once > start + 1:
                _hide_future(products_NHLS, start, first)
            torch.maximum(into_NHL, products_NHLS.amax(dim=-1), out=into_NHL)
    return largest_NHL


def _hide_future(products_NHLS: Tensor, start: int, first: int) -> None:
    """Hides keys after the query, in place. start, first: the block's first query and key, counted alike."""
    num_queries, num_keys = products_NHLS.shape[-2:]
    device = products_NHLS.device
    query_L = torch.arange(start, start + num_queries, device=device)
    key_S = torch.arange(first, first + num_keys, device=device)
    products_NHLS.masked_fill_(key_S > query_L[:, None], -torch.inf)
