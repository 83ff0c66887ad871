"""Rules of LongPPL beside the stages: some stage must have tokens whose context the short one cuts."""

from train.configuration.long_context_settings import OfficialLongPerplexity
from train.configuration.schema import RunConfig
from train.schedule.stages import Schedule

_PERPLEXITY = "evaluation.long_perplexity"


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
    if isinstance(wanted, OfficialLongPerplexity) or cuts(schedule, wanted.context_tokens):
        return []
    return [
        f"{_PERPLEXITY}.context_tokens={wanted.context_tokens}: in no stage does a layer see more keys; give fewer, or "
        f"{_PERPLEXITY}.form=official"
    ]


def cuts(schedule: Schedule, keys: int) -> bool:
    """Whether in some stage a token of some layer sees more than `keys` keys."""
    return any(
        spec.reach.limit is None or spec.reach.limit > keys
        for stage in schedule.stages
        for spec in schedule.at_end_of(stage).at.specs.values()
    )
