"""A pipeline stage for torch's schedules, with packed micro-batches and short-lived receive buffers.

torch's `PipelineStage` runs a module, keeps what its backward needs and lists the transfers. `ScheduledStage` adds:

- every micro-batch has its own tokens, layout and targets; all ranks of the pipeline hold the same
  micro-batches, so only hidden states (T / tensor, D) are sent forward and their gradients backward;
- torch allocates a receive buffer for every micro-batch of the step and keeps all of them. Here a buffer
  exists from its transfer until it is used, so memory is that of the micro-batches in flight;
- after every backward that made gradients of weights, `after_backward` may accumulate them elsewhere;
- below the lowest stage that trains anything no backward runs, and no gradient of hidden states is sent.

Shape letters: T tokens of the stream on this rank (of the tensor ranks together), D width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining import PipelineStage

from model.at_step import AtStep
from model.packed_layout import PackedLayout
from model.transformer import Transformer
from parallel.mesh import Mesh
from parallel.pipeline.placement import Placement
from parallel.pipeline.schedule import Action, ActionKind
from parallel.pipeline.timeline import Recorder


class StageInput(Protocol):
    """The attributes of a micro-batch that a stage and the loss use."""

    @property
    def tokens_T(self) -> Tensor:  # noqa: N802
        """int64 (T,), this rank's tokens."""

    @property
    def targets_T(self) -> Tensor:  # noqa: N802
        """int64 (T,), -100 is ignored."""

    @property
    def layout(self) -> PackedLayout:
        """Positions of the documents in the stream."""


@dataclass(frozen=True)
class StepInputs:
    """Inputs of one optimizer step. recorder: None: times are not recorded."""

    micro_batches: Sequence[StageInput]
    at: AtStep | float
    recorder: Recorder | None


class ScheduledStage(PipelineStage):
    """A Transformer with some of the layers, run by torch's schedules.

    num_tokens: T, the same for every micro-batch of the step. differentiated: of every stage of the pipeline, whether
    its output depends on a trained parameter; equal on all ranks, so that they agree on the gradients that are sent.
    """

    def __init__(
        self,
        module: Transformer,
        index: int,
        placement: Placement,
        mesh: Mesh,
        *,
        num_tokens: int,
        after_backward: Callable[[Transformer], None] | None,
        differentiated: Sequence[bool],
    ) -> None:
        parameter = next(module.parameters())
        self._output_has_gradient = differentiated[index]
        self._input_has_gradient = index > 0 and differentiated[index - 1]
        # Where it requires a gradient, torch receives and sends gradients of hidden states.
        self._blank_TD = torch.empty(
            (num_tokens // mesh.tensor.size, module.config.hidden_size),
            dtype=parameter.dtype,
            device="meta",
        )
        tokens_T = torch.empty(num_tokens, dtype=torch.int64, device="meta")
        # With input_args and output_args torch runs no extra micro-batch to infer shapes.
        super().__init__(
            module,
            index,
            placement.num_stages,
            parameter.device,
            input_args=(tokens_T if index == 0 else self._blank(self._input_has_gradient),),
            output_args=(self._blank(self._output_has_gradient),),
            group=mesh.pipeline.group,
        )
        self.module = module
        self.inputs: StepInputs | None = None
        self._after_backward = after_backward
        self._running = 0
        # Losses of micro-batches whose whole backward runs with the gradients of weights.
        self._postponed: dict[int, Any] = {}

    def forward_one_chunk(  # type: ignore[override]  # options differ between versions of torch
        self, fwd_chunk_id: int, args: Any, kwargs: Any = None, **options: Any
    ) -> Any:
        """Runs a micro-batch through the stage; returns hidden states (T / tensor, D)."""
        del args, kwargs
        self._running = fwd_chunk_id
        given: tuple[Tensor, ...] = ()
        if self.is_first:
            given = (self._inputs.micro_batches[fwd_chunk_id].tokens_T,)
        else:
            (info,) = self.args_recv_info[fwd_chunk_id]
            assert info.buffer is not None
            info.buffer.requires_grad_(self._input_has_gradient)
        with self._timed("F", fwd_chunk_id):
            hidden_TD = super().forward_one_chunk(fwd_chunk_id, given, {}, **options)
        # From here on the graph holds the input; the list of outputs is not used again.
        self._release(self.args_recv_info, fwd_chunk_id)
        self.output_chunks.clear()
        return hidden_TD

    def forward_maybe_with_nosync(self, *args: Any, **kwargs: Any) -> Tensor:
        """Runs the module; torch calls it inside `forward_one_chunk`."""
        del kwargs
        layout = self._inputs.micro_batches[self._running].layout
        hidden_TD: Tensor = self.module(*args, layout, self._inputs.at)
        return hidden_TD

    def backward_one_chunk(
        self,
        bwd_chunk_id: int,
        loss: Any = None,
        full_backward: bool = True,
        last_backward: bool = False,
    ) -> None:
        """Runs the backward of a micro-batch, whole or for the stage's input only."""
        if not self._output_has_gradient:
            self.fwd_cache.pop(bwd_chunk_id)
            self.bwd_cache[bwd_chunk_id] = (None,)
            return
        if not full_backward and not self._input_has_gradient:
            # Nobody needs the gradient of its input: all of the backward runs with the weights.
            self._postponed[bwd_chunk_id] = loss
            self.bwd_cache[bwd_chunk_id] = (None,)
            return
        with self._timed("B" if full_backward else "I", bwd_chunk_id):
            super().backward_one_chunk(bwd_chunk_id, loss, full_backward, last_backward)
        if not self.is_last:
            self._release(self.grad_recv_info, bwd_chunk_id)

    def backward_weight_one_chunk(self, bwd_chunk_id: int, last_backward: bool = False) -> None:
        """Runs the rest of a backward: gradients of the stage's weights."""
        if not self._output_has_gradient:
            return
        with self._timed("W", bwd_chunk_id):
            if bwd_chunk_id not in self._postponed:
                super().backward_weight_one_chunk(bwd_chunk_id, last_backward)
                return
            loss = self._postponed.pop(bwd_chunk_id)
            super().backward_one_chunk(bwd_chunk_id, loss, True, last_backward)
            del self.bwd_cache[bwd_chunk_id]
        if not self.is_last:
            self._release(self.grad_recv_info, bwd_chunk_id)

    def backward_maybe_with_nosync(
        self, backward_type: str, bwd_kwargs: Any, last_backward: bool = False
    ) -> Any:
        """Runs one backward, then `after_backward` if it made gradients of weights."""
        result = super().backward_maybe_with_nosync(backward_type, bwd_kwargs, last_backward)
        if backward_type != "input" and self._after_backward is not None:
            self._after_backward(self.module)
        return result

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        """Returns the receive of a micro-batch's input, into a new buffer."""
        self._take(self.args_recv_info, fwd_chunk_id)
        operations: list[dist.P2POp] = super().get_fwd_recv_ops(fwd_chunk_id)
        return operations

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        """Returns the receive of the gradient of a micro-batch's output, into a new buffer; none if it has none."""
        if not self._output_has_gradient:
            return []
        self._take(self.grad_recv_info, bwd_chunk_id)
        operations: list[dist.P2POp] = super().get_bwd_recv_ops(bwd_chunk_id)
        return operations

    def get_bwd_send_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        """Returns the send of the gradient of a micro-batch's input; none if nobody needs it."""
        if not self._input_has_gradient:
            self.bwd_cache.pop(bwd_chunk_id, None)
            return []
        operations: list[dist.P2POp] = super().get_bwd_send_ops(bwd_chunk_id)
        return operations

    def set_local_bwd_input(
        self, next_stage_bwd_outputs: tuple[Tensor | None, ...], mb_index: int
    ) -> None:
        """Takes the gradient of the output from the next stage, if both are on this rank."""
        if self._output_has_gradient:
            super().set_local_bwd_input(next_stage_bwd_outputs, mb_index)

    def _prepare_forward_infra(self, *args: Any, **kwargs: Any) -> Any:
        with self._without_memory():
            return super()._prepare_forward_infra(*args, **kwargs)

    def _prepare_backward_infra(self, *args: Any, **kwargs: Any) -> Any:
        with self._without_memory():
            return super()._prepare_backward_infra(*args, **kwargs)

    @contextmanager
    def _without_memory(self) -> Iterator[None]:
        """Within the block torch makes its receive buffers on the meta device, without memory."""
        device, self.device = self.device, torch.device("meta")
        try:
            yield
        finally:
            self.device = device

    def _take(self, buffers: dict[int, Any], micro_batch: int) -> None:
        for info in buffers.get(micro_batch, ()):
            if (
                hasattr(info, "buffer") and info.buffer is not None
            ):  # not the tokens of the first stage
                info.buffer = torch.empty(
                    self._blank_TD.shape, dtype=self._blank_TD.dtype, device=self.device
                )

    def _release(self, buffers: dict[int, Any], micro_batch: int) -> None:
        for info in buffers[micro_batch]:
            if hasattr(info, "buffer") and info.buffer is not None:
                info.buffer = self._blank_TD.detach()

    def _blank(self, requires_grad: bool) -> Tensor:
        return self._blank_TD.detach().requires_grad_(requires_grad)

    @property
    def _inputs(self) -> StepInputs:
        assert self.inputs is not None, "the runner hands over a step's inputs before it runs"
        return self.inputs

    def _timed(self, kind: ActionKind, micro_batch: int) -> AbstractContextManager[None]:
        recorder = self._inputs.recorder
        if recorder is None:
            return nullcontext()
        return recorder.timed(Action(kind, self.stage_index, micro_batch))
