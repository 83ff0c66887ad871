"""Rotary position embedding with interleaved pairs (2i, 2i + 1), as in Cohere2.

Pair i of a head at position p is turned by the angle p * base ** (-2i / K):

    (a, b)  ->  (a cos - b sin,  a sin + b cos)      that is      (a + ib) * (cos + i sin)

so the product of a query and a key depends on the distance of their positions only. Everything here
is a pure function of the base and the positions: there are no buffers that a change of base would make
stale. `settings.py` computes the frequencies. A partial rotation turns the first pairs of a head; for
the others cosine is 1 and sine 0, which leaves them bit by bit and costs less than cutting heads in two
and joining them. Source: arXiv 2104.09864.

Shape letters: T tokens, H heads (of queries or of keys), K head dimension, P = K / 2 pairs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.norm import statistics_dtype
from model.position.rope import UNSCALED
from model.position.settings import RopeSettings


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
    rope: RopeSettings = UNSCALED,
    length: int = 0,
) -> Rotation:
    """The rotation of tokens at `positions_T` (integers) for a model that computes in `dtype`.

    base: the schedule's base, used if `rope` has none of its own. length: the sequence length of the stage, or the
    one asked for at evaluation. Angles are computed in float64, which is precise enough at any length; cosines and
    sines are float32, or float64 for a float64 model.
    """
    found = rope.frequencies(base, head_dim, length=length)
    # Of the pairs that rotate: P stands for their number up to where the others are added.
    positions_T1 = positions_T.to(torch.float64)[:, None]
    radians_P = torch.from_numpy(found.radians_P).to(positions_T.device)
    angles_TP = positions_T1 * radians_P
    if found.first_P is not None:
        first_P = torch.from_numpy(found.first_P).to(positions_T.device)
        angles_TP = torch.where(
            positions_T1 < found.first_tokens, positions_T1 * first_P, angles_TP
        )
    turns_TP2 = torch.stack((angles_TP.cos(), angles_TP.sin()), dim=-1) * found.factor
    if unturned := head_dim // 2 - len(found.radians_P):
        still_TP2 = turns_TP2.new_tensor((1.0, 0.0)).expand(len(positions_T), unturned, 2)
        turns_TP2 = torch.cat((turns_TP2, still_TP2), dim=1)
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
