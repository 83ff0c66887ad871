"""Sums of squares of every parameter's gradient, of its change by one step, and of its weight after it.

Each rank sums over the part of a parameter that it updates, and a part that several ranks hold counts on one of them:
the sum over all ranks is that of the whole parameter, under every layout.

    gradient   reduced, before clipping; NaN where the step is skipped because of the loss
    change     of the float32 weights, by the optimizer's formula from its states after the step (`change` of its row in
               `OPTIMIZERS`): exact but for the rounding of the new weights. So the weights before it need not be kept.
               Zero in a step that is skipped, and of a frozen parameter; NaN if the optimizer has no formula
    weight     float32, also of a frozen parameter

Tensors are taken 2^22 elements at a time: a measured step needs at most 128 MiB more memory than another one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from parallel.config import OptimizerConfig
from parallel.engine.frozen import FrozenWeights
from parallel.engine.groups import GroupSettings
from parallel.engine.optimizers import OPTIMIZERS, AfterStep, has_decay
from parallel.engine.zero_adapters import Adapter, Place
from parallel.mesh import Mesh
from parallel.parameters import NamedParameters

_ELEMENTS = 1 << 22


class StepSquares:
    """The sums of one rank; `begin` before a step that is to be measured. zero, frozen: hold its parameters."""

    def __init__(
        self, zero: Adapter, frozen: FrozenWeights, parameters: NamedParameters, mesh: Mesh
    ) -> None:
        self._zero, self._frozen, self._parameters, self._mesh = zero, frozen, parameters, mesh
        self._wanted = False
        self._gradient: dict[str, Tensor] = {}
        self._change: dict[str, Tensor] = {}
        self._weight: dict[str, Tensor] = {}

    def begin(self) -> None:
        """Measures the next step."""
        self._wanted = True

    def before_step(self) -> None:
        """Sums the gradients, if the step is measured."""
        if self._wanted:
            pairs = zip(self._zero.masters(), self._zero.reduced_of_masters(), strict=True)
            reduced = {id(master): parts for master, parts in pairs}
            self._gradient = {
                name: self._square(_within(reduced[id(place.master)], place))
                for name, place in self._zero.places.items()
            }

    def after_step(
        self,
        config: OptimizerConfig,
        learning_rate: float,
        settings: Mapping[str, GroupSettings],
        *,
        applied: bool,
    ) -> None:
        """Sums changes and weights, if the step was measured. settings: of every group at this step."""
        if not self._wanted:
            return
        self._wanted, zero = False, self._zero
        row, names = OPTIMIZERS[config.name], self._parameters.trained
        self._weight = {name: self._square([zero.held(name, None)]) for name in names}
        self._weight |= {n: self._square([self._frozen.held(n)]) for n in self._parameters.frozen}
        self._change = {}
        for name in names if applied else ():
            one = settings[self._parameters.training.group(name)]
            after = AfterStep(
                config,
                zero.held(name, None),
                {state: zero.held(name, state) for state in row.states},
                float(zero.inner.state[zero.places[name].master]["step"]),
                learning_rate * one.learning_rate_factor,
                config.weight_decay * one.weight_decay_factor if has_decay(name) else 0.0,
            )
            self._change[name] = self._square(_changes(after, row.change))

    def by_name(self) -> dict[str, Tensor]:
        """Returns gradient, change and weight of every parameter that this rank counts: float64 (3,)."""
        zero = self._square(())
        return {
            name: torch.stack(
                [of.get(name, zero) for of in (self._gradient, self._change, self._weight)]
            )
            for name in self._parameters.named
            if self._counts(name)
        }

    @torch.no_grad()
    def _square(self, parts: Iterable[Tensor]) -> Tensor:
        """Returns the sum of squares of all elements, float64 ()."""
        total = torch.zeros((), dtype=torch.float64, device=self._mesh.device)
        for part in parts:
            flat = part.reshape(-1)
            for start in range(0, len(flat), _ELEMENTS):
                wide = flat[start : start + _ELEMENTS].double()
                total += torch.dot(wide, wide)
        return total

    def _counts(self, name: str) -> bool:
        """Whether this rank counts its part of a parameter."""
        # Without ZeRO every rank updates the whole of a parameter that trains.
        whole = not self._zero.is_sharded and name in self._parameters.trained
        return self._parameters.cut(name).is_owner and (not whole or self._mesh.zero.rank == 0)


def _changes(after: AfterStep, change: Callable[[AfterStep], Tensor] | None) -> Iterable[Tensor]:
    """Yields the change of a part of a parameter, a few elements at a time."""
    for start in range(0, len(after.weight), _ELEMENTS):
        piece = after.narrow(start, _ELEMENTS)
        yield torch.full_like(piece.weight[:1], torch.nan) if change is None else change(piece)


def _within(parts: Sequence[Tensor | None], place: Place) -> Iterator[Tensor]:
    """Yields the elements of `parts`, end to end, that are at a place in its master."""
    start = 0
    for part in parts:
        if part is None:
            continue
        first = max(start, place.start)
        last = min(start + part.numel(), place.start + place.length)
        if first < last:
            yield part.reshape(-1)[first - start : last - start]
        start += part.numel()
