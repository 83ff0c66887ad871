"""Where documents lie in a packed stream.

A micro-batch is one stream of T tokens without a batch dimension; documents lie in it end to end
and attention never crosses their borders.

    lengths      3       1   4
    tokens       a b c | d | e f g h
    place        0 1 2 | 0 | 0 1 2 3
    cu_seqlens   0       3   4       8
    document     0 0 0 | 1 | 2 2 2 2

Positions are data that rotations and scales of queries read. They are the places unless the caller gives others; masks,
windows and numbers of visible keys depend on places alone.

Shape letters: T tokens of the stream.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.documents import Documents


# eq=False: a layout is compared by identity, so that attention plans can be cached by weak reference to it.
@dataclass(frozen=True, eq=False)
class PackedLayout:
    """The documents of one packed stream.

    cu_seqlens: int32 (num_documents + 1,), from 0 to T, on the device of the stream.
    max_seqlen: length of the longest document.
    place_T: int64 (T,), places of the tokens held here in their documents.
    positions_T: int64 (T,), positions of the tokens held here: the tensor place_T itself unless others were given.
    documents: lengths and starts on the host, so that planning does not wait for a device.
    """

    cu_seqlens: Tensor
    max_seqlen: int
    place_T: Tensor
    positions_T: Tensor
    documents: Documents

    @classmethod
    def from_lengths(
        cls,
        lengths: Sequence[int],
        device: torch.device | str = "cpu",
        positions_T: Tensor | None = None,
    ) -> "PackedLayout":
        """Lay documents of these lengths end to end.

        positions_T: int64 (T,), positions of the tokens; None: their places in their documents.

        Raises ValueError when there is no document, one is shorter than one token, or there are more or fewer
        positions than tokens.
        """
        if not lengths:
            raise ValueError("lengths=(): a packed stream needs at least one document")
        for index, length in enumerate(lengths):
            if length < 1:
                raise ValueError(
                    f"lengths[{index}]={length}: a document has at least one token; leave it out"
                )
        documents = Documents.of(lengths)
        starts = torch.tensor(documents.starts[:-1], dtype=torch.int64)
        starts_T = torch.repeat_interleave(starts, torch.tensor(lengths, dtype=torch.int64))
        place_T = torch.arange(documents.num_tokens, dtype=torch.int64) - starts_T
        return cls(
            cu_seqlens=copy_to_device(torch.tensor(documents.starts, dtype=torch.int32), device),
            max_seqlen=max(lengths),
            **places_and_positions(place_T, positions_T, device),
            documents=documents,
        )

    @property
    def lengths(self) -> tuple[int, ...]:
        """The document lengths."""
        return self.documents.lengths

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole stream, summed over the ranks that share it."""
        return self.documents.num_tokens

    def document_T(self) -> Tensor:  # noqa: N802
        """int64 (T,): the document index of every token of the stream."""
        device = self.cu_seqlens.device
        documents = torch.arange(len(self.lengths), device=device)
        return torch.repeat_interleave(
            documents, self.cu_seqlens.diff().long(), output_size=self.num_tokens
        )


def places_and_positions(
    place_T: Tensor, positions_T: Tensor | None, device: torch.device | str
) -> dict[str, Tensor]:
    """The fields place_T and positions_T of a layout on the device; one tensor where no positions are given.

    Raises ValueError when there are more or fewer positions than tokens.
    """
    placed_T = copy_to_device(place_T, device)
    if positions_T is None:
        return {"place_T": placed_T, "positions_T": placed_T}
    if positions_T.shape != place_T.shape:
        raise ValueError(
            f"positions_T: {len(positions_T)} positions for {len(place_T)} tokens; give each token one"
        )
    return {"place_T": placed_T, "positions_T": copy_to_device(positions_T, device)}


def copy_to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copies from pinned memory without blocking the host, which can plan the next stream meanwhile."""
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
