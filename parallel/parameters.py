"""The parameters of this rank by their logical names: what each is a part of, and who answers for it.

Everything that must not depend on the layout (initial weights, checkpoints) speaks of whole parameters by
their names in the Transformer. Here those names meet this rank's tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from parallel.tensor.cut import Cut, cut_of


@dataclass(frozen=True)
class NamedParameters:
    """named: what this rank trains. config, tensor_rank, tensor_ranks: by which each parameter is cut."""

    named: Mapping[str, nn.Parameter]
    config: ModelConfig
    tensor_rank: int = 0
    tensor_ranks: int = 1

    def cut(self, name: str) -> Cut:
        """How the parameter is cut.

        Raises:
            LookupError: the table of parameters has no such row.
        """
        return cut_of(name, self.config, self.tensor_rank, self.tensor_ranks)

    def shape(self, name: str) -> torch.Size:
        """Shape of this rank's part, however ZeRO shards it."""
        parameter = self.named[name]
        return torch.Size(getattr(parameter, "ds_shape", parameter.shape))

    def full_shape(self, name: str) -> torch.Size:
        """Logical shape."""
        return torch.Size(self.cut(name).full_shape(self.shape(name)))

    def joined(self, name: str, parts: list[Tensor]) -> Tensor:
        """The logical tensor from the parts of all tensor ranks, in order of rank."""
        cut = self.cut(name)
        return torch.cat(parts[:: cut.replicas][: cut.parts], dim=cut.dim)
