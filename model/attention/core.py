"""The interface of attention cores, and the choice of a core for a device and dtype.

A core is one callable, `core(q_THK, k_TGK, v_TGK, layout, reach) -> o_THK`. All cores compute the
same function, so the fastest for the machine is chosen here, and parallelism can replace the core
of an attention layer. `attention/backends.py` lists what each backend supports.

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
from model.reach import Reach

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
        reach: Reach,
        sinks_H: Tensor | None = None,
    ) -> Tensor:
        """Attend and return o_THK in the dtype of `q_THK`.

        Query head h reads key/value head h // (H / G); scores are scaled by K ** -0.5. A token
        sees itself and the earlier tokens of its document that are within `reach`. sinks_H: see
        `attention.sinks`; None for none.
        """


def choose_core(
    name: str,
    device: torch.device | str,
    dtype: torch.dtype,
    head_dim: int = 64,
    softcap: float = 0.0,
) -> AttentionCore:
    """Build the core called `name`, or with "auto" the fastest that supports device, dtype and head dimension.

    softcap: cap of the scores, which not every kernel supports; 0 for none.

    Raises ValueError when the named backend is unknown or does not support them.
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
    """Builds the core of an implementation: `DenseCore`, or a `PackedCore` around a kernel."""
    built = implementation(softcap)
    return built if isinstance(built, DenseCore) else PackedCore(built)
