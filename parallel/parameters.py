"""The parameters of this rank by their logical names, and how each is cut from the whole parameter.

Initial weights and checkpoints must not depend on the layout: they use whole parameters under their names in
the Transformer. `NamedParameters` maps these names to this rank's tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.parameters import parameter_names
from parallel.engine.training import ORDINARILY, Training
from parallel.tensor.cut import Cut, cut_of


@dataclass(frozen=True)
class NamedParameters:
    """The parameters that this rank answers for; a tied head on another rank than its embedding is none.

    named: all of them, by name. config, tensor_rank, tensor_ranks: determine how each is cut. training: how the model's
    parameters train, also those of other ranks.
    """

    named: Mapping[str, nn.Parameter]
    config: ModelConfig
    tensor_rank: int = 0
    tensor_ranks: int = 1
    training: Training = ORDINARILY

    @property
    def everywhere(self) -> list[str]:
        """The names of all parameters of the model, on whatever rank."""
        return parameter_names(self.config, range(self.config.num_layers))

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """Those that train."""
        return {n: p for n, p in self.named.items() if not self.training.is_frozen(n)}

    @property
    def frozen(self) -> dict[str, nn.Parameter]:
        """Those that stay as they are."""
        return {n: p for n, p in self.named.items() if self.training.is_frozen(n)}

    def cut(self, name: str) -> Cut:
        """Returns how the parameter is cut.

        Raises:
            LookupError: the table of parameters has no such row.
        """
        return cut_of(name, self.config, self.tensor_rank, self.tensor_ranks)

    def shape(self, name: str) -> torch.Size:
        """Shape of this tensor rank's part, before ZeRO shards it."""
        parameter = self.named[name]
        return torch.Size(getattr(parameter, "ds_shape", parameter.shape))

    def full_shape(self, name: str) -> torch.Size:
        """Logical shape."""
        return torch.Size(self.cut(name).full_shape(self.shape(name)))

    def joined(self, name: str, parts: list[Tensor]) -> Tensor:
        """Returns the logical tensor from the parts of all tensor ranks, in order of rank."""
        cut = self.cut(name)
        return torch.cat(parts[:: cut.replicas][: cut.parts], dim=cut.dim)
