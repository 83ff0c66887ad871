"""Runs the micro-batches of a step through a pipeline, forward and backward, or forward only.

    forward_backward: torch.distributed.pipelining determines the order of actions (see schedule.py)
    forward_only:     hidden states pass through the stages, nothing is kept, with any schedule's placement

The last stage returns hidden states; `loss_of` then runs head and loss on that stage's rank. Its result is
differentiated without further scaling: gradients of all micro-batches add up.

Shape letters: T tokens of the stream on this rank (of the tensor ranks together), D width.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed.pipelining import schedules

from model.at_step import AtStep
from model.transformer import Transformer
from parallel.mesh import Mesh
from parallel.pipeline.messages import start_receive, start_send
from parallel.pipeline.placement import Placement
from parallel.pipeline.schedule import SCHEDULES, forward_order
from parallel.pipeline.stage import ScheduledStage, StageInput, StepInputs
from parallel.pipeline.timeline import Recorder
from parallel.transfer import Transfer
from parallel.watch.waiting import waiting

Result = TypeVar("Result")
LossOf = Callable[[Transformer, Tensor, Any], Tensor]
# A private function of torch, in which its schedules wait for messages.
_WAIT = "_wait_batch_p2p"


class PipelineRunner:
    """The stages of this rank and the schedules that run them.

    stages: in the order of `placement.stages_of(mesh.pipeline.rank)`. after_backward: called with the stage after
    every backward that made gradients of its weights, so that they can be accumulated in another precision.
    differentiated: see `ScheduledStage`; empty: every stage. recorder: records when actions run; None: no records.
    """

    def __init__(
        self,
        stages: Sequence[Transformer],
        placement: Placement,
        mesh: Mesh,
        after_backward: Callable[[Transformer], None] | None = None,
        differentiated: Sequence[bool] = (),
    ) -> None:
        self.placement = placement
        self.recorder: Recorder | None = None
        self._stages = dict(zip(placement.stages_of(mesh.pipeline.rank), stages, strict=True))
        self._mesh = mesh
        self._after_backward = after_backward
        self._differentiated = differentiated or (True,) * placement.num_stages
        # By number of micro-batches and tokens of each: transfers have one shape in a schedule.
        self._schedules: dict[tuple[int, int], tuple[Any, list[ScheduledStage]]] = {}
        self._inputs = StepInputs((), 0.0, None)
        self._loss_of: LossOf | None = None

    def forward_backward(
        self, micro_batches: Sequence[StageInput], at: AtStep | float, loss_of: LossOf
    ) -> None:
        """Runs one step's forwards and backwards; leaves gradients in the parameters. Collective.

        micro_batches: the same on every pipeline rank, all with the same number of tokens.
        loss_of(last stage, hidden states, micro-batch): returns the scalar to differentiate, already scaled.
        Called on the last stage's rank, once for every micro-batch, in order.
        """
        schedule, stages = self._schedule(len(micro_batches), len(micro_batches[0].tokens_T))
        self._inputs = StepInputs(micro_batches, at, self.recorder)
        self._loss_of = loss_of
        for stage in stages:
            stage.inputs = self._inputs
        # torch splits the targets into micro-batches: give it the micro-batches' numbers, on the CPU, so that reading
        # one does not synchronise with the device.
        with _noting_waits(self._mesh.pipeline.description):
            schedule.step(target=torch.arange(len(micro_batches)))

    @torch.no_grad()
    def forward_only(
        self,
        micro_batches: Sequence[StageInput],
        at: AtStep | float,
        consume: Callable[[Transformer, Tensor, Any], Result],
    ) -> list[Result]:
        """Runs a forward of every micro-batch without gradients. Collective. Micro-batches may differ in length.

        Returns `consume(last stage, hidden states, micro-batch)` of every micro-batch, in order; an empty list on
        ranks without the last stage.
        """
        results: list[Result] = []
        received: dict[tuple[int, int], Transfer] = {}
        sent: deque[Transfer] = deque()
        made: dict[tuple[int, int], Tensor] = {}
        order = forward_order(self.placement, len(micro_batches))[self._mesh.pipeline.rank]
        for step in order:
            stage, index = step.stage, step.micro_batch
            if step.what == "receive":
                buffer_TD = self._buffer(micro_batches[index])
                peer = self.placement.rank_of(stage - 1)
                received[stage, index] = start_receive(buffer_TD, peer, self._mesh.pipeline)
            elif step.what == "send":
                peer = self.placement.rank_of(stage + 1)
                sent.append(start_send(made.pop((stage, index)), peer, self._mesh.pipeline))
                if len(sent) > self.placement.ranks:
                    sent.popleft().wait()
            else:
                input_T = self._input(micro_batches[index], stage, index, received, made)
                module = self._stages[stage]
                hidden_TD = module(input_T, micro_batches[index].layout, at)
                if stage == self.placement.num_stages - 1:
                    results.append(consume(module, hidden_TD, micro_batches[index]))
                else:
                    made[stage, index] = hidden_TD
        for transfer in sent:
            transfer.wait()
        return results

    def _input(
        self,
        micro_batch: StageInput,
        stage: int,
        index: int,
        received: dict[tuple[int, int], Transfer],
        made: dict[tuple[int, int], Tensor],
    ) -> Tensor:
        """Returns tokens for the first stage, else hidden states, from another rank or (in a V) from this one."""
        if stage == 0:
            return micro_batch.tokens_T
        if (stage, index) not in received:
            return made.pop((stage - 1, index))
        return received.pop((stage, index)).wait()

    def _schedule(
        self, num_micro_batches: int, num_tokens: int
    ) -> tuple[Any, list[ScheduledStage]]:
        """Returns torch's schedule and stages for these shapes, the same on all pipeline ranks."""
        key = (num_micro_batches, num_tokens)
        if key not in self._schedules:
            stages = [
                ScheduledStage(
                    module,
                    index,
                    self.placement,
                    self._mesh,
                    num_tokens=num_tokens,
                    after_backward=self._after_backward,
                    differentiated=self._differentiated,
                )
                for index, module in self._stages.items()
            ]
            schedule = SCHEDULES[self.placement.schedule](
                stages[0] if self.placement.schedule == "1f1b" else stages,
                num_micro_batches,
                loss_fn=self._loss,
                # The loss is a sum, already divided by the tokens of the whole batch.
                scale_grads=False,
            )
            self._schedules[key] = (schedule, stages)
        return self._schedules[key]

    def _loss(self, hidden_TD: Tensor, number: Tensor) -> Tensor:
        assert self._loss_of is not None
        last = self._stages[self.placement.num_stages - 1]
        loss = self._loss_of(last, hidden_TD, self._inputs.micro_batches[int(number)])
        if self.recorder is not None:
            self.recorder.extend()
        return loss

    def _buffer(self, micro_batch: StageInput) -> Tensor:
        module = next(iter(self._stages.values()))
        rows = len(micro_batch.tokens_T) // self._mesh.tensor.size
        parameter = next(module.parameters())
        return parameter.new_empty((rows, module.config.hidden_size))


def unnoted_waits() -> str:
    """Returns why waits between pipeline stages are not recorded with this torch, in one line; empty if they are."""
    if hasattr(schedules, _WAIT):
        return ""
    return (
        f"torch {torch.__version__} has no torch.distributed.pipelining.schedules.{_WAIT}: on gloo a hang "
        "between pipeline stages ends by its timeout, and the rank that is waited for is not named"
    )


@contextmanager
def _noting_waits(group: str) -> Iterator[None]:
    """Records the waits of torch's schedules within the block: gloo's recorder has no point-to-point messages.

    All of them wait in one private function of their module, which is replaced within the block. With a torch that
    lacks it only the backend's own recorder has them: see `unnoted_waits`.
    """
    original = getattr(schedules, _WAIT, None)
    if original is None:
        yield
        return

    def wait(works: list[Any]) -> None:
        with waiting(group, "a transfer between pipeline stages"):
            original(works)

    setattr(schedules, _WAIT, wait)
    try:
        yield
    finally:
        setattr(schedules, _WAIT, original)
