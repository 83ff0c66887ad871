"""torch's own flash attention behind the attention seam: the GPU path without flash-attn.

`varlen_attn` knows causal and windowed attention by its `window_size` alone: (-1, 0) is causal,
(left, 0) causal within left + 1 keys. So it is from torch 2.11 on; 2.12 added grouped heads
(`enable_gqa`), before it each key head is repeated for its query heads.

Shape letters: T tokens, H query heads, G key/value heads, K head dimension.
"""

from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from typing import ClassVar

import torch
from torch import Tensor

from model.packed_layout import PackedLayout

_MODULE = "torch.nn.attention.varlen"
_UNLIMITED = -1


class VarlenCore:
    """Flash attention shipped with torch, for NVIDIA GPUs."""

    name: ClassVar[str] = "varlen"
    device_types: ClassVar[tuple[str, ...]] = ("cuda",)
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.bfloat16, torch.float16)

    def __init__(self) -> None:
        self._attend = import_module(_MODULE).varlen_attn
        self._groups_heads = "enable_gqa" in signature(self._attend).parameters

    @staticmethod
    def missing() -> str:
        """What has to be installed first; empty: nothing."""
        if find_spec(_MODULE) is None:
            return f"torch {torch.__version__} has no {_MODULE}, which came with 2.11"
        if "window_size" not in signature(import_module(_MODULE).varlen_attn).parameters:
            return f"{_MODULE} of torch {torch.__version__} has no windows; 2.11 has"
        return ""

    def __call__(
        self,
        q_THK: Tensor,
        k_TGK: Tensor,
        v_TGK: Tensor,
        layout: PackedLayout,
        window: int | None,
    ) -> Tensor:
        """See `AttentionCore`."""
        options = {"enable_gqa": True}
        if not self._groups_heads:
            options, repeats = {}, q_THK.shape[1] // k_TGK.shape[1]
            k_TGK = k_TGK.repeat_interleave(repeats, dim=1)
            v_TGK = v_TGK.repeat_interleave(repeats, dim=1)
        o_THK: Tensor = self._attend(
            q_THK,
            k_TGK,
            v_TGK,
            layout.cu_seqlens,
            layout.cu_seqlens,
            layout.max_seqlen,
            layout.max_seqlen,
            window_size=(_UNLIMITED if window is None else window - 1, 0),
            **options,
        )
        return o_THK
