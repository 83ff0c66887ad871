"""RoPE without scaling, as published. Source: arXiv 2104.09864."""

from dataclasses import dataclass
from typing import Literal

from model.position.settings import Frequencies, RopeInput, RopeSettings


@dataclass
class Rope(RopeSettings):
    """Plain RoPE."""

    scaling: Literal["none"] = "none"

    def scaled(self, given: RopeInput) -> Frequencies:
        """The frequencies of RoPE."""
        return Frequencies(given.unscaled())


# RoPE with the schedule's base over the whole head.
UNSCALED = Rope()
