"""What an optimizer is: one row of `OPTIMIZERS`. The engine, checkpoints, costs and the configuration read it.

There are two kinds. An elementwise optimizer is a class of torch.optim: each number is updated from its own
gradient and states, so it does not matter where ZeRO cuts a matrix. A matrix optimizer is an update rule of
ours, which also sees sums over whole matrices, however ZeRO and tensor parallelism cut them.

Both keep their states in float32, each of the parameter's shape, and count the steps they have applied.

To add a matrix optimizer, write a file with its `update` and give it a row. The configuration reads this table
without torch, so such a file imports torch for its annotations only; tensors have the methods it needs.
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
    """Whether the parameter called `name` is decayed: matrices are; norms, embeddings, biases, sinks are not."""
    return role_of(name).decays


@dataclass(frozen=True)
class Group:
    """Parameters that the inner torch optimizer treats alike."""

    names: tuple[str, ...]
    weight_decay: float


@dataclass(frozen=True)
class Optimizer:
    """What is known of every optimizer. states: names of what it keeps for each parameter beside its weight."""

    states: tuple[str, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of tensors that a checkpoint holds of each parameter."""
        return ("weight", *self.states)

    @property
    def bytes_of_states(self) -> int:
        """Bytes of the states of one number."""
        return _FLOAT32 * len(self.states)

    @property
    def bytes_of_kinds(self) -> int:
        """Bytes of the master weight and the states of one number; also in a checkpoint."""
        return _FLOAT32 * len(self.kinds)


@dataclass(frozen=True)
class ElementwiseOptimizer(Optimizer):
    """A class of torch.optim, with the arguments it takes beside learning rate, weight decay and `fused`."""

    torch_class: str
    arguments: Callable[[OptimizerConfig], dict[str, Any]]

    def groups(self, names: Iterable[str], config: OptimizerConfig) -> list[Group]:
        """Decayed parameters and the others; each list may be empty."""
        names = list(names)
        return [
            Group(tuple(name for name in names if has_decay(name)), config.weight_decay),
            Group(tuple(name for name in names if not has_decay(name)), 0.0),
        ]


@dataclass(frozen=True)
class MatrixOptimizer(Optimizer):
    """An update rule that may look at whole matrices. `update` changes weights and states in place."""

    update: Callable[[MatrixStep], None]

    def groups(self, names: Iterable[str], config: OptimizerConfig) -> list[Group]:  # noqa: ARG002
        """One group, so that the sums of all matrices travel together; decay is each fragment's own."""
        return [Group(tuple(names), 0.0)]


@dataclass(frozen=True)
class Fragment:
    """The part of one parameter that this rank updates, (n,) numbers; n may be 0.

    name: of the parameter in the Transformer. weight: float32 master. gradient: float32, reduced and clipped.
    states: by name, float32. weight_decay: decoupled; 0 for what is not decayed.
    """

    name: str
    weight: Tensor
    gradient: Tensor
    states: Mapping[str, Tensor]
    weight_decay: float


@dataclass(frozen=True)
class MatrixStep:
    """What an update rule gets.

    fragments: in the same order on every rank of a pipeline stage, also those without numbers. sums: takes one
    tensor for each fragment (a norm's sum of squares, say), of the same shape on all ranks; returns for each its
    sum over all ranks that hold a part of the same parameter. Replicas are counted once. Collective: one tensor
    travels for all fragments together.
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
