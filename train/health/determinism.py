"""Deterministic mode: repeating a run on the same ranks gives the same bits, on GPUs too.

On the CPU this holds in any mode. On CUDA some kernels add in the order in which their blocks finish (for example
attention's backward with respect to queries); this selects deterministic ones, where torch has them.
"""

import os

import torch


def make_deterministic() -> None:
    """Must be called before any use of a GPU. Operations without a deterministic kernel then raise RuntimeError."""
    # Otherwise cuBLAS shares workspaces between streams; NVIDIA names this size for determinism.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # The order of additions in a collective depends on NCCL's algorithm, which it would choose by itself.
    os.environ.setdefault("NCCL_ALGO", "Ring")
    torch.use_deterministic_algorithms(True)
    # No code here reads uninitialized memory; filling it would only cost time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
