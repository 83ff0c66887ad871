"""What all position methods of rotary layers share: their common settings, their input and their result.

A method is a dataclass of settings in a file of its own, derived from `RopeSettings` or `ScaledRope`, and a pure
function from frequencies to frequencies. `methods.py` lists the methods. Everything here is numpy in float64 on the
host, so that `--check` can judge and compute without torch.

    base, head_dim -> unscaled frequencies -> method (scaled) -> resonance -> Frequencies

Shape letters: P pairs that rotate.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from math import inf
from typing import Annotated, Any, ClassVar, Literal

import numpy
from annotated_types import Ge, Gt, Le, Lt
from numpy.typing import NDArray

from model.position.fourier import Fourier
from model.position.resonance import resonant

NotNegative = Annotated[float, Ge(0), Lt(inf)]
Positive = Annotated[float, Gt(0), Lt(inf)]
# The upper limit is far beyond any model; powers of the factor do not overflow.
Factor = Annotated[float, Ge(1), Le(1e6)]
Values = NDArray[numpy.float64]


def inverse_frequencies(base: float, width: int) -> Values:
    """Radians per token of pair i: base ** (-2i / width), (width / 2,). Source: arXiv 2104.09864."""
    # The power of the C library: numpy's depends on the CPU in its last bits; hosts are expected to agree on this one.
    return numpy.array([float(base) ** -(dim / width) for dim in range(0, width, 2)])


@dataclass(frozen=True)
class RopeInput:
    """What frequencies depend on besides the settings of the method.

    base: the RoPE base. width: dimensions that the exponents run over, an even number. pairs: pairs that rotate, at
    most width / 2. length: the sequence length of the stage in training, or the length asked for at evaluation, in
    tokens; 0 where no method of the model reads it.
    """

    base: float
    width: int
    pairs: int
    length: int = 0

    def unscaled(self) -> Values:
        """The frequencies of RoPE at this base, (P,)."""
        return self.with_base(self.base)

    def with_base(self, base: float) -> Values:
        """The frequencies of RoPE at another base, (P,)."""
        return inverse_frequencies(base, self.width)[: self.pairs]


@dataclass(frozen=True, eq=False)
class Frequencies:
    """The rotation of every pair.

    radians_P: per token, (P,). factor: factor of cosines and sines. first_tokens: number of positions, from 0, whose
    radians per token are first_P instead; 0: none.
    """

    radians_P: Values
    factor: float = 1.0
    first_tokens: int = 0
    first_P: Values | None = None


@dataclass
class RopeSettings(ABC):
    """How one kind of layer rotates. Mutable only because Hydra needs it; read-only by rule."""

    # Whether frequencies depend on the length of `RopeInput`.
    reads_length: ClassVar[bool] = False

    # Method that scales frequencies to a longer context; none: plain RoPE; linear: position interpolation.
    scaling: str = ""
    # RoPE base of these layers in all stages; 0: the schedule's.
    base: NotNegative = 0.0
    # Share of each head's width that rotates; the rest carries no position. 1: all of it.
    rotary_share: Annotated[float, Gt(0), Le(1)] = 1.0
    # Frequencies where rotary_share is below 1. ordinary: those of a head as wide as the rotated part (GPT-NeoX, Qwen,
    # MiMo). proportional: the fastest ones of the whole head (p-RoPE, Gemma 4).
    partial: Literal["ordinary", "proportional"] = "ordinary"
    # Whether wavelengths are rounded to whole tokens after scaling (Resonance RoPE).
    resonance: bool = False
    # FoPE: each pair turns by a short Fourier series, for example {sigma: 0.3, num_tones: 64}; a pair that completes no
    # turn over the training length in tokens (or the window) does not turn. null: plain turns.
    fourier: Fourier | None = None

    @abstractmethod
    def scaled(self, given: RopeInput) -> Frequencies:
        """The frequencies of this method, before resonance."""

    def frequencies(self, scheduled_base: float, head_dim: int, *, length: int = 0) -> Frequencies:
        """The rotation of a head. scheduled_base: used if these settings have no base. length: see `RopeInput`."""
        assert length > 0 or not self.reads_length, f"{self.scaling} needs the sequence length"
        found = self.scaled(self._input(self.base_of(scheduled_base), head_dim, length))
        if not self.resonance:
            return found
        first_P = None if found.first_P is None else resonant(found.first_P)
        return replace(found, radians_P=resonant(found.radians_P), first_P=first_P)

    def unscaled(self, scheduled_base: float, head_dim: int) -> Values:
        """The frequencies of RoPE before this method scales them, (P,)."""
        return self._input(self.base_of(scheduled_base), head_dim).unscaled()

    def base_of(self, scheduled: float) -> float:
        """The base of these layers; `scheduled` is the schedule's."""
        return self.base or scheduled

    def pairs(self, head_dim: int) -> int:
        """Number of pairs of a head that rotate. As in transformers, fractions are rounded down."""
        return int(self.rotary_share * head_dim) // 2

    def width(self, head_dim: int) -> int:
        """Dimensions that the exponents run over: of a whole head, or of its rotated part."""
        return head_dim if self.partial == "proportional" else 2 * self.pairs(head_dim)

    def problems(self, key: str, head_dim: int) -> list[str]:
        """Returns every broken rule between these fields, one line each.

        key: prefix of the fields in messages. head_dim: that of the layers.
        """
        found = []
        if 0.0 < self.base <= 1.0:
            found.append(f"{key}.base={self.base}: must be above 1; give 0 for the schedule's")
        found += self._share_problems(key, head_dim)
        if self.fourier is not None:
            found += self.fourier.problems(f"{key}.fourier")
        return found or self.own_problems(key, self._input(2.0, head_dim))

    def _input(self, base: float, head_dim: int, length: int = 0) -> RopeInput:
        return RopeInput(base, self.width(head_dim), self.pairs(head_dim), length)

    def _share_problems(self, key: str, head_dim: int) -> list[str]:
        if self.rotary_share == 1.0:
            if self.partial == "ordinary":
                return []
            return [
                f"{key}.partial={self.partial}: has no effect with {key}.rotary_share=1; give a share below 1, or "
                "drop it"
            ]
        width = int(self.rotary_share * head_dim)
        odd = self.partial == "ordinary" and width % 2
        if width >= 2 and not odd:
            return []
        says = f"{width} dimensions, which is odd" if width >= 2 else "no pair"
        shares = sorted({max(width // 2, 1), width // 2 + 1})
        ways = [
            f"{2 * pairs / head_dim:.6g} ({2 * pairs})" for pairs in shares if 2 * pairs <= head_dim
        ]
        return [
            f"{key}.rotary_share={self.rotary_share:g}: of model.head_dim={head_dim} that is {says}; "
            f"use {' or '.join(ways) or 'a larger model.head_dim'}"
        ]

    def own_problems(self, key: str, given: RopeInput) -> list[str]:  # noqa: ARG002
        """Returns the broken rules of the method's own fields; the base of `given` is not the run's."""
        return []


@dataclass
class ScaledRope(RopeSettings):
    """A rotation that is scaled to a longer context."""

    # Scaling factor: context length divided by the trained length. dynamic_ntk: 1 follows the paper, more scales more.
    # longrope: of the attention factor only.
    factor: Factor = 1.0

    def factor_problems(self, key: str, *, acts_at_1: bool = False) -> list[str]:
        """Returns one line if the factor scales nothing. acts_at_1: whether the method has an effect at factor 1."""
        if self.factor != 1.0 or acts_at_1:
            return []
        return [
            f"{key}.factor=1: {self.scaling} scales nothing; give how many times the trained length, or "
            f"{key}.scaling=none"
        ]


def below_problems(settings: Any, key: str, low: str, high: str) -> list[str]:
    """Returns one line if the field `low` is not below the field `high`."""
    if getattr(settings, low) < getattr(settings, high):
        return []
    return [f"{key}.{low}={getattr(settings, low)}: must be below {high}={getattr(settings, high)}"]
