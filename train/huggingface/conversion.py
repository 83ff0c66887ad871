"""Converts tensors between our names and those of transformers, one link after the other, in both directions.

Only the tensors of one link are in memory at a time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.huggingface.links import Convert, Link
from parallel.checkpoint.tensor_files import Entry

DtypeOf = Callable[[str], torch.dtype]


@dataclass(frozen=True)
class Conversion:
    """Converts the tensors named `sources` into those named `targets`."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    convert: Convert


def to_ours(links: Sequence[Link]) -> list[Conversion]:
    """Returns the conversions of an import."""
    return [Conversion(link.theirs, link.ours, link.to_ours) for link in links]


def to_theirs(links: Sequence[Link]) -> list[Conversion]:
    """Returns the conversions of an export."""
    return [Conversion(link.ours, link.theirs, link.to_theirs) for link in links]


def target_entries(
    conversions: Sequence[Conversion], shapes: Mapping[str, tuple[int, ...]], dtype_of: DtypeOf
) -> dict[str, Entry]:
    """Returns shape and dtype of every target, in order. shapes: of the sources."""
    entries = {}
    for conversion in conversions:
        blank = [torch.empty(shapes[name], device="meta") for name in conversion.sources]
        for name, tensor in zip(conversion.targets, conversion.convert(blank), strict=True):
            entries[name] = Entry(dtype_of(name), tuple(tensor.shape))
    return entries


def converted(
    conversions: Sequence[Conversion], read: Callable[[str], Tensor], dtype_of: DtypeOf
) -> Iterator[tuple[str, Tensor]]:
    """Yields every target with its tensor, in order. read: returns a source by its name."""
    for conversion in conversions:
        sources = [read(name) for name in conversion.sources]
        targets = iter(conversion.convert(sources))
        del sources
        for name in conversion.targets:
            yield name, next(targets).to(dtype_of(name))
