"""All segment kernels, fastest first, and the choice of one for a device, dtype and head dimension."""

from functools import cache

import torch

from model.attention.dense import DenseCore
from model.attention.flash import Flash2, Flash3, Flash4, TorchFlash
from model.attention.segments import BandedSegments, SegmentKernel

# `DenseCore`, which is a core itself, or a kernel that `PackedCore` runs.
Implementation = type[DenseCore] | type[SegmentKernel]
# Fastest first.
KERNELS: tuple[type[SegmentKernel], ...] = (Flash3, Flash4, TorchFlash, Flash2, BandedSegments)


def obstacle(
    implementation: Implementation,
    device_type: str,
    dtype: torch.dtype,
    head_dim: int = 64,
    softcap: float = 0.0,
) -> str:
    """Why it does not support this device, dtype, head dimension and softcap on this host; empty if it does."""
    known = implementation.backend.obstacle(device_type, dtype_name(dtype), head_dim, softcap)
    return known or implementation.missing(head_dim)


def dtype_name(dtype: torch.dtype) -> str:
    """The name without "torch."."""
    return str(dtype).removeprefix("torch.")


@cache
def choose_segment_kernel(
    device_type: str, dtype: torch.dtype, head_dim: int, softcap: float = 0.0
) -> SegmentKernel:
    """The fastest kernel that supports this device, dtype, head dimension and softcap."""
    able = (k for k in KERNELS if not obstacle(k, device_type, dtype, head_dim, softcap))
    return next(able)(softcap)
