"""Allocates and initialises a model that was built on the meta device; under ZeRO-3 it is sharded meanwhile."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from parallel.engine.deepspeed_import import deepspeed, use_cpu_on_a_gpu_host
from parallel.mesh import Mesh


def materialise(
    module: nn.Module,
    initialise: Callable[[str, Tensor], None],
    *,
    device: torch.device,
    dtype: torch.dtype,
    zero3_settings: dict[str, Any] | None = None,
    mesh: Mesh | None = None,
) -> None:
    """Allocates and initialises `module`, which was built on the meta device, one submodule at a time.

    initialise: called with full name and float32 tensor of each parameter, which it fills; the parameter is then cast
    to `dtype`. With `zero3_settings` each submodule is sharded over `mesh.zero` (None: all ranks) as soon as it is
    filled, so that no rank ever holds the whole model.
    """
    if device.type == "cpu":
        use_cpu_on_a_gpu_host()
    for prefix, submodule in module.named_modules():
        own = list(submodule.named_parameters(recurse=False))
        if not own:
            continue
        submodule.to_empty(device=device, recurse=False)
        with torch.no_grad():
            for name, parameter in submodule.named_parameters(recurse=False):
                initialise(f"{prefix}.{name}" if prefix else name, parameter.data)
                parameter.data = parameter.data.to(dtype)
        if zero3_settings is not None:
            group = None if mesh is None else mesh.zero.group
            deepspeed.zero.Init(
                module=submodule, config_dict_or_path=zero3_settings, data_parallel_group=group
            )
