"""The residual stream cut by tokens: every rank has its share of every piece, in the order of the stream."""

import pytest
import torch

from parallel.tensor.residual import by_rank, in_stream_order, pieces


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 21])
def test_every_rank_has_its_share_of_every_piece(ranks: int, rows: int) -> None:
    stream_T = torch.arange(rows * ranks)
    tokens_NT = by_rank(stream_T, ranks)
    assert tokens_NT.shape == (ranks, rows)
    assert torch.equal(in_stream_order(tokens_NT), stream_T)
    for piece, *own in zip(
        pieces(stream_T, ranks), *(pieces(own_T) for own_T in tokens_NT), strict=True
    ):
        assert torch.equal(torch.cat(own), piece)
