"""Whether a short context of so many keys takes keys from any token at a step."""

from train.configuration.long_context_settings import LongCeConfig
from train.schedule.stages import Point


def cuts(point: Point, keys: int, length: int) -> bool:
    """Whether in documents of `length` tokens a token of some layer sees more than `keys` keys."""
    limits = (spec.reach.within(length).limit for spec in point.at.specs.values())
    return any(keys < (length if limit is None else limit) for limit in limits)


def weighs(point: Point, wanted: LongCeConfig) -> bool:
    """Whether LongCE weighs tokens differently at this step; where it does not, no second forward runs."""
    return cuts(point, wanted.window_tokens, point.stage.shape.sequence_length)
