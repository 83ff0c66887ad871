"""Turns queries and keys by FoPE's series. The table of turns differs by layer and key/value group.

    tones_TN2          cosine and sine of every tone at every token; shared by all layers of a kind
    coefficients_GNP2  of one layer's groups, drawn by name, never trained
    turns_TGP2         = tones x coefficients + constant, made for a tile of tokens, used and freed

A table of all tokens has T x G x P x 2 numbers a layer (0.5 GiB in float32 at 128k tokens, 8 groups and 64 pairs),
so it is made in tiles, in the forward and again in the backward; no layer's table outlives the call.

Shape letters: T tokens, H heads, G key/value groups held here, N tones, P pairs, K head dimension.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.norm import statistics_dtype
from model.position.fourier import (
    Fourier,
    kept,
    official_deviation,
    official_identity,
    series_pairs,
)
from model.position.settings import RopeSettings

# Tokens of one tile of the table.
_TILE = 2048


@dataclass(frozen=True)
class Coefficients:
    """What the coefficients of a kind's layers are drawn from; equal objects give equal coefficients.

    settings: form, deviation and seed. pairs: pairs that rotate. num_kept: kept pairs at each length trained at, in
    order; the last number is that in force. extra_tones: number of random tones. groups: key/value groups of the model.
    """

    form: str
    sigma: float
    seed: int
    pairs: int
    num_kept: tuple[int, ...]
    extra_tones: int
    groups: int

    def drawn(self, layer: int, group: int) -> Tensor:
        """The coefficients of one group of one layer, float64 (N, P, 2): of cosines and of sines.

        The tones are the kept pairs' and then the random ones.
        Coefficients of a tone and a pair stay the same when the length grows, and those of new ones are added.
        """
        tones = self.pairs + self.extra_tones
        generator = _generator(f"{self.seed}/layers.{layer}/group.{group}")
        noise = torch.randn(2, tones, self.pairs, generator=generator, dtype=torch.float64)
        deviation_NP = np.zeros((tones, self.pairs))
        identity_NP = np.zeros((tones, self.pairs))
        known = 0, 0
        for count in self.num_kept:
            series = series_pairs(count, 2 * self.pairs, self.form)
            new = np.zeros((tones, self.pairs), dtype=bool)
            new[:count, :series] = True
            if self.form == "paper":
                new[self.pairs :, :series] = True
                identity, deviation = np.eye(count), self.sigma
            elif series:
                identity = official_identity(count, series)
                deviation = official_deviation(count, series, self.groups, self.sigma)
            else:  # no pair completes a turn
                continue
            new[: known[0], : known[1]] = False
            new[self.pairs :, : known[1]] = False
            deviation_NP[new] = deviation
            block = np.zeros((tones, self.pairs))
            block[:count, :series] = identity
            identity_NP[new] = block[new]
            known = count, series
        found_2NP = noise * torch.from_numpy(deviation_NP) + torch.from_numpy(identity_NP)
        used = torch.cat((found_2NP[:, : self.num_kept[-1]], found_2NP[:, self.pairs :]), dim=1)
        return used.permute(1, 2, 0).contiguous()

    def constant(self) -> np.ndarray:
        """Cosine and sine of the pairs without a series, 0 for the others, (P, 2)."""
        found = np.zeros((self.pairs, 2))
        series = series_pairs(self.num_kept[-1], 2 * self.pairs, self.form)
        found[series:] = (1.0, 1.0) if self.form == "official" else (1.0, 0.0)
        return found


@dataclass(frozen=True, eq=False)
class FourierRotation:
    """FoPE of the tokens held here, for all layers of a kind.

    tones_TN2: cosine and sine of every tone. constant_P2: turns of the pairs without a series. source: of the
    coefficients. factor: factor of cosines and sines.
    """

    tones_TN2: Tensor
    constant_P2: Tensor
    source: Coefficients
    factor: float

    def of_layer(self, layer: int, groups: range) -> "LayerFourier":
        """The rotation of one layer. layer: its global index. groups: the key/value heads held here, of all."""
        like = self.tones_TN2
        return LayerFourier(
            self, _coefficients(self.source, layer, groups, like.device, like.dtype)
        )

    def table(self, tile: slice, coefficients_GNP2: Tensor) -> Tensor:
        """The turns of a tile of tokens as complex numbers, (T, G, P)."""
        parts = [
            torch.einsum("tn,gnp->tgp", self.tones_TN2[tile, :, i], coefficients_GNP2[..., i])
            + self.constant_P2[:, i]
            for i in range(2)
        ]
        return torch.complex(*parts) * self.factor


@dataclass(frozen=True, eq=False)
class LayerFourier:
    """FoPE of one layer."""

    shared: FourierRotation
    coefficients_GNP2: Tensor

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def turn(self, q_THK: Tensor, k_TGK: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys, turned; dtypes and shapes are kept."""
        run = _Turn.apply
        q, k = run(q_THK, k_TGK, self)  # type: ignore[no-untyped-call]
        return q, k


@dataclass(frozen=True)
class FourierSource:
    """What the turns of a kind of layers follow from.

    rope: its `fourier` is set. scheduled_base: used if `rope` has none of its own. groups: key/value heads of the
    model. lengths: lengths trained at so far, in tokens, each at most the reach of the layers; the last one decides
    which pairs are kept. length: see `RopeInput`.
    """

    rope: RopeSettings
    scheduled_base: float
    head_dim: int
    groups: int
    lengths: tuple[int, ...]
    length: int = 0


def make_fourier(positions_T: Tensor, given: FourierSource, dtype: torch.dtype) -> FourierRotation:
    """The rotation of tokens at `positions_T` (integers) for a model that computes in `dtype`."""
    fourier = given.rope.fourier
    assert isinstance(fourier, Fourier)
    found = given.rope.frequencies(given.scheduled_base, given.head_dim, length=given.length)
    plain = given.rope.unscaled(given.scheduled_base, given.head_dim)
    counts = tuple(int(kept(plain, trained).sum()) for trained in given.lengths)
    extra = max(0, fourier.num_tones - counts[0])
    source = Coefficients(
        fourier.form, fourier.sigma, fourier.seed, len(plain), counts, extra, given.groups
    )
    radians_N = np.concatenate((found.radians_P[: counts[-1]], _extra_tones(fourier.seed, extra)))
    device, wide = positions_T.device, statistics_dtype(dtype)
    angles_TN = positions_T.to(torch.float64)[:, None] * torch.from_numpy(radians_N).to(device)
    tones_TN2 = torch.stack((angles_TN.cos(), angles_TN.sin()), dim=-1).to(wide)
    constant_P2 = torch.from_numpy(source.constant()).to(device, wide)
    return FourierRotation(tones_TN2, constant_P2, source, found.factor)


def _extra_tones(seed: int, count: int) -> np.ndarray:
    """Radians per token of the random tones, uniform in [0, pi)."""
    drawn = torch.rand(count, generator=_generator(f"{seed}/tones"), dtype=torch.float64)
    return np.asarray(np.pi * drawn.numpy())


def _generator(name: str) -> torch.Generator:
    digest = hashlib.sha256(f"fourier/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


# Bounded, as a window that ramps asks for others as it grows.
@lru_cache(maxsize=256)
def _coefficients(
    source: Coefficients, layer: int, groups: range, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """(G, N, P, 2) on the device; a few kilobytes a layer, drawn once."""
    return torch.stack([source.drawn(layer, group) for group in groups]).to(device, dtype)


class _Turn(torch.autograd.Function):
    """Multiplies the pairs of queries and keys by the table; keeps nothing of the layer's size."""

    @staticmethod
    def forward(
        ctx: Any,
        q_THK: Tensor,
        k_TGK: Tensor,
        layer: LayerFourier,
    ) -> tuple[Tensor, Tensor]:
        ctx.layer = layer
        return _turned(q_THK, k_TGK, layer, back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dq_THK: Tensor, dk_TGK: Tensor) -> tuple[Tensor | None, ...]:
        return *_turned(dq_THK, dk_TGK, ctx.layer, back=True), None


def _turned(
    q_THK: Tensor, k_TGK: Tensor, layer: LayerFourier, *, back: bool
) -> tuple[Tensor, Tensor]:
    """Queries and keys turned, or turned by the conjugate (`back`): the gradient of a turn."""
    found = torch.empty_like(q_THK), torch.empty_like(k_TGK)
    shared = layer.shared
    rotated = 2 * shared.constant_P2.shape[0]
    for start in range(0, len(q_THK), _TILE):
        tile = slice(start, start + _TILE)
        turns_TGP = shared.table(tile, layer.coefficients_GNP2)
        if back:
            turns_TGP = turns_TGP.conj()
        for x_THK, into_THK in zip((q_THK, k_TGK), found, strict=True):
            part_THP2 = x_THK[tile, :, :rotated].to(shared.constant_P2.dtype)
            groups, pairs = turns_TGP.shape[1:]
            pairs_TGLP2 = part_THP2.reshape(len(part_THP2), groups, -1, pairs, 2)
            turned = torch.view_as_complex(pairs_TGLP2.contiguous()) * turns_TGP[:, :, None]
            into_THK[tile, :, :rotated] = torch.view_as_real(turned).flatten(-2).flatten(1, 2)
            into_THK[tile, :, rotated:] = x_THK[tile, :, rotated:]
    return found
