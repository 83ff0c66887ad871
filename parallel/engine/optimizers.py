"""The table of optimizers, `OPTIMIZERS`. The engine, checkpoints, costs and the configuration read it.

There are two kinds. An elementwise optimizer is a class of torch.optim: each element is updated from its own
gradient and states, so it does not matter where ZeRO cuts a matrix. A matrix optimizer is an update rule of
ours, which can also use sums over whole matrices, however ZeRO and tensor parallelism cut them.

Both keep their states in float32, each of the parameter's shape, and count the steps they have applied.

To add a matrix optimizer, write a file with its `update` and add a row. The configuration reads this table
without torch, so such a file imports torch for its annotations only, and uses methods of tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.parameters import role_of
from parallel.config import OptimizerConfig

if TYPE_CHECKING:
    from torch import Tensor

_FLOAT32 = 4


def has_decay(name: str) -> bool:
    """Returns whether the parameter `name` has weight decay: matrices do; norms, embeddings, biases, sinks do not."""
    return role_of(name).decays


@dataclass(frozen=True)
class Group:
    """A parameter group of the inner torch optimizer: names, and their weight decay."""

    names: tuple[str, ...]
    weight_decay: float


@dataclass(frozen=True)
class Optimizer:
    """The common fields of all optimizers. states: names of the tensors it keeps for each parameter."""

    states: tuple[str, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of tensors that a checkpoint holds for each parameter."""
        return ("weight", *self.states)

    @property
    def bytes_of_states(self) -> int:
        """Bytes of the states of one element."""
        return _FLOAT32 * len(self.states)

    @property
    def bytes_of_kinds(self) -> int:
        """Bytes of the master weight and the states of one element; also in a checkpoint."""
        return _FLOAT32 * len(self.kinds)


@dataclass(frozen=True)
class ElementwiseOptimizer(Optimizer):
    """A class of torch.optim, and its arguments other than learning rate, weight decay and `fused`."""

    torch_class: str
    arguments: Callable[[OptimizerConfig], dict[str, Any]]

    def groups(self, names: Iterable[str], config: OptimizerConfig) -> list[Group]:
        """Returns a group with weight decay and one without; either may be empty."""
        names = list(names)
        return [
            Group(tuple(name for name in names if has_decay(name)), config.weight_decay),
            Group(tuple(name for name in names if not has_decay(name)), 0.0),
        ]


@dataclass(frozen=True)
class MatrixOptimizer(Optimizer):
    """An update rule that may use sums over whole matrices. update: changes weights and states in place."""

    update: Callable[[MatrixStep], None]

    def groups(self, names: Iterable[str], config: OptimizerConfig) -> list[Group]:  # noqa: ARG002
        """Returns one group, so that one collective sums for all matrices; each fragment has its own weight decay."""
        return [Group(tuple(names), 0.0)]


@dataclass(frozen=True)
class Fragment:
    """The part of one parameter that this rank updates, flat (n,); n may be 0.

    name: of the parameter in the Transformer. weight: float32 master. gradient: float32, reduced and clipped.
    states: by name, float32. weight_decay: decoupled; 0 for a parameter without decay.
    """

    name: str
    weight: Tensor
    gradient: Tensor
    states: Mapping[str, Tensor]
    weight_decay: float


@dataclass(frozen=True)
class MatrixStep:
    """The arguments of an update rule.

    fragments: in the same order on every rank of a pipeline stage, also empty ones. sums: takes one tensor for each
    fragment (for example the sum of squares of a norm), of the same shape on all ranks; returns each tensor's sum over
    all ranks that hold a part of the same parameter. Replicas are counted once. Collective: one tensor is sent for
    all fragments together.
    """

    config: OptimizerConfig
    learning_rate: float
    fragments: Sequence[Fragment]
    sums: Callable[[Sequence[Tensor]], list[Tensor]]


# By the value of optimizer.name. AdamW: Loshchilov & Hutter 2019, arXiv 1711.05101.
OPTIMIZERS: dict[str, ElementwiseOptimizer | MatrixOptimizer] = {
    "adamw": ElementwiseOptimizer(
        states=("exp_avg", "exp_avg_sq"),
        torch_class="AdamW",
        arguments=lambda config: {"betas": (config.beta1, config.beta2), "eps": config.epsilon},
    ),
}
