"""Tensors of one side out of those of the other, one link after the other: the same in both directions.

A link is read one way or the other. Nothing is in memory but the tensors of one link.
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
    """Tensors named `targets` out of those named `sources`."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    convert: Convert


def to_ours(links: Sequence[Link]) -> list[Conversion]:
    """Import."""
    return [Conversion(link.theirs, link.ours, link.to_ours) for link in links]


def to_theirs(links: Sequence[Link]) -> list[Conversion]:
    """Export."""
    return [Conversion(link.ours, link.theirs, link.to_theirs) for link in links]


def target_entries(
    conversions: Sequence[Conversion], shapes: Mapping[str, tuple[int, ...]], dtype_of: DtypeOf
) -> dict[str, Entry]:
    """Shape and dtype of every target, in order. shapes: of the sources."""
    entries = {}
    for conversion in conversions:
        blank = [torch.empty(shapes[name], device="meta") for name in conversion.sources]
        for name, tensor in zip(conversion.targets, conversion.convert(blank), strict=True):
            entries[name] = Entry(dtype_of(name), tuple(tensor.shape))
    return entries


def converted(
    conversions: Sequence[Conversion], read: Callable[[str], Tensor], dtype_of: DtypeOf
) -> Iterator[tuple[str, Tensor]]:
    """Every target with its tensor, in order. read: a source by its name."""
    for conversion in conversions:
        sources = [read(name) for name in conversion.sources]
        targets = iter(conversion.convert(sources))
        del sources
        for name in conversion.targets:
            yield name, next(targets).to(dtype_of(name))
