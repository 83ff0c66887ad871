"""The torch optimizer that DeepSpeed wraps: a class of torch.optim, or `MatrixUpdates` for a matrix optimizer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from parallel.config import OptimizerConfig
from parallel.engine.optimizers import (
    OPTIMIZERS,
    Fragment,
    MatrixOptimizer,
    MatrixStep,
    has_decay,
)
from parallel.engine.zero_adapters import Adapter, Place
from parallel.mesh import AxisGroup, Mesh
from parallel.parameters import NamedParameters


def inner_optimizer(
    config: OptimizerConfig, parameters: NamedParameters, mesh: Mesh, objective: nn.Module
) -> torch.optim.Optimizer:
    """Returns the optimizer `config.name` over groups of parameters; every step sets its learning rate."""
    row, named = OPTIMIZERS[config.name], parameters.named
    groups: list[dict[str, Any]] = [
        {"params": [named[name] for name in group.names], "weight_decay": group.weight_decay}
        for group in row.groups(named, config)
    ]
    groups = _without_empty(groups, parameters, mesh, objective)
    if isinstance(row, MatrixOptimizer):
        return MatrixUpdates(groups, row, config)
    kind = getattr(torch.optim, row.torch_class)
    fused = mesh.device.type == "cuda"
    inner: torch.optim.Optimizer = kind(groups, lr=0.0, fused=fused, **row.arguments(config))
    return inner


def _without_empty(
    groups: list[dict[str, Any]], parameters: NamedParameters, mesh: Mesh, objective: nn.Module
) -> list[dict[str, Any]]:
    """Returns groups that are not empty, the same number on every pipeline rank.

    DeepSpeed reduces the norm over pipeline ranks once for each group. So with a pipeline an empty group (a stage
    that is only a tied head trains one norm weight) gets a placeholder of one element that never has a gradient.
    """
    if mesh.pipeline.size == 1:
        return [group for group in groups if group["params"]]
    dtype = next(iter(parameters.named.values())).dtype
    for group in groups:
        if not group["params"]:
            placeholder = nn.Parameter(torch.zeros(1, dtype=dtype, device=mesh.device))
            objective.register_parameter("placeholder", placeholder)  # DeepSpeed looks it up there
            group["params"] = [placeholder]
    return groups


def create_states(
    inner: torch.optim.Optimizer, masters: Iterable[Tensor], states: Iterable[str]
) -> None:
    """Creates every state as zeros; torch's optimizers would create theirs at the first step.

    A checkpoint may be saved or restored before that step. The step count is on the device where torch's AdamW has it.
    """
    on_device = bool(inner.defaults.get("fused"))
    states = list(states)
    for master in masters:
        state = inner.state[master]
        device = master.device if on_device else torch.device("cpu")
        state["step"] = torch.zeros((), dtype=torch.float32, device=device)
        for key in states:
            state[key] = torch.zeros_like(master, memory_format=torch.preserve_format)


class MatrixUpdates(torch.optim.Optimizer):
    """A torch optimizer that applies the rule of a `MatrixOptimizer`. Call `attach` before the first step."""

    def __init__(
        self, groups: list[dict[str, Any]], row: MatrixOptimizer, config: OptimizerConfig
    ) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})
        self._row, self._config = row, config
        self._places: Mapping[str, Place] = {}

    def attach(self, adapter: Adapter, parameters: NamedParameters, mesh: Mesh) -> None:
        """Stores the place of each parameter in DeepSpeed's flat tensors, and the axes to sum over."""
        self._places, self._parameters = adapter.places, parameters
        axes = (mesh.zero, mesh.tensor) if adapter.is_sharded else (mesh.tensor,)
        self._axes = [axis for axis in axes if axis.size > 1]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Updates every parameter whose master is in `param_groups`; ZeRO-3 calls it group by group. Collective."""
        assert closure is None
        masters = [master for group in self.param_groups for master in group["params"]]
        for master in masters:
            self.state[master]["step"] += 1
        present = {id(master) for master in masters}
        fragments = [
            self._fragment(name, place)
            for name, place in self._places.items()
            if id(place.master) in present
        ]
        owners = [self._parameters.cut(fragment.name).is_owner for fragment in fragments]
        self._row.update(
            MatrixStep(
                config=self._config,
                learning_rate=self.param_groups[0]["lr"],
                fragments=fragments,
                sums=lambda parts: sum_over(self._axes, parts, owners),
            )
        )

    def _fragment(self, name: str, place: Place) -> Fragment:
        state = self.state[place.master]
        assert place.master.grad is not None
        return Fragment(
            name=name,
            weight=place.in_master(place.master.detach()),
            gradient=place.in_master(place.master.grad),
            states={key: place.in_master(state[key]) for key in self._row.states},
            weight_decay=self._config.weight_decay if has_decay(name) else 0.0,
        )


def sum_over(
    axes: Iterable[AxisGroup], parts: Sequence[Tensor], owners: Sequence[bool]
) -> list[Tensor]:
    """Returns the sum of each part over the owners among the ranks of all `axes`. Collective: one tensor is sent."""
    counted = [
        part.reshape(-1) if is_owner else torch.zeros_like(part).reshape(-1)
        for part, is_owner in zip(parts, owners, strict=True)
    ]
    together = torch.cat(counted)
    for axis in axes:
        dist.all_reduce(together, group=axis.group)
    sizes = [part.numel() for part in parts]
    return [
        total.view(part.shape)
        for total, part in zip(torch.split(together, sizes), parts, strict=True)
    ]
