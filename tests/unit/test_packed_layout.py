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


def test_given_positions_leave_the_places():
    given_T = torch.tensor([0, 7, 8, 0])
    layout = PackedLayout.from_lengths([3, 1], positions_T=given_T)
    assert layout.positions_T is given_T
    assert layout.place_T.tolist() == [0, 1, 2, 0]
    plain = PackedLayout.from_lengths([3, 1])
    assert plain.positions_T is plain.place_T
    with pytest.raises(ValueError, match="positions_T: 4 positions for 5 tokens"):
        PackedLayout.from_lengths([5], positions_T=given_T)


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
