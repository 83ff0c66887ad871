"""Which tokens of a stream each sequence rank holds: equal chunks, dealt to the ranks.

A stream of T tokens is cut into chunks of equal length, and every rank holds the same number of them, so
token counts are equal whatever the documents are. What differs is the attention work: a token late in a
long document sees much more than a token early in a short one.

    contiguous   rank 0 | rank 1 | rank 2 | rank 3                 one chunk a rank; late ranks work more
    zigzag       0 | 1 | 2 | 3 | 3 | 2 | 1 | 0                     two chunks; level for one long document
    balanced     dealt from the documents of this very stream      see balance.py

Pure integers: every rank makes the same dealing from the document lengths, without talking.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Dealing:
    """chunks[rank]: the numbers of the chunks it holds, ascending; all ranks hold equally many."""

    chunk_tokens: int
    chunks: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """Number of ranks."""
        return len(self.chunks)

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole stream."""
        return self.chunk_tokens * sum(len(held) for held in self.chunks)

    @property
    def local_tokens(self) -> int:
        """Tokens of each rank."""
        return self.chunk_tokens * len(self.chunks[0])

    def chunk_range(self, chunk: int) -> range:
        """Stream positions of a chunk."""
        return range(chunk * self.chunk_tokens, (chunk + 1) * self.chunk_tokens)

    def ranges(self, rank: int) -> tuple[range, ...]:
        """Stream positions that `rank` holds, ascending, neighbouring chunks joined."""
        found: list[range] = []
        for chunk in self.chunks[rank]:
            held = self.chunk_range(chunk)
            if found and found[-1].stop == held.start:
                found[-1] = range(found[-1].start, held.stop)
            else:
                found.append(held)
        return tuple(found)


def deal_contiguous(num_tokens: int, size: int) -> Dealing:
    """One chunk a rank, in order."""
    return Dealing(num_tokens // size, tuple((rank,) for rank in range(size)))


def deal_zigzag(num_tokens: int, size: int) -> Dealing:
    """Two chunks a rank: one from the front and its mirror image from the back."""
    return Dealing(
        num_tokens // (2 * size), tuple((rank, 2 * size - 1 - rank) for rank in range(size))
    )
