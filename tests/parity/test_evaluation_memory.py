"""What an evaluation holds grows with the length, not with its square, and not with length times vocabulary.

Storages are counted as in test_sequence_memory.py, so a peak is exact and the same on every machine.
"""

from dataclasses import replace

import pytest
import torch

from model.attention.core import choose_core
from model.initialization import initialize
from model.packed_layout import PackedLayout
from model.transformer import Transformer
from tests.parity import test_sequence_memory
from tests.parity.test_sequence_memory import LiveBytes

# A vocabulary so large that whole logits would show.
MODEL = replace(test_sequence_memory.MODEL, vocab_size=4096)
LENGTH = 2048


def peak_of(length: int, what: str) -> tuple[int, int]:
    """(peak, largest) bytes of one forward without gradients over one document, and what its head computes."""
    model = Transformer(MODEL, choose_core("auto", torch.device("cpu"), torch.float32))
    initialize(model, MODEL, 1)
    tokens_T = torch.arange(length) * 7919 % MODEL.vocab_size
    layout = PackedLayout.from_lengths((length,))
    with torch.no_grad(), LiveBytes() as live:
        hidden_TD = model(tokens_T, layout, 1e4)
        getattr(model, what)(hidden_TD, tokens_T.roll(-1))
    return live.peak, live.largest


@pytest.mark.parametrize(
    "what", [pytest.param("token_losses", marks=pytest.mark.slow), "predictions"]
)
def test_twice_the_length_takes_about_twice_the_memory_and_no_logits_or_scores_whole(
    what: str,
) -> None:
    """At most 2.2 times; measured: see docs/benchmarks.md for 64k and 128k tokens."""
    (peak, _), (twice, largest) = peak_of(LENGTH, what), peak_of(2 * LENGTH, what)
    assert peak < twice <= 2.2 * peak
    logits, scores = 4 * 2 * LENGTH * MODEL.vocab_size, 4 * (2 * LENGTH) ** 2
    assert largest < min(logits, scores) / 4
    assert twice < min(logits, scores)
