"""Rotary position embedding with interleaved pairs (2i, 2i + 1), as in Cohere2.

Pair i of a head at position p is turned by the angle p * base ** (-2i / K):

    (a, b)  ->  (a cos - b sin,  a sin + b cos)      that is      (a + ib) * (cos + i sin)

so the product of a query and a key depends on the distance of their positions only. Everything here
is a pure function of the base and the positions: there are no buffers that a change of base would make
stale. `frequencies.py` computes the scaled frequencies. Source: arXiv 2104.09864.

Shape letters: T tokens, H heads (of queries or of keys), K head dimension, P = K / 2 pairs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.norm import statistics_dtype
from model.position.config import UNSCALED, RopeConfig
from model.position.frequencies import frequencies


@dataclass(frozen=True, eq=False)
class Rotation:
    """Cosine and sine of every token and pair (T, P, 2), computed once per forward, shared by all layers of a kind."""

    turns_TP2: Tensor


def make_rotation(
    positions_T: Tensor,
    base: float,
    *,
    head_dim: int,
    dtype: torch.dtype,
    rope: RopeConfig = UNSCALED,
) -> Rotation:
    """The rotation of tokens at `positions_T` (integers) for a model that computes in `dtype`.

    base: the schedule's base, used if `rope` has none of its own. Angles are computed in float64, which is precise
    enough at any length; cosines and sines are float32, or float64 for a float64 model.
    """
    frequencies_P, factor = frequencies(rope, base, head_dim, positions_T.device)
    angles_TP = positions_T.to(torch.float64)[:, None] * frequencies_P
    turns_TP2 = torch.stack((angles_TP.cos(), angles_TP.sin()), dim=-1) * factor
    return Rotation(turns_TP2.to(statistics_dtype(dtype)))


def rotate(x_THK: Tensor, rotation: Rotation | None) -> Tensor:
    """Rotate the pairs of queries or keys, in the rotation's precision; dtype and shape are kept.

    rotation: None for layers without position (NoPE): nothing changes.
    """
    if rotation is None:
        return x_THK
    turns_T1P2 = rotation.turns_TP2[:, None]
    pairs_THP2 = x_THK.to(turns_T1P2.dtype).reshape(*x_THK.shape[:-1], -1, 2)
    if x_THK.is_cpu and not torch.compiler.is_compiling():
        # On CPU complex numbers are ten times faster than cosines and sines on strided halves.
        turns_T1P = torch.view_as_complex(turns_T1P2)
        turned_THP = torch.view_as_complex(pairs_THP2.contiguous()) * turns_T1P
        return torch.view_as_real(turned_THP).flatten(-2).to(x_THK.dtype)
    (a, b), (cos, sin) = pairs_THP2.unbind(-1), turns_T1P2.unbind(-1)
    turned_THP2 = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1)
    return turned_THP2.flatten(-2).to(x_THK.dtype)
