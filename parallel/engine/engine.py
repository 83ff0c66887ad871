"""The only import of deepspeed: construction and one optimizer step of its engine.

DeepSpeed shards what ZeRO shards and reduces gradients; everything that changes over time (learning
rate, number of micro-batches, loss scale by valid tokens) is handed in at every step, so the engine
keeps no schedule of its own. Gradients are accumulated and reduced in float32 in every precision.
"""

import contextlib
import io
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from model.parameters import role_of
from parallel.config import OptimizerConfig, ParallelConfig
from parallel.engine.settings import ModelParallelUnit
from parallel.mesh import Mesh, gather
from parallel.parameters import NamedParameters
from parallel.pipeline.tied import TiedWeight

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
from deepspeed.accelerator import get_accelerator, set_accelerator
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from deepspeed.utils import logger as deepspeed_logger
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)

deepspeed_logger.setLevel(logging.ERROR)
# It calls names that torch is about to rename, at every step of every rank.
warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
# No op is compiled on the way: the CPU accelerator would build one for a minute and fail without ninja,
# and reading this table through its own door probes for nvcc.
vars(deepspeed.ops)["__compatible_ops__"] = {"deepspeed_shm_comm": False}

ADAM_STATES = ("exp_avg", "exp_avg_sq")
# Where each of DeepSpeed's optimizers keeps this rank's float32 master weights, one flat tensor a group.
# (ZeRO-1 with bfloat16 weights and float32 accumulation is its BF16_Optimizer.)
_MASTER_PARTITIONS = {
    "DeepSpeedZeroOptimizer": "single_partition_of_fp32_groups",
    "BF16_Optimizer": "fp32_groups_flat_partition",
    "DeepSpeedZeroOptimizer_Stage3": "fp32_partitioned_groups_flat",
}
# Where each keeps what this rank holds of the reduced gradients until the step: lists of tensors by group, or
# one flat tensor a group.
_REDUCED_GRADIENTS = {
    "DeepSpeedZeroOptimizer": "averaged_gradients",
    "BF16_Optimizer": "fp32_groups_gradients_flat",
    "DeepSpeedZeroOptimizer_Stage3": "averaged_gradients",
}


def _accumulated(parameter: nn.Parameter) -> Tensor | None:
    """Where DeepSpeed adds up this parameter's gradients before they are reduced."""
    return getattr(parameter, "_hp_grad", parameter.grad)


@dataclass(frozen=True)
class StepOutcome:
    """What `TrainingEngine.step` did: global gradient norm before clipping, weights touched or not."""

    gradient_norm: float
    applied: bool


def has_decay(name: str) -> bool:
    """Whether the parameter called `name` is decayed: matrices are; norms, embeddings, biases, sinks are not."""
    return role_of(name).decays


def materialise(
    module: nn.Module,
    initialise: Callable[[str, Tensor], None],
    *,
    device: torch.device,
    dtype: torch.dtype,
    zero3_settings: dict[str, Any] | None = None,
    mesh: Mesh | None = None,
) -> None:
    """Give a meta-built `module` storage and its initial values, one submodule at a time.

    `initialise(name, tensor)` fills a float32 parameter by its full name; it is then cast to `dtype`.
    With `zero3_settings` each submodule is sharded over `mesh.zero` as soon as it is filled, so no rank
    ever holds the whole model.
    """
    if device.type == "cpu" and get_accelerator().device_name() != "cpu":
        set_accelerator(CPU_Accelerator())  # a run on the CPU of a GPU host
    for prefix, submodule in module.named_modules():
        own = list(submodule.named_parameters(recurse=False))
        if not own:
            continue
        submodule.to_empty(device=device, recurse=False)
        with torch.no_grad():
            for name, parameter in submodule.named_parameters(recurse=False):
                initialise(f"{prefix}.{name}" if prefix else name, parameter.data)
                parameter.data = parameter.data.to(dtype)
        if zero3_settings is not None:
            group = None if mesh is None else mesh.zero.group
            deepspeed.zero.Init(
                module=submodule, config_dict_or_path=zero3_settings, data_parallel_group=group
            )


def _decay_groups(
    parameters: NamedParameters, weight_decay: float, mesh: Mesh, objective: nn.Module
) -> list[dict[str, Any]]:
    """Optimizer groups with and without decay; the same number of them on every pipeline rank.

    DeepSpeed reduces the norm over pipeline ranks once a group. A stage with nothing for a group (the head
    alone, tied: its one weight is a norm's) gets a number there that no gradient ever reaches.
    """
    named = parameters.named.items()
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in named if has_decay(n)], "weight_decay": weight_decay},
        {"params": [p for n, p in named if not has_decay(n)], "weight_decay": 0.0},
    ]
    if mesh.pipeline.size == 1:
        return [group for group in groups if group["params"]]
    dtype = next(iter(parameters.named.values())).dtype
    for group in groups:
        if not group["params"]:
            placeholder = nn.Parameter(torch.zeros(1, dtype=dtype, device=mesh.device))
            objective.register_parameter("placeholder", placeholder)  # DeepSpeed looks it up there
            group["params"] = [placeholder]
    return groups


class TrainingEngine:
    """Parameters, their sharded AdamW and the steps between them.

    parameters: what is trained, by name. objective: what is called, holding them; its forward returns
    what `forward_backward` differentiates. tied: with a pipeline, what keeps a tied head with its embedding.
    """

    def __init__(
        self,
        parameters: NamedParameters,
        objective: nn.Module,
        mesh: Mesh,
        parallel: ParallelConfig,
        optimizer: OptimizerConfig,
        settings: dict[str, Any],
        tied: TiedWeight | None = None,
    ) -> None:
        groups = _decay_groups(parameters, optimizer.weight_decay, mesh, objective)
        adam = torch.optim.AdamW(
            groups,
            lr=0.0,
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.epsilon,
            fused=mesh.device.type == "cuda",
        )
        self.parameters = parameters
        self._zero_stage = parallel.zero_stage
        self._clipping = optimizer.gradient_clipping
        self.mesh = mesh
        self._tied = tied
        with contextlib.redirect_stdout(io.StringIO()):  # it prints memory tables
            self._engine = deepspeed.initialize(
                model=objective,
                optimizer=adam,
                config=settings,
                dist_init_required=False,
                mpu=ModelParallelUnit(mesh),
            )[0]
        self._create_adam_state()
        groups_of_bf16 = getattr(self._engine.optimizer, "bf16_groups", [])
        self._bf16_places = {
            parameter: (group, index)
            for group, members in enumerate(groups_of_bf16)
            for index, parameter in enumerate(members)
        }

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
        zero = self._engine.optimizer
        self._engine.set_gradient_accumulation_boundary(False)
        work()
        if self._tied is not None:
            embedding = self.parameters.named.get("embedding.weight")
            self._tied.add_gradient(None if embedding is None else _accumulated(embedding))
        self._engine.set_gradient_accumulation_boundary(True)
        if type(zero).__name__ == "DeepSpeedZeroOptimizer":
            zero.setup_buckets()  # else made by hooks, which a split backward never calls
        self._engine.allreduce_gradients()

    def after_backward(self, stage: nn.Module) -> None:
        """Move a stage's fresh gradients to where they are accumulated in float32."""
        if self._tied is not None:
            self._tied.collect()
        zero = self._engine.optimizer
        if type(zero).__name__ != "BF16_Optimizer":
            return  # float32 weights accumulate in their own gradients
        for parameter in stage.parameters():
            place = self._bf16_places.get(parameter)
            if place is not None and parameter.grad is not None:
                zero._update_hp_grad(parameter, *place, clear_lp_grads=False)
                parameter.grad = None

    def forward_only(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward; call under `no_grad`. Collective with ZeRO-3."""
        return self._engine.module(*args, **kwargs)

    def spoil_gradients(self) -> None:
        """Make what was reduced NaN: then the next `step` touches nothing, on any rank."""
        zero = self._engine.optimizer
        if self._zero_stage == 0:
            reduced = [p.grad for p in self.parameters.named.values()]
        else:
            held = getattr(zero, _REDUCED_GRADIENTS[type(zero).__name__])
            reduced = list(chain.from_iterable(held.values())) if isinstance(held, dict) else held
        for gradient in reduced:
            if gradient is not None:
                gradient.fill_(math.nan)

    def step(self, learning_rate: float) -> StepOutcome:
        """One AdamW step, unless a gradient is not finite anywhere: then nothing is touched."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        if self._zero_stage == 0:
            return self._step_without_zero()
        self._engine.step()
        if self._tied is not None:
            self._tied.follow()
        norm = self._engine.get_global_grad_norm()
        return StepOutcome(float(norm), bool(self._engine.was_step_applied()))

    def _step_without_zero(self) -> StepOutcome:
        """DeepSpeed would neither compute the norm nor notice a NaN here: both are done before its step."""
        gradients = [p.grad for p in self.parameters.named.values() if p.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm):
            self._engine.zero_grad()
            return StepOutcome(norm, False)
        if 0.0 < self._clipping < norm:
            for gradient in gradients:
                gradient.mul_(self._clipping / (norm + 1e-6))
        self._engine.step()
        return StepOutcome(norm, True)

    def close(self) -> None:
        """Let go of buffers and hooks, so that another engine can be built in this process."""
        self._engine.destroy()

    # What a checkpoint is made of: full logical float32 tensors by parameter name.

    def full_tensors(self, name: str) -> dict[str, Tensor]:
        """{"weight", "exp_avg", "exp_avg_sq"} of a parameter, float32, whole.

        Collective over the ranks of this pipeline stage: call on all of them, in the same order.
        """
        parameter = self.parameters.named[name]
        if self._zero_stage == 0:
            moments = {key: self._adam.state[parameter][key] for key in ADAM_STATES}
            tensors = {"weight": parameter.detach(), **moments}
        else:
            tensors = {"weight": safe_get_full_fp32_param(parameter)}
            for key in ADAM_STATES:
                tensors[key] = safe_get_full_optimizer_state(parameter, key)
        if self.parameters.cut(name).parts == 1:
            return tensors
        return {
            kind: self.parameters.joined(name, gather(part, self.mesh.tensor))
            for kind, part in tensors.items()
        }

    def adam_steps(self) -> int:
        """Steps AdamW has applied (skipped steps are not among them)."""
        for state in self._adam.state.values():
            return int(state["step"])
        return 0

    def restore(self, tensors: Iterator[tuple[str, dict[str, Tensor]]], adam_steps: int) -> None:
        """Take over full float32 tensors by name, and AdamW's own step count.

        Every parameter must come; each rank keeps its shard. With `adam_steps` 0 moments are ignored.
        """
        for name, full in tensors:
            parameter, cut = self.parameters.named[name], self.parameters.cut(name)
            self._set_shard(parameter, full["weight"][cut.part(full["weight"].shape)], None)
            if adam_steps > 0:
                for key in ADAM_STATES:
                    self._set_shard(parameter, full[key][cut.part(full[key].shape)], key)
        self._refresh_low_precision()
        if self._tied is not None:
            self._tied.follow()
        for state in self._adam.state.values():
            if "step" in state:
                state["step"] = torch.full_like(torch.as_tensor(state["step"]), float(adam_steps))

    @property
    def _adam(self) -> torch.optim.Optimizer:
        """torch's AdamW inside: ZeRO wraps it and gives it flat partitions, without ZeRO it is plain."""
        outer = self._engine.optimizer
        inner: torch.optim.Optimizer = outer if self._zero_stage == 0 else outer.optimizer
        return inner

    def _set_shard(self, parameter: nn.Parameter, full: Tensor, state: str | None) -> None:
        if self._zero_stage == 0:
            own = parameter.data if state is None else self._adam.state[parameter][state]
            own.copy_(full)
        elif self._zero_stage == 3:
            flat = full.flatten()
            ranks = self.mesh.zero
            size = -(-flat.numel() // ranks.size)
            part = flat[
                size * ranks.rank : size * (ranks.rank + 1)
            ]  # all that a mapped file is read for
            shard = nn.functional.pad(part, (0, size - part.numel()))
            if state is None:
                safe_set_local_fp32_param(parameter, shard)
            else:
                safe_set_local_optimizer_state(parameter, shard, state)
        elif parameter._hp_mapping is not None:  # type: ignore[attr-defined]
            parameter.set_full_hp_param(full, state)  # type: ignore[attr-defined]

    def _create_adam_state(self) -> None:
        """AdamW makes its state at its first step; make it now, with nothing in it.

        ZeRO-1 and 2 link fragments of this state to parameters once, after the first group has stepped,
        when other groups have none yet: with two groups a later checkpoint would find no moments.
        """
        zero = self._engine.optimizer
        if self._zero_stage == 0:
            masters = list(self.parameters.named.values())
        else:
            masters = getattr(zero, _MASTER_PARTITIONS[type(zero).__name__])
        for flat in masters:
            state = self._adam.state[flat]
            if not state:
                device = flat.device if flat.device.type == "cuda" else torch.device("cpu")
                state["step"] = torch.zeros((), dtype=torch.float32, device=device)
                for key in ADAM_STATES:
                    state[key] = torch.zeros_like(flat, memory_format=torch.preserve_format)
        if self._zero_stage in (1, 2):
            zero._lazy_init_hp_params_optimizer_state()

    def _refresh_low_precision(self) -> None:
        """Compute weights follow the master weights that were just loaded."""
        zero = self._engine.optimizer
        if self._zero_stage == 0:
            return  # the weights are their own masters
        if self._zero_stage == 3:
            for index in range(len(zero.fp16_groups)):
                zero._reassign_or_swap_out_partitioned_parameters(index)
        else:
            zero.update_lp_params()
