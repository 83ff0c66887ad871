"""The attention seam: what a core is, and which core serves a device and dtype.

A core is one callable, `core(q_THK, k_TGK, v_TGK, layout, window) -> o_THK`. The same tokens go
through every core with the same result, so a machine's fastest is chosen here, and parallelism
can put its own in an attention layer. What each backend serves is said in
`attention/backends.py`.

Shape letters: T tokens, H query heads, G key/value heads, K head dimension.
"""

from typing import Protocol

import torch
from torch import Tensor

from model.attention.backends import backend_problem, unable
from model.attention.dense import DenseCore
from model.attention.kernels import KERNELS, Implementation, dtype_name, obstacle
from model.attention.packed import PackedCore
from model.packed_layout import PackedLayout

# Fastest first.
IMPLEMENTATIONS: tuple[Implementation, ...] = (*KERNELS, DenseCore)


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
        able = (
            i for i in IMPLEMENTATIONS if not obstacle(i, device_type, dtype, head_dim, softcap)
        )
        return build_core(next(able), softcap)
    problem = backend_problem(name, device_type, dtype_name(dtype), head_dim, softcap)
    if problem:
        raise ValueError(problem)
    chosen = next(i for i in IMPLEMENTATIONS if i.backend.name == name)
    if lacks := chosen.missing(head_dim):
        raise ValueError(unable(name, lacks))
    return build_core(chosen, softcap)


def build_core(implementation: Implementation, softcap: float = 0.0) -> AttentionCore:
    """The core of an implementation."""
    built = implementation(softcap)
    return built if isinstance(built, DenseCore) else PackedCore(built)
