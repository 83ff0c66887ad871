"""Bounds of the numbers that several position methods take."""

from math import inf
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt

Positive = Annotated[float, Gt(0), Lt(inf)]
# Positions are counted in 32 bits.
Positions = Annotated[int, Ge(1), Le(2**31 - 1)]
