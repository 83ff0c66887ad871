"""Which tokens of a row attend to each other, and which positions they have: the settings. Integers only.

    row                       [ span a ][ span b ][padding]
    document_mask             attention documents 3, 2, 1
    no document_mask          attention documents 5, 1
    reset_positions           positions 0 1 2   0 1   0
    no reset_positions        positions 0 1 2   3 4   0
    pose, reset_positions     positions 0 7 8   0 4   0         at most target_length - 1
    pose, no reset_positions  positions 0 1 8   9 10  0

`positions.py` computes the positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Pose:
    """PoSE: `chunks` pieces (at least 2), shifted so that positions reach up to `target_length` - 1."""

    chunks: int
    target_length: int


@dataclass(frozen=True)
class DocumentRules:
    """How the spans of a row are kept apart.

    document_mask: attention stays within a span; else a token sees the spans before it in its row. reset_positions:
    positions restart at every span; else they go on along the row. pose: skips in the positions; None: none. Padding is
    always a document of its own, with positions from 0.
    """

    document_mask: bool = True
    reset_positions: bool = True
    pose: Pose | None = None

    @property
    def plain_positions(self) -> bool:
        """Whether the position of every token is its place in its attention document."""
        return self.pose is None and self.document_mask == self.reset_positions

    def without_pose(self) -> "DocumentRules":
        """The same rules with plain positions: those of an evaluation."""
        return replace(self, pose=None)

    def attention_documents(
        self, rows: Sequence[Sequence[int]], sequence_length: int
    ) -> tuple[int, ...]:
        """Lengths of the attention documents of rows of spans of these lengths, each padded to `sequence_length`."""
        found: list[int] = []
        for spans in rows:
            real = sum(spans)
            found += spans if self.document_mask else [real]
            found.append(sequence_length - real)
        return tuple(length for length in found if length)


# Attention stays within a document, and positions restart at it.
BY_DOCUMENT = DocumentRules()
