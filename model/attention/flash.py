"""Flash attention on NVIDIA GPUs: forward and backward kernels called directly, one class per implementation.

    varlen         torch's own kernels (FlashAttention-2), with torch 2.11 and newer
    flash_attn     the package flash-attn 2
    flash_attn_3   the package flash_attn_interface, Hopper GPUs; called through torch's operators
    flash_attn_4   the package flash-attn-4 (flash_attn.cute), Hopper and Blackwell GPUs

The convention of windows is translated here: our `window` counts the keys a token sees, itself included; the
kernels' left window counts the keys BEFORE it. All kernels support grouped heads: query head h reads key head
h // (H / G). Rows may be strided, so slices of a tensor that holds keys and values side by side are not copied.
Gradients of queries are summed in no fixed order, unless `torch.use_deterministic_algorithms(True)` is on.

Sources: arXiv 2307.08691 (FlashAttention-2), 2407.08608 (3).

Shape letters: T queries of all segments, S keys of all segments, H query heads, G key/value heads,
K head dimension.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import ClassVar

import torch
from torch import Tensor

from model.attention.backends import FLASH_2, FLASH_3, FLASH_4, VARLEN, Backend
from model.attention.segments import Segments

_UNLIMITED = -1
_HOPPER = 9
_WIDEST_ON_BLACKWELL = 128


class _Flash:
    """Base class of the flash kernels: none of them supports a softcap."""

    def __init__(self, softcap: float = 0.0) -> None:
        assert not softcap, "flash kernels do not support a softcap"


class TorchFlash(_Flash):
    """torch's own flash kernels. Head dimension a multiple of 8, at most 256.

    The two operators have the same calling convention from torch 2.11 to 2.13: window limits are numbers
    of keys before and after the aligned key, -1 for no limit; log-sum-exp is (H, T) in float32.
    """

    backend: ClassVar[Backend] = VARLEN

    @staticmethod
    def missing(head_dim: int) -> str:  # noqa: ARG004
        """See `SegmentKernel`."""
        # The operators support windows in those versions of torch that have this module.
        if not _package("torch.nn.attention.varlen"):
            return f"torch {torch.__version__} is too old; 2.11 has it"
        return ""

    def forward(
        self, q_THK: Tensor, k_SGK: Tensor, v_SGK: Tensor, segments: Segments
    ) -> tuple[Tensor, Tensor]:
        """See `SegmentKernel`."""
        left, right = _limits(segments)
        o_THK, lse_HT, *_ = torch.ops.aten._flash_attention_forward(
            q_THK,
            k_SGK,
            v_SGK,
            *_lengths(segments),
            0.0,  # dropout
            False,  # causal: the window limits express it
            False,  # debug mask
            window_size_left=left,
            window_size_right=right,
        )
        return o_THK, lse_HT.mT.contiguous()

    def backward(
        self,
        do_THK: Tensor,
        q_THK: Tensor,
        k_SGK: Tensor,
        v_SGK: Tensor,
        o_THK: Tensor,
        lse_TH: Tensor,
        segments: Segments,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `SegmentKernel`."""
        left, right = _limits(segments)
        # Without dropout the kernel draws no random numbers, but it requires a state.
        state = torch.zeros(2, dtype=torch.uint64, device=q_THK.device)
        dq_THK, dk_SGK, dv_SGK = torch.ops.aten._flash_attention_backward(
            do_THK,
            q_THK,
            k_SGK,
            v_SGK,
            o_THK,
            lse_TH.mT.contiguous(),
            *_lengths(segments),
            0.0,
            False,
            state,
            torch.empty(0, device=q_THK.device),
            window_size_left=left,
            window_size_right=right,
        )
        return dq_THK, dk_SGK, dv_SGK


class Flash2(_Flash):
    """The package flash-attn 2. Head dimension a multiple of 8, at most 256."""

    backend: ClassVar[Backend] = FLASH_2

    def __init__(self, softcap: float = 0.0) -> None:
        super().__init__(softcap)
        self._kernels = import_module("flash_attn.flash_attn_interface")

    @staticmethod
    def missing(head_dim: int) -> str:  # noqa: ARG004
        """See `SegmentKernel`."""
        if _package("flash_attn.flash_attn_interface"):
            return ""
        return "the package flash-attn 2 is not installed"

    def forward(
        self, q_THK: Tensor, k_SGK: Tensor, v_SGK: Tensor, segments: Segments
    ) -> tuple[Tensor, Tensor]:
        """See `SegmentKernel`."""
        left, right = _limits(segments)
        o_THK, lse_HT, *_ = self._kernels._flash_attn_varlen_forward(
            q_THK,
            k_SGK,
            v_SGK,
            *_lengths(segments),
            0.0,  # dropout
            q_THK.shape[-1] ** -0.5,
            segments.causal,
            window_size_left=left,
            window_size_right=right,
        )
        return o_THK, lse_HT.mT.contiguous()

    def backward(
        self,
        do_THK: Tensor,
        q_THK: Tensor,
        k_SGK: Tensor,
        v_SGK: Tensor,
        o_THK: Tensor,
        lse_TH: Tensor,
        segments: Segments,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `SegmentKernel`."""
        left, right = _limits(segments)
        dq_THK, dk_SGK, dv_SGK = (torch.empty_like(x) for x in (q_THK, k_SGK, v_SGK))
        self._kernels._flash_attn_varlen_backward(
            do_THK,
            q_THK,
            k_SGK,
            v_SGK,
            o_THK,
            lse_TH.mT.contiguous(),
            dq_THK,
            dk_SGK,
            dv_SGK,
            *_lengths(segments),
            0.0,  # dropout
            q_THK.shape[-1] ** -0.5,
            segments.causal,
            window_size_left=left,
            window_size_right=right,
            softcap=0.0,
            alibi_slopes=None,
            deterministic=torch.are_deterministic_algorithms_enabled(),
        )
        return dq_THK, dk_SGK, dv_SGK


class Flash3(TorchFlash):
    """FlashAttention-3: once activated, torch runs it behind the same operators for the whole process."""

    backend: ClassVar[Backend] = FLASH_3

    def __init__(self, softcap: float = 0.0) -> None:
        super().__init__(softcap)
        attention = import_module("torch.nn.attention")
        if attention.current_flash_attention_impl() != "FA3":
            attention.activate_flash_attention_impl("FA3")

    @staticmethod
    def missing(head_dim: int) -> str:  # noqa: ARG004
        """See `SegmentKernel`."""
        if not _package("flash_attn_interface"):
            return "the package of FlashAttention-3 (flash_attn_interface) is not installed"
        if not hasattr(import_module("torch.nn.attention"), "activate_flash_attention_impl"):
            return f"torch {torch.__version__} cannot activate it; 2.11 can"
        return "" if _generation() == _HOPPER else "is for Hopper GPUs"


class Flash4(_Flash):
    """FlashAttention-4. Head dimension a multiple of 8, at most 256 (128 on Blackwell).

    torch can activate it too, but torch 2.11 then raises for windows in the backward. Each kernel is compiled
    at its first call, which takes seconds; FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED=1 caches kernels on disk.
    """

    backend: ClassVar[Backend] = FLASH_4

    def __init__(self, softcap: float = 0.0) -> None:
        super().__init__(softcap)
        self._kernels = import_module("flash_attn.cute.interface")

    @staticmethod
    def missing(head_dim: int) -> str:
        """See `SegmentKernel`."""
        if not _package("flash_attn.cute"):
            return "the package flash-attn-4 (flash_attn.cute) is not installed"
        if _generation() < _HOPPER:
            return "is for Hopper and Blackwell GPUs"
        if _generation() > _HOPPER and head_dim > _WIDEST_ON_BLACKWELL:
            return f"takes a head_dim of at most {_WIDEST_ON_BLACKWELL} on this GPU, not {head_dim}"
        return ""

    def forward(
        self, q_THK: Tensor, k_SGK: Tensor, v_SGK: Tensor, segments: Segments
    ) -> tuple[Tensor, Tensor]:
        """See `SegmentKernel`."""
        o_THK, lse_HT, *_ = self._kernels._flash_attn_fwd(
            q_THK, k_SGK, v_SGK, return_lse=True, **_named(segments)
        )
        return o_THK, lse_HT.mT.contiguous()

    def backward(
        self,
        do_THK: Tensor,
        q_THK: Tensor,
        k_SGK: Tensor,
        v_SGK: Tensor,
        o_THK: Tensor,
        lse_TH: Tensor,
        segments: Segments,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `SegmentKernel`."""
        dq_THK, dk_SGK, dv_SGK, *_ = self._kernels._flash_attn_bwd(
            q_THK,
            k_SGK,
            v_SGK,
            o_THK,
            do_THK,
            lse_TH.mT.contiguous(),
            deterministic=torch.are_deterministic_algorithms_enabled(),
            **_named(segments),
        )
        return dq_THK, dk_SGK, dv_SGK


def _package(name: str) -> bool:
    """Whether a module called `name` exists; False if a parent package is missing."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _generation() -> int:
    return torch.cuda.get_device_capability()[0] if torch.cuda.is_available() else 0


def _limits(segments: Segments) -> tuple[int, int]:
    left = _UNLIMITED if segments.window is None else segments.window - 1
    return left, 0 if segments.causal else _UNLIMITED


def _lengths(segments: Segments) -> tuple[Tensor, Tensor, int, int]:
    # The kernels take upper bounds of the lengths. At 1 query the kernel would use its decoding path, which regroups
    # the query heads and so changes the layout of the log-sum-exp.
    longest = max(2, *segments.query_lengths)
    return segments.cu_queries, segments.cu_keys, longest, max(segments.key_lengths)


def _named(segments: Segments) -> dict[str, object]:
    cu_queries, cu_keys, longest, most_keys = _lengths(segments)
    window = None if segments.window is None else segments.window - 1
    return {
        "cu_seqlens_q": cu_queries,
        "cu_seqlens_k": cu_keys,
        "max_seqlen_q": longest,
        "max_seqlen_k": most_keys,
        "causal": segments.causal,
        "window_size_left": window,
        "window_size_right": None if window is None else 0,
    }
