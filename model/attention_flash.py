"""The flash-attn package behind the attention seam; imported here only, and only when asked for.

Two conventions are translated here. Our `window` counts the keys a token sees, itself included;
the kernel's left window counts the keys BEFORE it. Grouped heads are native: query head h reads
key head h // (H / G) in both.

Shape letters: T tokens, H query heads, G key/value heads, K head dimension.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import ClassVar

import torch
from torch import Tensor

from model.packed_layout import PackedLayout

_UNLIMITED = -1


class FlashCore:
    """Variable-length flash attention for NVIDIA GPUs. Head dimension at most 256."""

    name: ClassVar[str] = "flash_attn"
    device_types: ClassVar[tuple[str, ...]] = ("cuda",)
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.bfloat16, torch.float16)

    def __init__(self) -> None:
        self._attend = import_module("flash_attn").flash_attn_varlen_func

    @staticmethod
    def missing() -> str:
        """What has to be installed first; empty: nothing."""
        return "" if find_spec("flash_attn") else "the flash-attn package is not installed"

    def __call__(
        self,
        q_THK: Tensor,
        k_TGK: Tensor,
        v_TGK: Tensor,
        layout: PackedLayout,
        window: int | None,
    ) -> Tensor:
        """See `AttentionCore`."""
        left = _UNLIMITED if window is None else window - 1
        o_THK: Tensor = self._attend(
            q_THK,
            k_TGK,
            v_TGK,
            cu_seqlens_q=layout.cu_seqlens,
            cu_seqlens_k=layout.cu_seqlens,
            max_seqlen_q=layout.max_seqlen,
            max_seqlen_k=layout.max_seqlen,
            causal=True,
            window_size=(left, 0),
        )
        return o_THK
