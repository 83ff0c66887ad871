"""The chunks of a stream that each sequence rank holds. Pure integers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Dealing:
    """chunks[rank]: the numbers of the chunks that the rank holds, ascending; the same count on every rank."""

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
        """Returns the stream positions that `rank` holds, ascending, neighbouring chunks joined."""
        found: list[range] = []
        for chunk in self.chunks[rank]:
            held = self.chunk_range(chunk)
            if found and found[-1].stop == held.start:
                found[-1] = range(found[-1].start, held.stop)
            else:
                found.append(held)
        return tuple(found)
