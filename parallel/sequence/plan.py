"""The keys that each rank must receive from each other rank, for one kind of layer. Pure integers.

A query at stream position p attends the keys of its own document at [p - window + 1, p]. So the keys before a chunk
[a, b) that its queries need are ONE range, of the one document that continues across a:

    needed before a chunk = [max(document start, a - (window - 1)), a)       (full layers: window = infinity)

With chunked attention, the document's attention chunk takes the place of the document.

The rank receives the union of these ranges over its chunks, less what it holds itself: exactly the keys of
other ranks that some local query attends. Every rank computes the plans of all ranks, without communication.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from model.documents import Documents
from model.reach import Reach
from parallel.sequence.chunks import Dealing

# Few keys: no rank receives more than this fraction of the tokens it holds itself.
_LITTLE = 0.25


@dataclass(frozen=True)
class KeyPlan:
    """receives[rank][source]: stream ranges that `rank` receives from `source`, ascending and disjoint.

    reach: of the layers.
    """

    reach: Reach
    receives: tuple[tuple[tuple[range, ...], ...], ...]

    def tokens_received(self, rank: int) -> int:
        """Returns the number of key tokens that `rank` receives in one transfer of all its keys."""
        return sum(len(piece) for pieces in self.receives[rank] for piece in pieces)


def needs_few_keys(plan: KeyPlan, dealing: Dealing) -> bool:
    """Whether no rank receives more than a small part of the tokens it holds itself.

    Layers without a window then receive their keys in one exchange and keep them, otherwise in ring steps.
    """
    most = max(plan.tokens_received(rank) for rank in range(dealing.size))
    return most <= _LITTLE * dealing.local_tokens


def plan_keys(dealing: Dealing, documents: Documents, reach: Reach) -> KeyPlan:
    """Returns the plan of layers with this reach for these documents."""
    starts = reach.cut_documents(documents).starts
    owner = {chunk: rank for rank, held in enumerate(dealing.chunks) for chunk in held}
    receives = []
    for rank, held in enumerate(dealing.chunks):
        first_tokens = [dealing.chunk_range(chunk).start for chunk in held]
        needs = [keys_before(first, starts, reach.window) for first in first_tokens]
        receives.append(_by_source(dealing, owner, rank, needs))
    return KeyPlan(reach, tuple(receives))


def keys_before(start: int, starts: Sequence[int], window: int | None) -> range:
    """Returns the keys before a chunk that its queries attend, on whichever rank.

    start: first token of the chunk. starts: first tokens of the documents, or of their attention
    chunks. window: None for no window.
    """
    document = starts[bisect_right(starts, start) - 1]
    first = document if window is None else max(document, start - (window - 1))
    return range(first, start)


def _by_source(
    dealing: Dealing, owner: dict[int, int], rank: int, needs: Sequence[range]
) -> tuple[tuple[range, ...], ...]:
    found: list[list[range]] = [[] for _ in range(dealing.size)]
    width, done = dealing.chunk_tokens, 0
    # Both ends of the needed ranges ascend with the chunks: the keys before `done` are accounted for already.
    for need in needs:
        first = max(need.start, done)
        for chunk in range(first // width, -(-need.stop // width)):
            held = dealing.chunk_range(chunk)
            part = range(max(first, held.start), min(need.stop, held.stop))
            if part and owner[chunk] != rank:
                found[owner[chunk]].append(part)
        done = max(done, need.stop)
    return tuple(tuple(pieces) for pieces in found)
