"""The only import of deepspeed, with the settings that it needs before and right after.

They make DeepSpeed use the CPU where there is no GPU, compile nothing during the import, and print nothing.
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
# DeepSpeed calls functions that torch has deprecated, in every step on every rank.
warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
# Compiles no op: the CPU accelerator would build one for a minute and fail without ninja. Set through `vars`, because
# reading this table as an attribute probes for nvcc.
vars(deepspeed.ops)["__compatible_ops__"] = {"deepspeed_shm_comm": False}

__all__ = ["deepspeed", "use_cpu_on_a_gpu_host"]


def use_cpu_on_a_gpu_host() -> None:
    """Makes DeepSpeed use the CPU in this process, whatever the host has."""
    if get_accelerator().device_name() != "cpu":
        set_accelerator(CPU_Accelerator())
