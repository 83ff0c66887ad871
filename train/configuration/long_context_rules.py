"""Rules of LongPPL and LongCE beside the stages: some stage must have tokens whose context the short one cuts."""

from functools import partial

from train.configuration.long_context_settings import OfficialLongPerplexity
from train.configuration.schema import RunConfig
from train.schedule.short_context import cuts, weighs
from train.schedule.stages import Point, Schedule

_PERPLEXITY, _LONG_CE = "evaluation.long_perplexity", "train.long_ce.window_tokens"


def long_perplexity_problems(config: RunConfig, schedule: Schedule) -> list[str]:
    """Returns why LongPPL would find no key token in any stage, in one line; none if it may."""
    wanted = config.evaluation.long_perplexity
    if wanted is None or not config.evaluation.enabled:
        return []
    length = wanted.length or max(stage.shape.sequence_length for stage in schedule.stages)
    keys, limit = "context_tokens", wanted.context_tokens
    fitting = f"form: {wanted.form}, context_tokens: {max(1, length // 8)}"
    if isinstance(wanted, OfficialLongPerplexity):
        keys, limit = "context_tokens + step_tokens", limit + wanted.step_tokens
        fitting += f", step_tokens: {max(1, length // 32)}"
    if limit >= length:
        of = "length" if wanted.length else "the longest sequence_length"
        return [
            f"{_PERPLEXITY}: {keys} = {limit} must be below {of}, {length}: no token has so many before it; give "
            f"{_PERPLEXITY}={{{fitting}}}, or drop it"
        ]
    sees_more = any(map(partial(cuts, keys=wanted.context_tokens, length=length), _ends(schedule)))
    if isinstance(wanted, OfficialLongPerplexity) or sees_more:
        return []
    return [
        f"{_PERPLEXITY}.context_tokens={wanted.context_tokens}: in no stage does a layer see more keys; give fewer, or "
        f"{_PERPLEXITY}.form=official"
    ]


def long_ce_problems(config: RunConfig, schedule: Schedule) -> list[str]:
    """Returns why LongCE would weigh all tokens the same in every stage, in one line; none if it does not."""
    wanted = config.train.long_ce
    if wanted is None or any(weighs(point, wanted) for point in _ends(schedule)):
        return []
    longest = max(stage.shape.sequence_length for stage in schedule.stages)
    return [
        f"{_LONG_CE}={wanted.window_tokens}: has no effect, in no stage does a token see more keys (the longest has "
        f"{longest} tokens); give fewer, {max(1, longest // 8)} for instance, or drop train.long_ce"
    ]


def _ends(schedule: Schedule) -> list[Point]:
    """Returns what holds at the end of every stage, where ramps of windows are widest."""
    return [schedule.at_end_of(stage) for stage in schedule.stages]
