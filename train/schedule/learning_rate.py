"""Learning rate as a pure function of tokens seen.

    constant  peak after the warm-up
    linear    straight from peak to final
    cosine    half a cosine from peak to final
    wsd       peak until the last decay_tokens, then straight to final (arXiv 2404.06395, section 4)

Every shape starts with a linear rise from zero over `warmup_tokens`. The rate of a step is taken at the
tokens seen including the batch of the step, so the first step does not have rate zero.
"""

import math

from train.configuration.schema import LearningRateConfig


def learning_rate_at(config: LearningRateConfig, tokens: int, span: int) -> float:
    """Returns the rate after `tokens` of the `span` tokens that `config` covers (0 <= tokens <= span)."""
    if tokens < config.warmup_tokens:
        return config.peak * tokens / config.warmup_tokens
    if config.shape == "constant":
        return config.peak
    return config.final + (config.peak - config.final) * _height(config, tokens, span)


def _height(config: LearningRateConfig, tokens: int, span: int) -> float:
    """Returns the position between final (0) and peak (1)."""
    left = span - tokens
    if config.shape == "wsd":
        return min(1.0, max(0.0, left / config.decay_tokens)) if config.decay_tokens else 1.0
    falling = max(1, span - config.warmup_tokens)
    share_left = min(1.0, max(0.0, left / falling))
    if config.shape == "linear":
        return share_left
    return 0.5 * (1.0 - math.cos(math.pi * share_left))


def problems(config: LearningRateConfig, key: str, span: int) -> list[str]:
    """Returns the broken rules between the fields of `config`, whose key is `key` and which covers `span` tokens."""
    found = []
    if config.shape != "constant" and config.final > config.peak:
        found.append(f"{key}.final={config.final}: must not exceed {key}.peak={config.peak}")
    if config.shape == "wsd" and config.decay_tokens == 0:
        found.append(f"{key}.decay_tokens=0: shape=wsd needs a fall; give its tokens")
    taken = config.warmup_tokens + (config.decay_tokens if config.shape == "wsd" else 0)
    if taken > span:
        found.append(
            f"{key}: warmup_tokens + decay_tokens = {taken} "
            f"exceed the {span} tokens it covers; shorten them, or give the span more tokens"
        )
    return found
