"""The loss above which a step is a spike, from the losses before it.

    limit = median + threshold x scale        scale = max(1.4826 x median absolute deviation, FLOOR x median)

OLMo-core skips a step whose loss or gradient norm is more than 6 standard deviations above the mean of the last
128 steps, once it has half of them. Here median and median absolute deviation replace mean and standard deviation,
so that one outlier in the window hardly moves the limit. The factor 1.4826 makes the median absolute deviation equal
to the standard deviation for normally distributed losses.

The loss compared is that of the whole step over all ranks: it is the same in every layout, and known on every rank
before the weights change.
"""

import math
from collections.abc import Sequence
from statistics import median

from train.checkpointing.state import RunState
from train.configuration.schema import SpikesConfig

_NORMAL = 1.4826
# Least scale, relative to the median: without it, after nearly equal losses any small rise would be a spike.
FLOOR = 0.005


def loss_limit(losses: Sequence[float], config: SpikesConfig) -> float:
    """Returns the loss above which the step after `losses` is a spike; infinity while there are too few losses.

    losses: of earlier steps that were no spikes; the last `config.window` are used.
    """
    recent = losses[-config.window :]
    if len(recent) < config.window // 2:
        return math.inf
    middle = median(recent)
    deviation = median(abs(loss - middle) for loss in recent)
    return middle + config.threshold * max(_NORMAL * deviation, FLOOR * middle)


def limit_of_step(state: RunState, stage: str, config: SpikesConfig) -> float:
    """Returns `loss_limit` for the next step; a new stage (or action ignore) first clears the losses in `state`."""
    if config.action == "ignore" or state.stage != stage:
        state.recent_losses, state.spiking_steps = [], 0
    return loss_limit(state.recent_losses, config)


def remember(state: RunState, loss: float, limit: float, config: SpikesConfig) -> None:
    """Adds the loss of a step to the losses in `state`, or counts it as spiking if above `limit` or NaN."""
    if config.action == "ignore":
        return
    if loss <= limit:
        state.recent_losses = [*state.recent_losses, loss][-config.window :]
        state.spiking_steps = 0
    else:
        state.spiking_steps += 1


def wants_back(state: RunState, config: SpikesConfig) -> bool:
    """Whether `patience` steps in a row have spiked and the action is rollback."""
    return config.action == "rollback" and state.spiking_steps >= config.patience
