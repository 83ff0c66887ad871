"""The torch optimizer that DeepSpeed wraps: a class of torch.optim, or `MatrixUpdates` for a matrix optimizer."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from parallel.config import OptimizerConfig
from parallel.engine.groups import GroupSettings
from parallel.engine.optimizers import (
    OPTIMIZERS,
    Fragment,
    GroupKey,
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
    """Returns the optimizer `config.name` over groups of the trained parameters.

    Call `set_rates` before every step. The groups and their order are the same on every rank of a pipeline.
    """
    row, training = OPTIMIZERS[config.name], parameters.training
    by_key: dict[GroupKey, list[nn.Parameter]] = {
        row.key(name, training): []
        for name in parameters.everywhere
        if not training.is_frozen(name)
    }
    for name, parameter in parameters.trained.items():
        by_key[row.key(name, training)].append(parameter)
    order = list(training.settings)
    groups: list[dict[str, Any]] = [
        {"params": by_key[key], "weight_decay": 0.0, "group": key.group, "decays": key.decays}
        for key in sorted(by_key, key=lambda k: (order.index(k.group), not k.decays, k.steps))
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
    for number, group in enumerate(groups):
        if not group["params"]:
            placeholder = nn.Parameter(torch.zeros(1, dtype=dtype, device=mesh.device))
            # DeepSpeed looks it up there.
            objective.register_parameter(f"placeholder_{number}", placeholder)
            group["params"] = [placeholder]
    return groups


def set_rates(
    inner: torch.optim.Optimizer,
    config: OptimizerConfig,
    learning_rate: float,
    settings: Mapping[str, GroupSettings],
) -> None:
    """Sets learning rate and weight decay of the next step. settings: of every group of the configuration."""
    if isinstance(inner, MatrixUpdates):
        inner.settings = settings
    for group in inner.param_groups:
        one = settings[group["group"]]
        group["lr"] = learning_rate * one.learning_rate_factor
        decays = group["decays"]
        group["weight_decay"] = config.weight_decay * one.weight_decay_factor if decays else 0.0


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
        # Of every group of the configuration, at this step: see `set_rates`.
        self.settings: Mapping[str, GroupSettings] = {}

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
                fragments=fragments,
                sums=lambda parts: sum_over(self._axes, parts, owners),
            )
        )

    def _fragment(self, name: str, place: Place) -> Fragment:
        state = self.state[place.master]
        assert place.master.grad is not None
        one = self.settings[self._parameters.training.group(name)]
        decay = self._config.weight_decay * one.weight_decay_factor
        return Fragment(
            name=name,
            weight=place.in_master(place.master.detach()),
            gradient=place.in_master(place.master.grad),
            states={key: place.in_master(state[key]) for key in self._row.states},
            learning_rate=self.param_groups[0]["lr"] * one.learning_rate_factor,
            weight_decay=decay if has_decay(name) else 0.0,
        )


def sum_over(
    axes: Iterable[AxisGroup], parts: Sequence[Tensor], owners: Sequence[bool]
) -> list[Tensor]:
    """Returns the sum of each part over the owners among the ranks of all `axes`. Collective: one tensor is sent."""
    if not parts:  # a pipeline stage that trains nothing
        return []
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
