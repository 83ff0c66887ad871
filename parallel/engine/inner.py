"""The torch optimizer that DeepSpeed wraps: one of torch's own, or one that applies a rule for whole matrices."""

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
    """The optimizer of this name over groups of parameters; its learning rate comes with every step."""
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
    """Groups with something in each; the same number of them on every pipeline rank.

    DeepSpeed reduces the norm over pipeline ranks once a group. A stage with nothing for a group (the head
    alone, tied: its one weight is a norm's) gets a number there that no gradient ever reaches.
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
    """Make every state now, with zeros; torch's optimizers make theirs at their first step.

    A checkpoint may be saved or restored before that. The step count stands where torch's AdamW has it.
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
    """Applies the rule of a `MatrixOptimizer`. Call `attach` before the first step."""

    def __init__(
        self, groups: list[dict[str, Any]], row: MatrixOptimizer, config: OptimizerConfig
    ) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})
        self._row, self._config = row, config
        self._places: Mapping[str, Place] = {}

    def attach(self, adapter: Adapter, parameters: NamedParameters, mesh: Mesh) -> None:
        """Learn where DeepSpeed keeps which part of each parameter."""
        self._places, self._parameters = adapter.places, parameters
        axes = (mesh.zero, mesh.tensor) if adapter.is_sharded else (mesh.tensor,)
        self._axes = [axis for axis in axes if axis.size > 1]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter whose master is in the groups now: ZeRO-3 steps group by group. Collective."""
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
    """The sum of each part over the ranks of all `axes`, where owners have them. Collective: one tensor travels."""
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
