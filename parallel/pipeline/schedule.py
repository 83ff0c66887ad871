"""The order of each pipeline rank's actions, as plain lists, and a simulation of their times.

An action is a letter, a stage and a micro-batch:

    F  forward     B  backward, whole     I  backward for the stage's input     W  backward for its weights

    1f1b, 3 ranks, 4 micro-batches (a B is twice as long as an F):

    rank 0   F0 F1 F2 .. .. .. .. B0 B0 F3 B1 B1 .. B2 B2 .. B3 B3
    rank 1   .. F0 F1 .. .. B0 B0 F2 B1 B1 F3 B2 B2 .. B3 B3 .. ..
    rank 2   .. .. F0 B0 B0 F1 B1 B1 F2 B2 B2 F3 B3 B3 .. .. .. ..

The share of time in which ranks are idle is the bubble: here (ranks - 1) / (micro-batches + ranks - 1).
The schedules are those of torch.distributed.pipelining; the orders of those with two and more stages a rank are
read from it. Sources: 1F1B and its interleaved form arXiv 2104.04473, ZB-V arXiv 2401.10241.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any, Literal

from torch import nn
from torch.distributed.pipelining import (
    Schedule1F1B,
    ScheduleInterleaved1F1B,
    ScheduleZBVZeroBubble,
)

from parallel.pipeline.placement import Placement


class _KeepsNoOutputs:
    """Drops the last stage's hidden states instead of returning them: only the loss uses them."""

    def _merge_outputs(self, output_chunks: list[Any]) -> None:
        del output_chunks


class OneForwardOneBackward(_KeepsNoOutputs, Schedule1F1B):
    """One stage a rank."""


class Interleaved(_KeepsNoOutputs, ScheduleInterleaved1F1B):
    """Several stages a rank, assigned round robin."""


class ZeroBubbleV(_KeepsNoOutputs, ScheduleZBVZeroBubble):
    """Two stages a rank in a V; gradients of weights are computed in otherwise idle time."""


SCHEDULES: Mapping[str, Any] = MappingProxyType(
    {"1f1b": OneForwardOneBackward, "interleaved_1f1b": Interleaved, "zbv": ZeroBubbleV}
)
ActionKind = Literal["F", "B", "I", "W"]
# Cost of an action for one micro-batch and stage, in units of the forward.
UNIT_COSTS: Mapping[str, float] = MappingProxyType({"F": 1.0, "B": 2.0, "I": 1.0, "W": 1.0})


@dataclass(frozen=True)
class Action:
    """One action of a rank: kind, stage, micro-batch."""

    kind: ActionKind
    stage: int
    micro_batch: int


@dataclass(frozen=True)
class TimedAction:
    """An action and when it ran, in seconds (or units) from the start of the step."""

    rank: int
    action: Action
    start: float
    end: float


def compute_order(placement: Placement, micro_batches: int) -> list[list[Action]]:
    """Returns every rank's actions in order.

    Raises:
        ValueError: the schedule cannot run this number of micro-batches.
    """
    if placement.schedule == "1f1b":
        ranks = range(placement.ranks)
        return [_one_forward_one_backward(rank, placement.ranks, micro_batches) for rank in ranks]
    # Stand-ins for stages, with the attributes that the constructor of a schedule reads.
    stages = [
        SimpleNamespace(
            stage_index=stage,
            num_stages=placement.num_stages,
            group_size=placement.ranks,
            group_rank=0,
            submod=nn.Identity(),
        )
        for stage in placement.stages_of(0)
    ]
    schedule = SCHEDULES[placement.schedule](stages, micro_batches, scale_grads=False)
    orders = (schedule.pipeline_order[rank] for rank in range(placement.ranks))
    return [
        [
            Action(action.computation_type.value, action.stage_index, action.microbatch_index)
            for action in order
            if action is not None
        ]
        for order in orders
    ]


def _one_forward_one_backward(rank: int, ranks: int, micro_batches: int) -> list[Action]:
    ahead = min(ranks - rank, micro_batches)
    order = [Action("F", rank, index) for index in range(ahead)]
    for index in range(micro_batches):
        order.append(Action("B", rank, index))
        if ahead + index < micro_batches:
            order.append(Action("F", rank, ahead + index))
    return order


def simulate(
    order: Sequence[Sequence[Action]], num_stages: int, cost: Callable[[Action], float]
) -> list[TimedAction]:
    """Returns when every action would run if transfers took no time and each rank followed its order."""
    finished: dict[tuple[str, int, int], float] = {}
    timed: list[TimedAction] = []
    waiting = [list(actions) for actions in order]
    free = [0.0] * len(order)
    while any(waiting):
        before = len(timed)
        for rank, actions in enumerate(waiting):
            while actions and all(need in finished for need in _needs(actions[0], num_stages)):
                action = actions.pop(0)
                ready = [finished[need] for need in _needs(action, num_stages)]
                start = max([free[rank], *ready])
                free[rank] = start + cost(action)
                if action.kind != "W":
                    made = "hidden" if action.kind == "F" else "gradient"
                    finished[made, action.stage, action.micro_batch] = free[rank]
                timed.append(TimedAction(rank, action, start, free[rank]))
        assert len(timed) > before, "the order deadlocks"
    return timed


def _needs(action: Action, num_stages: int) -> list[tuple[str, int, int]]:
    """Returns the results that an action needs: hidden states of the stage before, gradient of the stage after."""
    stage, index = action.stage, action.micro_batch
    if action.kind == "F":
        return [("hidden", stage - 1, index)] if stage > 0 else []
    if action.kind == "W":
        return []
    own = ("hidden", stage, index)
    return [own, ("gradient", stage + 1, index)] if stage < num_stages - 1 else [own]


def ideal_bubble(placement: Placement, micro_batches: int) -> float:
    """Returns the schedule's idle share with equal stages, free transfers, B = 2 F, I = W = F."""
    order = compute_order(placement, micro_batches)
    timed = simulate(order, placement.num_stages, lambda action: UNIT_COSTS[action.kind])
    return bubble(timed, placement.ranks)


def bubble(timed: Sequence[TimedAction], ranks: int) -> float:
    """Returns the idle share of all ranks between the first start and the last end on any rank."""
    span = max(one.end for one in timed) - min(one.start for one in timed)
    busy = sum(one.end - one.start for one in timed)
    return 1.0 - busy / (span * ranks)


@dataclass(frozen=True)
class ForwardStep:
    """One step of a forward-only pass: `receive` the stage's input, `run` it, or `send` its output."""

    what: Literal["receive", "run", "send"]
    stage: int
    micro_batch: int


def forward_order(placement: Placement, micro_batches: int) -> list[list[ForwardStep]]:
    """Returns every rank's steps of a forward-only pass.

    Ranks with several stages run one stage for as many micro-batches as there are ranks, then the next stage.
    A receive is listed when its send is, so every rank starts its transfers in the order of one common list:
    NCCL, which runs a rank's transfers one after the other, cannot deadlock.
    """
    ranks = placement.ranks
    waiting = [
        [
            (stage, index)
            for first in range(0, micro_batches, ranks)
            for stage in placement.stages_of(rank)
            for index in range(first, min(first + ranks, micro_batches))
        ]
        for rank in range(ranks)
    ]
    order: list[list[ForwardStep]] = [[] for _ in range(ranks)]
    done: set[tuple[int, int]] = set()
    while any(waiting):
        for rank, steps in enumerate(waiting):
            # One step a turn: receives are started early, but not all at once.
            if not steps or (steps[0][0] > 0 and (steps[0][0] - 1, steps[0][1]) not in done):
                continue
            stage, index = steps.pop(0)
            done.add((stage, index))
            order[rank].append(ForwardStep("run", stage, index))
            after = stage + 1
            if after < placement.num_stages and placement.rank_of(after) != rank:
                order[rank].append(ForwardStep("send", stage, index))
                order[placement.rank_of(after)].append(ForwardStep("receive", after, index))
    return order
