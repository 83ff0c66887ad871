"""The grid of ranks as plain integers: the coordinates of each rank, and the groups of each axis.

Ranks are numbered with the tensor axis fastest, because it communicates most and should stay inside one host,
then sequence, data, and pipeline, which communicates least:

    rank = ((pipeline * data_size + data) * sequence_size + sequence) * tensor_size + tensor

    pipeline 0:  data 0:  sequence 0: [0 1]  sequence 1: [2 3]      (tensor 2, sequence 2, data 2, pipeline 2)
                 data 1:  sequence 0: [4 5]  sequence 1: [6 7]
    pipeline 1:  ...                         8 to 15
"""

from dataclasses import dataclass
from itertools import product
from typing import Literal

Axis = Literal["pipeline", "data", "sequence", "tensor"]
# Slowest first.
AXES: tuple[Axis, ...] = ("pipeline", "data", "sequence", "tensor")


@dataclass(frozen=True)
class Topology:
    """Length of every axis; their product is the number of ranks."""

    tensor: int = 1
    sequence: int = 1
    data: int = 1
    pipeline: int = 1

    @property
    def sizes(self) -> dict[Axis, int]:
        """Length of every axis, slowest first."""
        return {
            "pipeline": self.pipeline,
            "data": self.data,
            "sequence": self.sequence,
            "tensor": self.tensor,
        }

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.tensor * self.sequence * self.data * self.pipeline

    def rank_at(self, coordinates: dict[Axis, int]) -> int:
        """The rank with these coordinates."""
        rank = 0
        for axis in AXES:
            rank = rank * self.sizes[axis] + coordinates[axis]
        return rank

    def groups(self, *axes: Axis) -> list[tuple[int, ...]]:
        """Returns the groups whose members differ on `axes` only; every rank is in exactly one."""
        fixed = [axis for axis in AXES if axis not in axes]
        varying = [axis for axis in AXES if axis in axes]
        return [
            tuple(
                self.rank_at(dict(zip([*fixed, *varying], [*outer, *inner], strict=True)))
                for inner in product(*(range(self.sizes[axis]) for axis in varying))
            )
            for outer in product(*(range(self.sizes[axis]) for axis in fixed))
        ]
