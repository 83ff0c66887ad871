"""The layout of a stream that is cut among sequence ranks, for the layers of one rank.

It has the documents of the whole stream, the places and positions of this rank's tokens, and for every kind of layer
this rank's route (`route.py`), one object for kinds with the same reach. A second forward of the same stream, in which
layers see fewer keys, has routes of its own. A share is made on the host, in the thread that prepares batches; a layout
is its copy on the device.

    stream      a a a a | a a b b | b b b b | c c c c        4 chunks on 2 ranks, zigzag
    rank 1                a a b b   b b b b                  ranges 4..11, places 4 5 0 1 2 3 4 5

Shape letters: T tokens held by this rank.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from model.documents import Documents
from model.packed_layout import PackedLayout, copy_to_device, places_and_positions
from model.reach import Reach
from parallel.sequence.chunks import Dealing
from parallel.sequence.route import Own, Route, Transport, route


@dataclass(frozen=True, eq=False)
class SequenceShare:
    """One rank's share of a stream, on the host.

    documents: of the whole stream. ranges: stream positions of this rank's tokens, ascending.
    place_T: places of its tokens in their documents. routes: by kind of layer, each for its reach. more: by reach,
    routes for other forwards of the stream.
    """

    dealing: Dealing
    rank: int
    documents: Documents
    ranges: tuple[range, ...]
    place_T: Tensor
    routes: Mapping[str, Route]
    reaches: Mapping[str, Reach]
    more: Mapping[Reach, Route] = field(default_factory=dict)


def build_share(
    dealing: Dealing,
    documents: Documents,
    rank: int,
    reaches: Mapping[str, Reach],
    transport: Transport = "auto",
    more: Iterable[Reach] = (),
) -> SequenceShare:
    """Returns the share of `rank`, without communication.

    reaches: by kind of layer. more: reaches of other forwards of the stream.

    Raises:
        ValueError: the documents do not have as many tokens as the dealing.
    """
    if documents.num_tokens != dealing.num_tokens:
        raise ValueError(
            f"lengths: {documents.num_tokens} tokens in all, the chunks dealt hold {dealing.num_tokens}; "
            "pad the stream with a last document without labels"
        )
    own = Own(dealing, documents, rank)
    further = dict.fromkeys(more)
    routes = {
        reach: route(own, reach, transport)
        for reach in {**dict.fromkeys(reaches.values()), **further}
    }
    sizes = torch.tensor([len(part.rows) for part in own.parts])
    # Place of a token = its local row + the difference of places and rows in its part.
    shifts = torch.tensor(
        [part.tokens.start - part.document.start - part.rows.start for part in own.parts]
    )
    return SequenceShare(
        dealing,
        rank,
        documents,
        dealing.ranges(rank),
        torch.arange(dealing.local_tokens) + shifts.repeat_interleave(sizes),
        MappingProxyType({kind: routes[reach] for kind, reach in reaches.items()}),
        MappingProxyType(dict(reaches)),
        MappingProxyType({reach: routes[reach] for reach in further}),
    )


@dataclass(frozen=True, eq=False)
class ShardedLayout(PackedLayout):
    """One rank's layout of a stream that is cut among ranks.

    cu_seqlens, max_seqlen and documents describe the WHOLE stream, place_T and positions_T the local tokens.
    """

    dealing: Dealing
    rank: int
    routes: Mapping[str, Route]
    reaches: Mapping[str, Reach]
    more: Mapping[Reach, Route] = field(default_factory=dict)

    @classmethod
    def from_share(
        cls,
        share: SequenceShare,
        device: torch.device | str = "cpu",
        positions_T: Tensor | None = None,
    ) -> "ShardedLayout":
        """Copies a share to the device; the host does not wait.

        positions_T: int64 (T,), positions of this rank's tokens; None: their places in their documents.
        """
        starts = torch.tensor(share.documents.starts, dtype=torch.int32)
        planned = (*share.routes.values(), *share.more.values())
        copies = {
            id(route): route.to(device) for route in {id(one): one for one in planned}.values()
        }
        return cls(
            cu_seqlens=copy_to_device(starts, device),
            max_seqlen=max(share.documents.lengths),
            **places_and_positions(share.place_T, positions_T, device),
            documents=share.documents,
            dealing=share.dealing,
            rank=share.rank,
            routes=MappingProxyType(
                {kind: copies[id(route)] for kind, route in share.routes.items()}
            ),
            reaches=share.reaches,
            more=MappingProxyType({reach: copies[id(one)] for reach, one in share.more.items()}),
        )

    def route_of(self, kind: str, reach: Reach) -> Route:
        """The route of a kind of layer. reach: how far its tokens see at this step, for which the route was made."""
        planned = self.reaches[kind]
        if planned != reach and reach in self.more:
            return self.more[reach]
        assert planned == reach, f"{kind}: the route is for {planned}, the step has {reach}"
        return self.routes[kind]

    @property
    def local_tokens(self) -> int:
        """Tokens held by this rank; the same number on every rank."""
        return self.dealing.local_tokens
