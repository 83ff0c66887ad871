"""Rules of generated sources beside the model and the stages."""

from data.generated.tasks import share_of_labels
from train.configuration.schema import RunConfig
from train.schedule.stages import Schedule


def id_problems(config: RunConfig) -> list[str]:
    """Returns which generated sources beside an embedded corpus have more ids than the model.

    Other runs compare the ids with `disagreements`; the end token of an embedded corpus may not be known yet.
    """
    found, rows = [], config.model.vocab_size
    for name, settings in config.data.generated.items() if config.data.corpus else ():
        most = rows - settings.first_id - 1
        if settings.ids > most and not settings.is_text:
            key = f"data.sources.{name}.generated"
            found.append(
                f"{key}.ids={settings.ids}: the model has {rows} ids (model.vocab_size), of which {max(0, most)} are "
                f"from first_id={settings.first_id} on beside the end token; give fewer ids, or a larger vocab_size"
            )
    return found


def generated_warnings(config: RunConfig, schedule: Schedule) -> list[str]:
    """Returns the warnings of generated sources: their own, and about documents that a stage cuts."""
    own = [
        f"data.sources.{name}.generated.{line}"
        for name, settings in config.data.generated.items()
        for line in settings.warnings()
    ]
    return own + _cut_warnings(config, schedule)


def _cut_warnings(config: RunConfig, schedule: Schedule) -> list[str]:
    """Warns of generated documents whose labels refer to tokens that a cut puts into another piece."""
    found = []
    for name, settings in config.data.generated.items():
        place = config.data.names.index(name)
        own = [stage for stage in schedule.stages if stage.shape.weights[place] > 0]
        shortest = min(own, key=lambda stage: stage.shape.sequence_length, default=None)
        if shortest is None or share_of_labels(settings, 1) == 1.0:
            continue
        length = shortest.shape.sequence_length
        if settings.max_length > length:
            found.append(
                f"data.sources.{name}.generated.max_length={settings.max_length}: stage {shortest.name} cuts documents"
                f" into pieces of at most {length} tokens, and a label may count whose answer stands in another piece;"
                f" give max_length={length} or less"
            )
    return found
