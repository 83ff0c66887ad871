"""The attention seam: what a core is, and which core serves a device and dtype.

A core is one callable, `core(q_THK, k_TGK, v_TGK, layout, window) -> o_THK`. The same tokens go
through every core with the same result, so a machine's fastest is chosen here, and parallelism
can put its own in an attention layer.

    dense          any device, any dtype        the oracle; quadratic memory
    banded         any device, any dtype        windowed layers in O(window x T); the CPU path
    varlen         CUDA, bfloat16 and float16   torch's own flash kernels
    flash_attn     CUDA, bfloat16 and float16   the packages of flash attention 2, 3 and 4
    flash_attn_3
    flash_attn_4

Shape letters: T tokens, H query heads, G key/value heads, K head dimension.
"""

from typing import Protocol

import torch
from torch import Tensor

from model.attention.dense import DenseCore
from model.attention.flash import KERNELS
from model.attention.packed import PackedCore
from model.attention.segments import SegmentKernel
from model.packed_layout import PackedLayout


class AttentionCore(Protocol):
    """Attention over one packed stream."""

    def __call__(
        self,
        q_THK: Tensor,
        k_TGK: Tensor,
        v_TGK: Tensor,
        layout: PackedLayout,
        window: int | None,
        sinks_H: Tensor | None = None,
    ) -> Tensor:
        """Attend and return o_THK in the dtype of `q_THK`.

        Query head h reads key/value head h // (H / G); scores are scaled by K ** -0.5. A token
        sees the tokens of its own document that are not in its future and, with a window, only the
        last `window`, itself included. sinks_H: see `attention.sinks`; None for none.
        """


# A core of its own, or a kernel that `PackedCore` runs; fastest first.
Backend = type[DenseCore] | type[SegmentKernel]
BACKENDS: tuple[Backend, ...] = (*KERNELS, DenseCore)


def choose_core(
    name: str,
    device: torch.device | str,
    dtype: torch.dtype,
    head_dim: int = 64,
    softcap: float = 0.0,
) -> AttentionCore:
    """Build the core called `name`, or with "auto" the fastest that serves device, dtype and head dimension.

    softcap: of scores, which not every kernel has; 0 for none.

    Raises ValueError when the named backend is unknown or cannot serve.
    """
    device_type = torch.device(device).type
    if name == "auto":
        able = (b for b in BACKENDS if not obstacle(b, device_type, dtype, head_dim, softcap))
        return build_core(next(able), softcap)
    backend = next((b for b in BACKENDS if b.name == name), None)
    if backend is None:
        known = ", ".join(["auto", *(b.name for b in BACKENDS)])
        raise ValueError(f"attention_backend={name}: unknown; use one of {known}")
    reason = obstacle(backend, device_type, dtype, head_dim, softcap)
    if reason:
        raise ValueError(f"attention_backend={name}: {reason}; use auto or banded")
    return build_core(backend, softcap)


def build_core(backend: Backend, softcap: float = 0.0) -> AttentionCore:
    """The core of a backend."""
    built = backend(softcap) if softcap else backend()
    return built if isinstance(built, DenseCore) else PackedCore(built)


def obstacle(
    backend: Backend,
    device_type: str,
    dtype: torch.dtype,
    head_dim: int = 64,
    softcap: float = 0.0,
) -> str:
    """Why this backend cannot serve this device, dtype, head dimension and cap; empty when it can."""
    if device_type not in backend.device_types:
        return f"runs on {' and '.join(backend.device_types)}, not on {device_type}"
    if dtype not in backend.dtypes:
        names = " and ".join(str(known).removeprefix("torch.") for known in backend.dtypes)
        return f"computes in {names}, not in {str(dtype).removeprefix('torch.')}"
    if softcap and not backend.caps_scores:
        return f"does not cap scores, and model.attention_softcap={softcap}"
    if head_dim not in backend.head_dims:
        widths = backend.head_dims
        return f"takes a head_dim of {widths[0]} to {widths[-1]} in steps of {widths.step}, not {head_dim}"
    return backend.missing()
