"""The training engine: a module under DeepSpeed, its sharded optimizer, and the steps between them.

DeepSpeed does ZeRO's sharding and reduces gradients. Everything that changes over time (learning rate, number of
micro-batches, loss scale by valid tokens) is an argument of every step, so the engine keeps no schedule of its own.
Gradients are accumulated and reduced in float32 in every precision.
"""

import contextlib
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from parallel.config import OptimizerConfig
from parallel.engine.deepspeed_import import deepspeed
from parallel.engine.frozen import FrozenWeights
from parallel.engine.groups import GroupSettings
from parallel.engine.inner import MatrixUpdates, create_states, inner_optimizer, set_rates
from parallel.engine.optimizers import OPTIMIZERS
from parallel.engine.settings import ModelParallelUnit
from parallel.engine.step_squares import StepSquares
from parallel.engine.training import StepCounts
from parallel.engine.zero_adapters import StepOutcome, adapter_for
from parallel.mesh import Mesh, gather
from parallel.parameters import NamedParameters
from parallel.pipeline.tied import TiedWeight


class TrainingEngine:
    """Parameters, their sharded optimizer and the steps between them.

    parameters: those of this rank; DeepSpeed's optimizer gets the ones that train. objective: the module that holds and
    uses them; its forward returns the loss that `forward_backward` differentiates. settings: DeepSpeed's JSON. tied:
    with a pipeline, the transfers between a tied head and its embedding.

    Raises:
        RuntimeError: the installed DeepSpeed lacks private names that this code uses.
    """

    def __init__(
        self,
        parameters: NamedParameters,
        objective: nn.Module,
        mesh: Mesh,
        optimizer: OptimizerConfig,
        settings: dict[str, Any],
        tied: TiedWeight | None = None,
    ) -> None:
        self.parameters = parameters
        self.mesh = mesh
        self.kinds = OPTIMIZERS[optimizer.name].kinds
        self._optimizer = optimizer
        self._tied = tied
        self._trained = parameters.trained
        self._frozen = FrozenWeights(parameters.frozen, mesh.zero)
        self._steps, self._applied = parameters.training.steps, 0
        self._inner = inner_optimizer(optimizer, parameters, mesh, objective)
        with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed prints memory tables
            self._engine = deepspeed.initialize(
                model=objective,
                optimizer=self._inner,
                config=settings,
                dist_init_required=False,
                mpu=ModelParallelUnit(mesh),
            )[0]
        self._zero = adapter_for(self._engine, self._inner, self._trained, mesh.zero)
        self.squares = StepSquares(self._zero, self._frozen, parameters, mesh)
        create_states(self._inner, self._zero.masters(), OPTIMIZERS[optimizer.name].states)
        if isinstance(self._inner, MatrixUpdates):
            self._inner.attach(self._zero, parameters, mesh)

    def forward_backward(self, run: Callable[[nn.Module], Tensor], *, last: bool) -> None:
        """Runs forward and backward of one micro-batch. last: it is the last micro-batch of the step.

        run: called with the module; returns the scalar to differentiate. ZeRO averages gradients over the zero
        group: multiply the scalar by the group's size for a sum.
        """
        self._engine.set_gradient_accumulation_boundary(last)
        loss = run(self._engine)
        self._engine.backward(loss, scale_wrt_gas=False)

    def run_pipeline(self, work: Callable[[], None]) -> None:
        """Runs forwards and backwards of all micro-batches in `work`, then reduces gradients over the zero group.

        work: runs the stages without the engine, and calls `after_backward` after every backward of weights.
        """
        self._engine.set_gradient_accumulation_boundary(False)
        work()
        if self._tied is not None:
            embedding = self._trained.get("embedding.weight")
            self._tied.add_gradient(
                None if embedding is None else self._zero.accumulated(embedding)
            )
        self._engine.set_gradient_accumulation_boundary(True)
        self._zero.prepare_reduction()
        self._engine.allreduce_gradients()

    def after_backward(self, stage: nn.Module) -> None:
        """Adds a stage's new gradients to the float32 sums."""
        if self._tied is not None:
            self._tied.collect()
        self._zero.accumulate(stage.parameters())

    def forward_only(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module's forward; call under `no_grad`. Collective with ZeRO-3."""
        return self._engine.module(*args, **kwargs)

    def only_forwards(self) -> AbstractContextManager[None]:
        """Within it `forward_only`, or a pipeline's forwards, may run; training goes on afterwards as if none had."""
        return self._zero.only_forwards()

    def spoil_gradients(self) -> None:
        """Sets the reduced gradients to NaN, so that the next `step` changes nothing on any rank."""
        for gradient in self._zero.reduced():
            if gradient is not None:
                gradient.fill_(math.nan)

    def step(
        self,
        learning_rate: float,
        groups: Mapping[str, GroupSettings] = MappingProxyType({}),
    ) -> StepOutcome:
        """Runs one optimizer step; changes nothing if a gradient on any rank is not finite. Collective.

        groups: how groups train at this step, where it differs from what the engine was built with. The same groups
        are frozen.
        """
        settings = {**self.parameters.training.settings, **groups}
        set_rates(self._inner, self._optimizer, learning_rate, settings)
        self.squares.before_step()
        outcome = self._zero.step(self._optimizer.gradient_clipping)
        self.squares.after_step(self._optimizer, learning_rate, settings, applied=outcome.applied)
        self._applied += outcome.applied
        if self._tied is not None and self._tied.trains:
            self._tied.follow()
        return outcome

    def close(self) -> None:
        """Releases buffers and hooks, so that another engine can be built in this process."""
        self._engine.destroy()

    # For checkpoints: full logical float32 tensors by parameter name.

    def full_tensors(self, name: str) -> dict[str, Tensor]:
        """Returns a parameter's full float32 tensors by kind: "weight" and the optimizer's states, if it trains.

        Collective over the ranks of this pipeline coordinate: call on all of them, in the same order.
        """
        if name in self._trained:
            tensors = {kind: self._zero.full(name, _state_of(kind)) for kind in self.kinds}
        else:
            tensors = {"weight": self._frozen.full(name)}
        if self.parameters.cut(name).parts == 1:
            return tensors
        return {
            kind: self.parameters.joined(name, gather(part, self.mesh.tensor))
            for kind, part in tensors.items()
        }

    def optimizer_steps(self) -> StepCounts:
        """Returns the steps that the optimizer has applied to every parameter of the model, without skipped steps."""
        names, training = self.parameters.everywhere, self.parameters.training
        return training.steps_after(names, self._steps, self._applied)

    def kinds_of(self, name: str, steps: StepCounts) -> Sequence[str]:
        """Returns the kinds of tensors that `restore` needs of a parameter."""
        has_states = name in self._trained and steps.of(name) > 0
        return self.kinds if has_states else self.kinds[:1]

    def restore(self, tensors: Iterator[tuple[str, dict[str, Tensor]]], steps: StepCounts) -> None:
        """Loads full float32 tensors by parameter name and kind, and the optimizer's step counts. Collective.

        tensors: must have every parameter; each rank keeps its part. States of parameters with 0 steps stay as they
        are in a new engine, zero. Parameters of one torch group must have the same count.
        """
        counts: dict[Tensor, int] = {}
        for name, full in tensors:
            cut = self.parameters.cut(name)
            for kind in self.kinds_of(name, steps):
                part = full[kind][cut.part(full[kind].shape)]
                if name in self._trained:
                    self._zero.store(name, part, _state_of(kind))
                else:
                    self._frozen.store(name, part)
            if name in self._trained:
                master = self._zero.places[name].master
                assert counts.get(master, steps.of(name)) == steps.of(name)
                counts[master] = steps.of(name)
        self._zero.refresh()
        if self._tied is not None:
            self._tied.follow()
        for master, state in self._inner.state.items():
            count = counts.get(master, steps.most)
            state["step"] = torch.full_like(state["step"], float(count))
        self._steps, self._applied = steps, 0


def _state_of(kind: str) -> str | None:
    return None if kind == "weight" else kind
