"""What a configuration means in the end: values that follow from others, written out.

They stand in `--print` and in the run's config.yaml, so that a run says what it did.
"""

from dataclasses import replace

from data.tokens.prefix import as_prefix
from train.configuration.schema import RunConfig
from train.schedule.saving import steps_between_checkpoints


def resolved(config: RunConfig) -> RunConfig:
    """The same run with a number of steps between checkpoints, and prefixes where files of a prefix are named."""
    checkpoint = replace(config.checkpoint, every_steps=steps_between_checkpoints(config))
    data = replace(
        config.data,
        sources={
            name: replace(source, prefix=as_prefix(source.prefix))
            for name, source in config.data.sources.items()
        },
        heldout=as_prefix(config.data.heldout),
    )
    return replace(config, checkpoint=checkpoint, data=data)
