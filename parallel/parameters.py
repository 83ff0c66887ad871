"""The parameters of this rank by their logical names: what each is a part of, and who answers for it.

Everything that must not depend on the layout (initial weights, checkpoints) speaks of whole parameters by
their names in the Transformer. Here those names meet this rank's tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from parallel.tensor.cut import Cut

_WHOLE = Cut(dim=0, parts=1, index=0, replicas=1, is_owner=True)


@dataclass(frozen=True)
class NamedParameters:
    """named: what this rank trains. cuts: how tensor parallelism cut it; a name left out is whole."""

    named: Mapping[str, nn.Parameter]
    cuts: Mapping[str, Cut] = field(default_factory=dict)

    @classmethod
    def of(cls, module: nn.Module) -> "NamedParameters":
        """All parameters of a module, whole."""
        return cls(dict(module.named_parameters()))

    def cut(self, name: str) -> Cut:
        """How the parameter is cut."""
        return self.cuts.get(name, _WHOLE)

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
