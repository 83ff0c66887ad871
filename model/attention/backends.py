"""Which attention backend supports which device, dtype and head dimension; the kernels are not imported.

    dense          any device, any dtype        the reference; quadratic memory
    banded         any device, any dtype        windowed layers in O(window x T); the CPU path
    varlen         CUDA, bfloat16 and float16   torch's own flash kernels
    flash_attn     CUDA, bfloat16 and float16   the packages of flash attention 2, 3 and 4
    flash_attn_3
    flash_attn_4

`--check` checks a configuration against this table without torch. The kernels themselves check the host for packages
and the GPU generation: see `SegmentKernel.missing`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Backend:
    """The limits of one backend. dtypes: torch's names; caps_scores: whether it supports `attention_softcap`."""

    name: str
    device_types: tuple[str, ...] = ("cpu", "cuda")
    dtypes: tuple[str, ...] = ("float64", "float32", "bfloat16", "float16")
    head_dims: range = range(1, 2**31)
    caps_scores: bool = True

    def obstacle(self, device_type: str, dtype: str, head_dim: int, softcap: float) -> str:
        """Why it does not support this device, dtype, head dimension and softcap (0: none); empty if it does."""
        if device_type not in self.device_types:
            return f"runs on {' and '.join(self.device_types)}, not on {device_type}"
        if dtype not in self.dtypes:
            return f"computes in {' and '.join(self.dtypes)}, not in {dtype}"
        if softcap and not self.caps_scores:
            return f"does not cap scores, and model.attention_softcap={softcap}"
        if head_dim not in self.head_dims:
            widths = self.head_dims
            return f"takes a head_dim of {widths[0]} to {widths[-1]} in steps of {widths.step}, not {head_dim}"
        return ""


def _flash(name: str) -> Backend:
    """The limits that all flash attention kernels for NVIDIA GPUs share."""
    return Backend(name, ("cuda",), ("bfloat16", "float16"), range(8, 257, 8), caps_scores=False)


FLASH_3, FLASH_4 = _flash("flash_attn_3"), _flash("flash_attn_4")
VARLEN, FLASH_2 = _flash("varlen"), _flash("flash_attn")
BANDED, DENSE = Backend("banded"), Backend("dense")
BACKENDS = {backend.name: backend for backend in (FLASH_3, FLASH_4, VARLEN, FLASH_2, BANDED, DENSE)}


def backend_problem(
    name: str, device_type: str, dtype: str, head_dim: int, softcap: float = 0.0
) -> str:
    """Why the backend `name` cannot be used on any host, in one line; empty if it can. "auto" is always possible."""
    if name == "auto":
        return ""
    if name not in BACKENDS:
        return f"attention_backend={name}: unknown; use one of {', '.join(['auto', *BACKENDS])}"
    reason = BACKENDS[name].obstacle(device_type, dtype, head_dim, softcap)
    return unable(name, reason) if reason else ""


def unable(name: str, reason: str) -> str:
    """The error message for a backend that cannot be used."""
    return f"attention_backend={name}: {reason}; use auto or banded"
