"""The loss above which a step is a spike, from the losses before it.

    limit = median + threshold x scale        scale = max(1.4826 x median absolute deviation, FLOOR x median)

OLMo-core skips a step whose loss or gradient norm is more than 6 standard deviations above the mean of the last
128 steps, once it has half of them. Median and median absolute deviation take the place of mean and standard
deviation: one odd loss in the window then moves the limit by next to nothing. 1.4826 makes the latter equal to
the standard deviation where losses are normal.

What is judged is the loss of the whole step, over all ranks: it has the same value, and the same spread, in every
layout, and every rank knows it before the weights change.
"""

import math
from collections.abc import Sequence
from statistics import median

from train.checkpointing.state import RunState
from train.configuration.schema import SpikesConfig

_NORMAL = 1.4826
# Least scale, as a share of the median: a flat history would call every wrinkle a spike.
FLOOR = 0.005


def loss_limit(losses: Sequence[float], config: SpikesConfig) -> float:
    """The loss above which the step after `losses` spikes; infinite while there is too little to compare.

    losses: of the steps that did not spike; the last `config.window` of them count.
    """
    recent = losses[-config.window :]
    if len(recent) < config.window // 2:
        return math.inf
    middle = median(recent)
    deviation = median(abs(loss - middle) for loss in recent)
    return middle + config.threshold * max(_NORMAL * deviation, FLOOR * middle)


def limit_of_step(state: RunState, stage: str, config: SpikesConfig) -> float:
    """`loss_limit` for the next step; another stage, of another length, has other losses."""
    if config.action == "ignore" or state.stage != stage:
        state.recent_losses, state.spiking_steps = [], 0
    return loss_limit(state.recent_losses, config)


def remember(state: RunState, loss: float, limit: float, config: SpikesConfig) -> None:
    """Keep the loss of a step for the next ones, or count it among the spiking (NaN: not finite)."""
    if config.action == "ignore":
        return
    if loss <= limit:
        state.recent_losses = [*state.recent_losses, loss][-config.window :]
        state.spiking_steps = 0
    else:
        state.spiking_steps += 1


def wants_back(state: RunState, config: SpikesConfig) -> bool:
    """Whether it is time for a rollback."""
    return config.action == "rollback" and state.spiking_steps >= config.patience
