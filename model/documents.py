"""The documents of one packed stream as host integers: computed once and shared by all planning code.

lengths   3       1   4
tokens    a b c | d | e f g h
starts    0       3   4       8
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True)
class Documents:
    """Documents that lie end to end.

    lengths: tokens of each. starts: stream position of each, then the end of the stream.
    """

    lengths: tuple[int, ...]
    starts: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Sequence[int]) -> "Documents":
        """Documents of these lengths."""
        return cls(tuple(lengths), (0, *accumulate(lengths)))

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole stream."""
        return self.starts[-1]

    def at(self, position: int) -> int:
        """The index of the document that contains the token at a position of the stream."""
        return bisect_right(self.starts, position) - 1
