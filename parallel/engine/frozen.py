"""Weights of frozen parameters, as checkpoints have them: whole and in float32, bit by bit.

The model holds them in its own precision, and no optimizer has a master of them. If bfloat16 does not represent a
weight, for example one that was trained before, its float32 value is kept beside it: each rank of the zero group keeps
its share of the parameter in host memory, and only if rounding loses something in that share.

    float32, ZeRO 0 to 2   the parameter itself, whole on every rank
    ZeRO 3                 the rank's share, `ds_tensor`, as DeepSpeed keeps it for all parameters
    bfloat16               either of them in bfloat16, and the share in float32 on the host where they differ
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from parallel.mesh import AxisGroup, gather


class FrozenWeights:
    """The frozen parameters of this rank.

    parameters: by name. ranks: the group over which ZeRO shards. kept: shares in float32 that the model's precision
    does not represent, by name, on the CPU.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], ranks: AxisGroup) -> None:
        self.kept: dict[str, Tensor] = {}
        self._parameters, self._ranks = parameters, ranks

    def full(self, name: str) -> Tensor:
        """Returns the whole weight in float32. Collective over `ranks`."""
        parameter: Any = self._parameters[name]
        partitioned = hasattr(parameter, "ds_tensor")
        if parameter.dtype == torch.float32 and not partitioned:
            whole: Tensor = parameter.detach()
            return whole
        shape, number = _shape(parameter), _shape(parameter).numel()
        own = self.held(name)
        longest = -(-number // self._ranks.size)
        parts = gather(nn.functional.pad(own, (0, longest - len(own))), self._ranks)
        return torch.cat(parts)[:number].view(shape)

    def held(self, name: str) -> Tensor:
        """Returns this rank's share (length,) of a weight, in float32."""
        own = self._share(self._parameters[name]).float()
        return self.kept[name].to(own.device) if name in self.kept else own

    @torch.no_grad()
    def store(self, name: str, whole: Tensor) -> None:
        """Stores a whole float32 weight."""
        parameter: Any = self._parameters[name]
        start, length = self._range(parameter)
        share = whole.reshape(-1).narrow(0, start, length)
        if hasattr(parameter, "ds_tensor"):
            self._share(parameter).copy_(share)
        else:
            parameter.copy_(whole)
        self.kept.pop(name, None)
        if not torch.equal(share, share.to(parameter.dtype).float()):
            self.kept[name] = share.to("cpu", copy=True)

    def _share(self, parameter: Any) -> Tensor:
        """Returns this rank's share (length,) of the flattened parameter, in the model's precision; a view."""
        start, length = self._range(parameter)
        if hasattr(parameter, "ds_tensor"):
            partition: Tensor = parameter.ds_tensor.detach()
            return partition.view(-1).narrow(0, 0, length)
        flat: Tensor = parameter.detach().view(-1)
        return flat.narrow(0, start, length)

    def _range(self, parameter: Any) -> tuple[int, int]:
        """Returns the first element of this rank's share, and the number of elements: as ZeRO-3 cuts parameters."""
        number = _shape(parameter).numel()
        longest = -(-number // self._ranks.size)
        start = min(longest * self._ranks.rank, number)
        return start, min(longest, number - start)


def _shape(parameter: Any) -> torch.Size:
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))
