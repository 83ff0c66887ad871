"""Access to the private parts of DeepSpeed's optimizers, with one adapter class for each of them.

DeepSpeed wraps a torch optimizer, the inner one. It gives the inner optimizer this rank's float32 master
weights in place of the parameters: flat tensors that are concatenations of parts of many parameters.

    adapter           DeepSpeed's optimizer                 used for
    WithoutZero       none, the inner one itself            stage 0 (float32)
    ZeroOneTwo        DeepSpeedZeroOptimizer                stage 1 in float32, stage 2
    ZeroOneBfloat16   BF16_Optimizer                        stage 1 in bfloat16
    ZeroThree         DeepSpeedZeroOptimizer_Stage3         stage 3

Every private name of these optimizers that we use is in this file, and in `names` or `parameter_names` of its
adapter. `adapter_for` checks them against the installed DeepSpeed, and raises an error with those that are missing.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from parallel.mesh import AxisGroup, gather


@dataclass(frozen=True)
class StepOutcome:
    """Result of a step. gradient_norm: global, before clipping. applied: whether weights were updated."""

    gradient_norm: float
    applied: bool


@dataclass(frozen=True)
class Place:
    """The part of a parameter that this rank updates, and its position in the master weights.

    master: the float32 tensor of the inner optimizer that holds the part. start: its first element there. offset: its
    first element in the flattened parameter. length: number of elements; 0 if this rank has no part of the parameter.
    """

    master: Tensor
    start: int
    offset: int
    length: int

    def in_master(self, flat: Tensor) -> Tensor:
        """Returns the part (length,) of the master, or of a tensor with the same layout; a view."""
        return flat.view(-1).narrow(0, self.start, self.length)

    def in_parameter(self, whole: Tensor) -> Tensor:
        """Returns the part (length,) of a tensor of the parameter's shape; a view if that is contiguous."""
        return whole.reshape(-1).narrow(0, self.offset, self.length)


class Adapter(ABC):
    """The engine's interface to one of DeepSpeed's optimizers.

    parameters: the trained parameters, by name. ranks: the group over which ZeRO shards. inner: the torch optimizer
    that DeepSpeed wraps. is_sharded: whether a rank's masters are parts of the parameters.
    """

    is_sharded: ClassVar[bool] = True
    # Attributes of DeepSpeed's optimizer, and of each parameter, that this adapter uses.
    names: ClassVar[tuple[str, ...]] = ()
    parameter_names: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        engine: Any,
        inner: torch.optim.Optimizer,
        parameters: Mapping[str, nn.Parameter],
        ranks: AxisGroup,
    ) -> None:
        self.inner = inner
        self._engine, self._zero, self._ranks = engine, engine.optimizer, ranks
        self._parameters = parameters
        by_parameter = {id(parameter): place for parameter, place in self._parts()}
        self.places = {name: by_parameter[id(p)] for name, p in parameters.items()}

    @abstractmethod
    def masters(self) -> list[Tensor]:
        """Returns this rank's float32 master weights, as the inner optimizer holds them."""

    @abstractmethod
    def reduced(self) -> Iterable[Tensor | None]:
        """Returns the reduced gradients that this rank holds until the step."""

    @abstractmethod
    def reduced_of_masters(self) -> Iterable[Sequence[Tensor | None]]:
        """Returns for each of `masters` the reduced gradients that, end to end, have its layout, until the step."""

    @abstractmethod
    def refresh(self) -> None:
        """Updates the model's weights from masters that were just stored. Collective."""

    @abstractmethod
    def _parts(self) -> Iterator[tuple[nn.Parameter, Place]]:
        """Yields every parameter with the part of it that this rank updates."""

    @contextmanager
    def only_forwards(self) -> Iterator[None]:
        """Within it forwards without gradients run between two steps; the next step does what it would do without."""
        yield

    def prepare_reduction(self) -> None:  # noqa: B027  (needed by one adapter only)
        """Prepares the reduction after backwards without DeepSpeed's hooks (in a pipeline)."""

    def accumulate(self, parameters: Iterable[nn.Parameter]) -> None:  # noqa: B027  (as above)
        """Adds new gradients to the float32 sums after a backward without DeepSpeed's hooks."""

    def accumulated(self, parameter: nn.Parameter) -> Tensor | None:
        """Returns the tensor in which this parameter's gradients are summed before the reduction; None: no gradient."""
        return parameter.grad

    def full(self, name: str, state: str | None) -> Tensor:
        """Returns the full master weight of a parameter, or one of its states; float32. Collective over `ranks`."""
        parameter, place = self._parameters[name], self.places[name]
        whole = torch.zeros(parameter.shape, dtype=torch.float32, device=place.master.device)
        place.in_parameter(whole).copy_(self.held(name, state))
        dist.all_reduce(whole, group=self._ranks.group)
        return whole

    def held(self, name: str, state: str | None) -> Tensor:
        """Returns this rank's part (length,) of a parameter's master weight, or of one of its states; a view."""
        place = self.places[name]
        tensor = place.master.detach() if state is None else self.inner.state[place.master][state]
        return place.in_master(tensor)

    def store(self, name: str, whole: Tensor, state: str | None) -> None:
        """Stores this rank's part of a full master weight or state. Call `refresh` after the last one."""
        self.held(name, state).copy_(self.places[name].in_parameter(whole))

    def step(self, clipping: float) -> StepOutcome:  # noqa: ARG002  (DeepSpeed's settings have it)
        """Clips the gradients and runs the inner optimizer; changes nothing if one on any rank is not finite."""
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return StepOutcome(float(norm), bool(self._engine.was_step_applied()))


class WithoutZero(Adapter):
    """Stage 0: parameters are their own masters, and every rank has all of them."""

    is_sharded = False

    def masters(self) -> list[Tensor]:
        """See `Adapter`."""
        return list(self._parameters.values())

    def reduced(self) -> Iterable[Tensor | None]:
        """See `Adapter`."""
        return [parameter.grad for parameter in self._parameters.values()]

    def reduced_of_masters(self) -> Iterable[Sequence[Tensor | None]]:
        """See `Adapter`."""
        return [[gradient] for gradient in self.reduced()]

    def refresh(self) -> None:
        """See `Adapter`; there is nothing to do."""

    def _parts(self) -> Iterator[tuple[nn.Parameter, Place]]:
        for parameter in self._parameters.values():
            yield parameter, Place(parameter, 0, 0, parameter.numel())

    def full(self, name: str, state: str | None) -> Tensor:
        """See `Adapter`."""
        return self.held(name, state).view(self._parameters[name].shape)

    def step(self, clipping: float) -> StepOutcome:
        """See `Adapter`. Without ZeRO DeepSpeed neither computes the norm nor checks for NaN; this does both first."""
        gradients = [gradient for gradient in self.reduced() if gradient is not None]
        norm = float(nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm):
            self._engine.zero_grad()
            return StepOutcome(norm, False)
        if 0.0 < clipping < norm:
            for gradient in gradients:
                gradient.mul_(clipping / (norm + 1e-6))
        self._engine.step()
        return StepOutcome(norm, True)


class _FlatGroups(Adapter):
    """Each group is one concatenation of its parameters, cut into equal parts for the ranks, also inside parameters."""

    parameter_names = ("_hp_mapping",)
    _masters: ClassVar[str]
    _groups: ClassVar[str]

    def masters(self) -> list[Tensor]:
        """See `Adapter`."""
        return list(getattr(self._zero, self._masters))

    def refresh(self) -> None:
        """See `Adapter`."""
        self._zero.update_lp_params()

    def _parts(self) -> Iterator[tuple[nn.Parameter, Place]]:
        groups = getattr(self._zero, self._groups)
        for master, members in zip(self.masters(), groups, strict=True):
            for parameter in members:
                part = parameter._hp_mapping
                if part is None:
                    yield parameter, Place(master, 0, 0, 0)
                else:
                    there, here = part.hp_fragment_address, part.lp_fragment_address
                    yield parameter, Place(master, there.start, here.start, there.numel)


class ZeroOneTwo(_FlatGroups):
    """Stages 1 (float32) and 2."""

    names = (
        "single_partition_of_fp32_groups",
        "bit16_groups",
        "averaged_gradients",
        "setup_buckets",
        "update_lp_params",
    )
    _masters, _groups = "single_partition_of_fp32_groups", "bit16_groups"

    def reduced(self) -> Iterable[Tensor | None]:
        """See `Adapter`."""
        return chain.from_iterable(self._zero.averaged_gradients.values())

    def reduced_of_masters(self) -> Iterable[Sequence[Tensor | None]]:
        """See `Adapter`."""
        return [self._zero.averaged_gradients.get(i) or () for i in range(len(self.masters()))]

    def prepare_reduction(self) -> None:
        """See `Adapter`."""
        self._zero.setup_buckets()


class ZeroOneBfloat16(_FlatGroups):
    """Stage 1 with bfloat16 weights: gradients are summed in separate float32 tensors."""

    names = (
        "fp32_groups_flat_partition",
        "bf16_groups",
        "fp32_groups_gradients_flat",
        "fp32_groups_gradient_flat_partition",
        "_update_hp_grad",
        "get_grads_for_norm",
        "update_lp_params",
    )
    _masters, _groups = "fp32_groups_flat_partition", "bf16_groups"

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        zero = torch.zeros(1, device=self.masters()[0].device)
        self._zero.get_grads_for_norm = partial(_or_zero, self._zero.get_grads_for_norm, zero)

    def reduced(self) -> Iterable[Tensor | None]:
        """See `Adapter`."""
        return list(self._zero.fp32_groups_gradients_flat)

    def reduced_of_masters(self) -> Iterable[Sequence[Tensor | None]]:
        """See `Adapter`."""
        return [[part] for part in self._zero.fp32_groups_gradient_flat_partition]

    def accumulate(self, parameters: Iterable[nn.Parameter]) -> None:
        """See `Adapter`."""
        for parameter in parameters:
            index = self._indices.get(id(parameter))
            if index is not None and parameter.grad is not None:
                self._zero._update_hp_grad(parameter, *index, clear_lp_grads=False)
                parameter.grad = None

    def accumulated(self, parameter: nn.Parameter) -> Tensor | None:
        """See `Adapter`."""
        return getattr(parameter, "_hp_grad", parameter.grad)

    def _parts(self) -> Iterator[tuple[nn.Parameter, Place]]:
        self._indices = {
            id(parameter): (group, index)
            for group, members in enumerate(self._zero.bf16_groups)
            for index, parameter in enumerate(members)
        }
        return super()._parts()


def _or_zero(gradients_for: Callable[..., Any], zero: Tensor, for_clipping: bool = False) -> Any:
    """Returns DeepSpeed's gradients for the norm, or `zero` if there is none: it cannot take the norm of nothing.

    A rank counts none if its pipeline stage trains nothing, or if other tensor ranks own all that trains.
    """
    found = gradients_for(for_clipping)
    if not for_clipping and not found[0]:
        found[0].append(zero)
    return found


class ZeroThree(Adapter):
    """Stage 3: each rank has an equal share of every parameter, padded at the end."""

    names = (
        "fp32_partitioned_groups_flat",
        "fp16_groups",
        "averaged_gradients",
        "grad_position",
        "get_param_id",
        "parameter_offload",
        "_reassign_or_swap_out_partitioned_parameters",
    )
    parameter_names = ("ds_shape", "ds_numel")

    def masters(self) -> list[Tensor]:
        """See `Adapter`."""
        return list(self._zero.fp32_partitioned_groups_flat)

    def reduced(self) -> Iterable[Tensor | None]:
        """See `Adapter`."""
        return chain.from_iterable(self._zero.averaged_gradients.values())

    def reduced_of_masters(self) -> Iterable[Sequence[Tensor | None]]:
        """See `Adapter`."""
        return [self._zero.averaged_gradients.get(i) or () for i in range(len(self.masters()))]

    def refresh(self) -> None:
        """See `Adapter`."""
        for index in range(len(self._zero.fp16_groups)):
            self._zero._reassign_or_swap_out_partitioned_parameters(index)

    @contextmanager
    def only_forwards(self) -> Iterator[None]:
        """See `Adapter`. Weights are shared out again, and the recorded order of modules stays that of training.

        DeepSpeed gathers ahead in the order that it recorded in a forward and its backward, and keeps what the backward
        would need; an order recorded here would lack the backward.
        """
        order = self._zero.parameter_offload.get_param_coordinator()
        unknown = order.is_invalid_trace()
        try:
            yield
        finally:
            order.release_and_reset_all(self._engine.module)
            if unknown and not order.is_invalid_trace():
                order._invalidate_trace()

    def _parts(self) -> Iterator[tuple[nn.Parameter, Place]]:
        masters = self.masters()
        for parameter in chain.from_iterable(self._zero.fp16_groups):
            group, start, share = self._zero.grad_position[self._zero.get_param_id(parameter)]
            offset = min(share * self._ranks.rank, parameter.ds_numel)
            length = min(share, parameter.ds_numel - offset)
            yield parameter, Place(masters[group], start, offset, length)

    def full(self, name: str, state: str | None) -> Tensor:
        """See `Adapter`."""
        parameter: Any = self._parameters[name]
        own = self.held(name, state)
        share = -(-parameter.ds_numel // self._ranks.size)
        parts = gather(nn.functional.pad(own, (0, share - len(own))), self._ranks)
        return torch.cat(parts)[: parameter.ds_numel].view(parameter.ds_shape)


# By the name of DeepSpeed's class.
ADAPTERS: Mapping[str, type[Adapter]] = {
    "DeepSpeedZeroOptimizer": ZeroOneTwo,
    "BF16_Optimizer": ZeroOneBfloat16,
    "DeepSpeedZeroOptimizer_Stage3": ZeroThree,
}


def adapter_for(
    engine: Any,
    inner: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    ranks: AxisGroup,
) -> Adapter:
    """Returns the adapter of the optimizer that DeepSpeed wrapped around `inner`.

    Raises:
        RuntimeError: the installed DeepSpeed has another optimizer class, or lacks a name that its adapter uses.
    """
    outer = engine.optimizer
    if outer is inner:
        return WithoutZero(engine, inner, parameters, ranks)
    kind = ADAPTERS.get(type(outer).__name__)
    if kind is None:
        raise RuntimeError(
            f"DeepSpeed's optimizer is {type(outer).__name__}; known are {', '.join(ADAPTERS)}; "
            "install the version of DeepSpeed that pyproject.toml names"
        )
    gone = [name for name in kind.names if not hasattr(outer, name)]
    for one in list(parameters.values())[:1]:  # none on a pipeline rank that trains nothing
        gone += [f"{n} (of a parameter)" for n in kind.parameter_names if not hasattr(one, n)]
    if gone:
        raise RuntimeError(
            f"DeepSpeed's {type(outer).__name__} has no {', '.join(gone)} any more; install the version "
            "of DeepSpeed that pyproject.toml names"
        )
    return kind(engine, inner, parameters, ranks)
