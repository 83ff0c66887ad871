"""Labels: which tokens of a document are to be predicted.

A token with a label is the target of the token before it, if that one is in the same piece. So of a piece of n tokens
at most n - 1 targets count: the first token of a piece is nobody's target (docs/decisions/0007).

    tokens    a b c d | e f g        two pieces of one document
    labels    1 0 1 1   1 1 0
    targets   - c d -   f - -        -: IGNORE; 2 targets count in the first piece, 1 in the second

The number of targets of any piece follows from integers alone, without a look at tokens and equally on every rank: the
normalisation of the loss depends on it. A source is either `EveryTarget`, or computes both methods from stored numbers
or from (seed, document).
"""

from typing import Protocol

import numpy as np


class LabelCounts(Protocol):
    """Interface of a source for planning: how many targets count."""

    def count_labels(self, document: int, start: int, length: int) -> int:
        """Targets that count in the piece of `length` >= 1 tokens from token `start` on: its tokens with a label
        without its first token. Reads no token."""


class LabelMasks(Protocol):
    """Interface of a source for reading: which targets count."""

    def label_mask(self, document: int, start: int, length: int) -> np.ndarray | None:
        """bool (length,): whether each of these tokens has a label. None: all of them have one.

        `count_labels` of the same piece is the number of True without the first element.
        """


class EveryTarget:
    """Labels of a source that has no information about labels: every token of a document has one."""

    def count_labels(self, document: int, start: int, length: int) -> int:
        """See `LabelCounts`."""
        del document, start
        return length - 1

    def label_mask(self, document: int, start: int, length: int) -> np.ndarray | None:
        """See `LabelMasks`."""
        del document, start, length
        return None
