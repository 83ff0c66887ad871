"""Deterministic mode: the same run twice on the same ranks is the same, bit for bit, on GPUs too.

On the CPU it is so in any mode. On CUDA some kernels add in whatever order their blocks finish (attention's
backward with respect to queries among them); this picks those that do not, where torch has them.
"""

import os

import torch


def make_deterministic() -> None:
    """Call before anything touches a GPU. An operation without a deterministic kernel will raise."""
    # cuBLAS otherwise shares workspaces between streams; this is the size NVIDIA names for determinism.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # The order of additions in a collective depends on the algorithm NCCL would choose by itself.
    os.environ.setdefault("NCCL_ALGO", "Ring")
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory it has not written; filling it would only cost.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
