"""Replaces values of a configuration that follow from others by the values themselves.

`--print` and the run's config.yaml show them, so config.yaml records what the run did.
"""

from dataclasses import replace

from data.tokens.prefix import as_prefix
from train.configuration.schema import RunConfig
from train.schedule.saving import steps_between_checkpoints


def resolved(config: RunConfig) -> RunConfig:
    """Returns the run with `auto` replaced by a number of steps, and names of token files by their prefixes."""
    checkpoint = replace(config.checkpoint, every_steps=steps_between_checkpoints(config))
    data = replace(
        config.data,
        sources={
            name: replace(
                source, prefix=as_prefix(source.prefix), heldout=as_prefix(source.heldout)
            )
            for name, source in config.data.sources.items()
        },
        heldout=as_prefix(config.data.heldout),
    )
    return replace(config, checkpoint=checkpoint, data=data)
