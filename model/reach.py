"""How far back a token sees within its document: everything, a window, or its attention chunk.

    reach            keys of the token at place 6 of its document      rule for query q and key k (places, k <= q)
    whole document   0 1 2 3 4 5 6
    window 3                 4 5 6                                     q - k < window
    chunk 4                  4 5 6                                     k // chunk == q // chunk

Chunked attention (Llama 4) is full attention over the documents cut every `chunk` tokens from their first token.
Documents are those of the attention mask, so a chunk never begins in another document. An attention chunk is not
a chunk of `parallel/sequence/chunks.py`, which is a part of the stream that one sequence rank holds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

from model.documents import Documents


@dataclass(frozen=True)
class Reach:
    """The keys that a token of one kind of layer sees.

    window: number of keys, itself included; None: no window. chunk: tokens of an attention chunk; None: no chunks.
    A layer with both sees the keys that both allow.
    """

    window: int | None = None
    chunk: int | None = None

    @property
    def limit(self) -> int | None:
        """The largest number of keys that a token sees, itself included; None: no limit but its document."""
        return min(
            (limit for limit in (self.window, self.chunk) if limit is not None), default=None
        )

    def within(self, longest: int) -> "Reach":
        """Returns this reach without the limits that mask nothing in documents of up to `longest` tokens."""
        return Reach(
            *(
                None if limit is None or limit >= longest else limit
                for limit in (self.window, self.chunk)
            )
        )

    def at_most(self, keys: int) -> "Reach":
        """Returns this reach with a window of `keys` where a token would see more; 0: unchanged."""
        limit = self.limit
        unchanged = not keys or (limit is not None and limit <= keys)
        return self if unchanged else Reach(keys, self.chunk)

    def cut(self, lengths: Sequence[int]) -> Sequence[int]:
        """Returns the lengths of the pieces whose tokens see nothing of other pieces: documents, or their chunks."""
        return lengths if self.chunk is None else tuple(_pieces(lengths, self.chunk))

    def cut_documents(self, documents: Documents) -> Documents:
        """Returns `cut` of documents, as documents."""
        return documents if self.chunk is None else Documents.of(self.cut(documents.lengths))


WHOLE_DOCUMENT = Reach()


def _pieces(lengths: Sequence[int], chunk: int) -> Iterator[int]:
    for length in lengths:
        whole, rest = divmod(length, chunk)
        yield from repeat(chunk, whole)
        if rest:
            yield rest
