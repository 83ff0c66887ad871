"""Document arithmetic against the drawing in the module."""

import pytest
import torch

from model.packed_layout import PackedLayout


def test_golden_stream():
    layout = PackedLayout.from_lengths([3, 1, 4])
    assert layout.cu_seqlens.tolist() == [0, 3, 4, 8]
    assert layout.cu_seqlens.dtype == torch.int32
    assert layout.positions_T.tolist() == [0, 1, 2, 0, 0, 1, 2, 3]
    assert layout.positions_T.dtype == torch.int64
    assert layout.document_T().tolist() == [0, 0, 0, 1, 2, 2, 2, 2]
    assert layout.document_T().dtype == torch.int64
    assert (layout.max_seqlen, layout.num_tokens) == (4, 8)
    assert layout.lengths == (3, 1, 4)


def test_one_token():
    layout = PackedLayout.from_lengths([1])
    assert layout.positions_T.tolist() == [0]
    assert layout.document_T().tolist() == [0]


@pytest.mark.parametrize("lengths", [[], [3, 0], [2, -1, 4]])
def test_impossible_lengths_are_refused(lengths):
    with pytest.raises(ValueError, match="lengths"):
        PackedLayout.from_lengths(lengths)


def test_layouts_are_told_apart_by_identity():
    assert PackedLayout.from_lengths([2]) != PackedLayout.from_lengths([2])
