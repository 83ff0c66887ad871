"""The only import of deepspeed: what has to be said before it and right after it.

It is to choose the CPU where there is no GPU, to compile nothing on the way, and to print nothing.
"""

import logging
import os
import warnings

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
from deepspeed.accelerator import get_accelerator, set_accelerator
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from deepspeed.utils import logger

logger.setLevel(logging.ERROR)
# It calls names that torch is about to rename, at every step of every rank.
warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
# No op is compiled on the way: the CPU accelerator would build one for a minute and fail without ninja,
# and reading this table through its own door probes for nvcc.
vars(deepspeed.ops)["__compatible_ops__"] = {"deepspeed_shm_comm": False}

__all__ = ["deepspeed", "use_cpu_on_a_gpu_host"]


def use_cpu_on_a_gpu_host() -> None:
    """Tell DeepSpeed that this process computes on the CPU, whatever the host has."""
    if get_accelerator().device_name() != "cpu":
        set_accelerator(CPU_Accelerator())
