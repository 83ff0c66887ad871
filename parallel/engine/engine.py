"""The training engine: a module under DeepSpeed, its sharded optimizer, and the steps between them.

DeepSpeed shards what ZeRO shards and reduces gradients; everything that changes over time (learning
rate, number of micro-batches, loss scale by valid tokens) is handed in at every step, so the engine
keeps no schedule of its own. Gradients are accumulated and reduced in float32 in every precision.
"""

import contextlib
import io
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from parallel.config import OptimizerConfig
from parallel.engine.deepspeed_import import deepspeed
from parallel.engine.inner import MatrixUpdates, create_states, inner_optimizer
from parallel.engine.optimizers import OPTIMIZERS
from parallel.engine.settings import ModelParallelUnit
from parallel.engine.zero_adapters import StepOutcome, adapter_for
from parallel.mesh import Mesh, gather
from parallel.parameters import NamedParameters
from parallel.pipeline.tied import TiedWeight


class TrainingEngine:
    """Parameters, their sharded optimizer and the steps between them.

    parameters: what is trained, by name. objective: what is called, holding them; its forward returns
    what `forward_backward` differentiates. settings: DeepSpeed's. tied: with a pipeline, what keeps a tied head
    with its embedding.

    Raises:
        RuntimeError: the DeepSpeed that is installed is not the one this is written for.
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
        self._clipping = optimizer.gradient_clipping
        self._tied = tied
        self._inner = inner_optimizer(optimizer, parameters, mesh, objective)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints memory tables
            self._engine = deepspeed.initialize(
                model=objective,
                optimizer=self._inner,
                config=settings,
                dist_init_required=False,
                mpu=ModelParallelUnit(mesh),
            )[0]
        self._zero = adapter_for(self._engine, self._inner, parameters.named, mesh.zero)
        create_states(self._inner, self._zero.masters(), OPTIMIZERS[optimizer.name].states)
        if isinstance(self._inner, MatrixUpdates):
            self._inner.attach(self._zero, parameters, mesh)

    def forward_backward(self, run: Callable[[nn.Module], Tensor], *, last: bool) -> None:
        """Forward and backward of one micro-batch; `last` closes the accumulation.

        `run(module)` returns the scalar to differentiate. Gradients are averaged over the data axis
        by ZeRO: scale the scalar by its length for a sum.
        """
        self._engine.set_gradient_accumulation_boundary(last)
        loss = run(self._engine)
        self._engine.backward(loss, scale_wrt_gas=False)

    def run_pipeline(self, work: Callable[[], None]) -> None:
        """Forwards and backwards of all micro-batches by `work`, then the reduction over data ranks.

        `work` runs the stages by itself and calls `after_backward` after every backward of weights.
        """
        self._engine.set_gradient_accumulation_boundary(False)
        work()
        if self._tied is not None:
            embedding = self.parameters.named.get("embedding.weight")
            self._tied.add_gradient(
                None if embedding is None else self._zero.accumulated(embedding)
            )
        self._engine.set_gradient_accumulation_boundary(True)
        self._zero.prepare_reduction()
        self._engine.allreduce_gradients()

    def after_backward(self, stage: nn.Module) -> None:
        """Move a stage's fresh gradients to where they are accumulated in float32."""
        if self._tied is not None:
            self._tied.collect()
        self._zero.accumulate(stage.parameters())

    def forward_only(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward; call under `no_grad`. Collective with ZeRO-3."""
        return self._engine.module(*args, **kwargs)

    def spoil_gradients(self) -> None:
        """Make what was reduced NaN: then the next `step` touches nothing, on any rank."""
        for gradient in self._zero.reduced():
            if gradient is not None:
                gradient.fill_(math.nan)

    def step(self, learning_rate: float) -> StepOutcome:
        """One step of the optimizer, unless a gradient is not finite anywhere: then nothing is touched."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        outcome = self._zero.step(self._clipping)
        if self._tied is not None:
            self._tied.follow()
        return outcome

    def close(self) -> None:
        """Let go of buffers and hooks, so that another engine can be built in this process."""
        self._engine.destroy()

    # What a checkpoint is made of: full logical float32 tensors by parameter name.

    def full_tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of `kinds` ("weight" and the optimizer's states) of a parameter, float32, whole.

        Collective over the ranks of this pipeline stage: call on all of them, in the same order.
        """
        tensors = {kind: self._zero.full(name, _state_of(kind)) for kind in self.kinds}
        if self.parameters.cut(name).parts == 1:
            return tensors
        return {
            kind: self.parameters.joined(name, gather(part, self.mesh.tensor))
            for kind, part in tensors.items()
        }

    def optimizer_steps(self) -> int:
        """Steps that the optimizer has applied (skipped steps are not among them)."""
        for state in self._inner.state.values():
            return int(state["step"])
        return 0

    def restore(
        self, tensors: Iterator[tuple[str, dict[str, Tensor]]], optimizer_steps: int
    ) -> None:
        """Take over full float32 tensors by name, and the optimizer's own step count.

        Every parameter must come; each rank keeps its part. With `optimizer_steps` 0 states are ignored.
        """
        kinds = self.kinds if optimizer_steps > 0 else self.kinds[:1]
        for name, full in tensors:
            cut = self.parameters.cut(name)
            for kind in kinds:
                part = full[kind][cut.part(full[kind].shape)]
                self._zero.store(name, part, _state_of(kind))
        self._zero.refresh()
        if self._tied is not None:
            self._tied.follow()
        for state in self._inner.state.values():
            state["step"] = torch.full_like(state["step"], float(optimizer_steps))


def _state_of(kind: str) -> str | None:
    return None if kind == "weight" else kind
