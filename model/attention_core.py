"""The attention seam: what a core is, and which core serves a device and dtype.

A core is one callable, `core(q_THK, k_TGK, v_TGK, layout, window) -> o_THK`. The same tokens go
through every core with the same result, so a machine's fastest is chosen here, and parallelism
can put its own in an attention layer.

    dense        any device, any dtype        the oracle; quadratic memory
    banded       any device, any dtype        windowed layers in O(window x T); the CPU path
    flash_attn   CUDA, bfloat16 and float16   the flash-attn package
    varlen       CUDA, bfloat16 and float16   torch's own flash kernels, without that package

Shape letters: T tokens, H query heads, G key/value heads, K head dimension.
"""

from typing import ClassVar, Protocol

import torch
from torch import Tensor

from model.attention_banded import BandedCore
from model.attention_dense import DenseCore
from model.attention_flash import FlashCore
from model.attention_varlen import VarlenCore
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
    ) -> Tensor:
        """Attend and return o_THK in the dtype of `q_THK`.

        Query head h reads key/value head h // (H / G); scores are scaled by K ** -0.5. A token
        sees the tokens of its own document that are not in its future and, with a window, only the
        last `window`, itself included.
        """


class AttentionBackend(AttentionCore, Protocol):
    """A core with a name that declares what it can serve."""

    name: ClassVar[str]
    device_types: ClassVar[tuple[str, ...]]
    dtypes: ClassVar[tuple[torch.dtype, ...]]

    @staticmethod
    def missing() -> str:
        """What has to be installed first; empty: nothing."""


BACKENDS: tuple[type[AttentionBackend], ...] = (FlashCore, VarlenCore, BandedCore, DenseCore)


def choose_core(name: str, device: torch.device | str, dtype: torch.dtype) -> AttentionCore:
    """Build the core called `name`, or with "auto" the fastest that serves this device and dtype.

    Raises ValueError when the named backend is unknown or cannot serve.
    """
    device_type = torch.device(device).type
    if name == "auto":
        able = [b for b in BACKENDS if not obstacle(b, device_type, dtype)]
        return able[0]()
    backend = next((b for b in BACKENDS if b.name == name), None)
    if backend is None:
        known = ", ".join(["auto", *(b.name for b in BACKENDS)])
        raise ValueError(f"attention_backend={name}: unknown; use one of {known}")
    reason = obstacle(backend, device_type, dtype)
    if reason:
        raise ValueError(f"attention_backend={name}: {reason}; use auto or banded")
    return backend()


def obstacle(backend: type[AttentionBackend], device_type: str, dtype: torch.dtype) -> str:
    """Why this backend cannot serve this device and dtype; empty when it can."""
    if device_type not in backend.device_types:
        return f"runs on {' and '.join(backend.device_types)}, not on {device_type}"
    if dtype not in backend.dtypes:
        names = " and ".join(str(known).removeprefix("torch.") for known in backend.dtypes)
        return f"computes in {names}, not in {str(dtype).removeprefix('torch.')}"
    return backend.missing()
