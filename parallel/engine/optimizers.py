"""The table of optimizers, `OPTIMIZERS`. The engine, checkpoints, costs and the configuration read it.

There are two kinds. An elementwise optimizer is a class of torch.optim: each element is updated from its own
gradient and states, so it does not matter where ZeRO cuts a matrix. A matrix optimizer is an update rule of
ours, which can also use sums over whole matrices, however ZeRO and tensor parallelism cut them.

Both keep their states in float32, each of the parameter's shape, and count the steps they have applied.

To add a matrix optimizer, write a file with its `update` and add a row. The configuration reads this table
without torch, so such a file imports torch for its annotations only, and uses methods of tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from model.parameters import role_of
from parallel.config import OptimizerConfig
from parallel.engine.groups import NO_GROUP
from parallel.engine.training import Training

if TYPE_CHECKING:
    from torch import Tensor

_FLOAT32 = 4


def has_decay(name: str) -> bool:
    """Returns whether the parameter `name` has weight decay: matrices do; norms, embeddings, biases, sinks do not."""
    return role_of(name).decays


class GroupKey(NamedTuple):
    """What the parameters of one group of the inner torch optimizer have in common.

    group: name of their group in the configuration. decays: whether they have weight decay. steps: taken with them
    before, since such a group has one step count.
    """

    group: str
    decays: bool
    steps: int


@dataclass(frozen=True)
class Optimizer:
    """The common fields of all optimizers. states: names of the tensors it keeps for each parameter.

    change: computes how the last step changed a part of a parameter, from what is known after it; None: it cannot.
    """

    states: tuple[str, ...]
    change: Callable[[AfterStep], Tensor] | None = field(default=None, kw_only=True)

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

    def key(self, name: str, training: Training) -> GroupKey:
        """Returns the torch group of a parameter."""
        return GroupKey(training.group(name), has_decay(name), training.steps.of(name))


@dataclass(frozen=True)
class MatrixOptimizer(Optimizer):
    """An update rule that may use sums over whole matrices. update: changes weights and states in place."""

    update: Callable[[MatrixStep], None]

    def key(self, name: str, training: Training) -> GroupKey:
        """Returns one torch group for all, so that one collective sums for all matrices.

        Each fragment has its own learning rate and weight decay.
        """
        return GroupKey(NO_GROUP, False, training.steps.of(name))


@dataclass(frozen=True)
class AfterStep:
    """A part of one parameter after a step, flat (n,), and the settings of the step.

    weight: float32 master. states: by name, float32. steps: that the optimizer has taken with it. learning_rate,
    weight_decay: as in `Fragment`.
    """

    config: OptimizerConfig
    weight: Tensor
    states: Mapping[str, Tensor]
    steps: float
    learning_rate: float
    weight_decay: float

    def narrow(self, start: int, length: int) -> AfterStep:
        """Returns at most `length` elements from `start` on; views."""
        part = slice(start, start + length)
        states = {name: state[part] for name, state in self.states.items()}
        return replace(self, weight=self.weight[part], states=states)


@dataclass(frozen=True)
class Fragment:
    """The part of one parameter that this rank updates, flat (n,); n may be 0.

    name: of the parameter in the Transformer. weight: float32 master. gradient: float32, reduced and clipped.
    states: by name, float32. learning_rate: of the step, with the factor of its group. weight_decay: decoupled; 0 for a
    parameter without decay.
    """

    name: str
    weight: Tensor
    gradient: Tensor
    states: Mapping[str, Tensor]
    learning_rate: float
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
    fragments: Sequence[Fragment]
    sums: Callable[[Sequence[Tensor]], list[Tensor]]


def _adamw_change(after: AfterStep) -> Tensor:
    """Returns w - w' with w = (1 - a) w' - u: a is rate times decay, u the rate times m / (sqrt(v) + epsilon)."""
    config, decayed = after.config, after.learning_rate * after.weight_decay
    first = after.states["exp_avg"] / (1.0 - config.beta1**after.steps)
    second = after.states["exp_avg_sq"] / (1.0 - config.beta2**after.steps)
    moved = first.div_(second.sqrt_().add_(config.epsilon)).mul_(after.learning_rate)
    change: Tensor = moved.add_(after.weight, alpha=decayed).div_(decayed - 1.0)
    return change


# By the value of optimizer.name. AdamW: Loshchilov & Hutter 2019, arXiv 1711.05101.
OPTIMIZERS: dict[str, ElementwiseOptimizer | MatrixOptimizer] = {
    "adamw": ElementwiseOptimizer(
        states=("exp_avg", "exp_avg_sq"),
        torch_class="AdamW",
        arguments=lambda config: {"betas": (config.beta1, config.beta2), "eps": config.epsilon},
        change=_adamw_change,
    ),
}
