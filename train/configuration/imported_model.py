"""What `model=from_huggingface` stands for: the model of the checkpoint that the run starts from."""

import dataclasses
from pathlib import Path
from typing import Any

from train.checkpointing.locate import locate
from train.checkpointing.state import read_state
from train.configuration.typed_model import typed_model
from train.schedule.rope_base import scheduled_base

# The key of conf/model/from_huggingface.yaml; it is gone once the model has taken its place.
MARK = "from_checkpoint"


def imported_model(checkpoint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keys of `model`, and those of `schedule` that say where its stages begin.

    Raises:
        ValueError: no checkpoint is named, or what is named is none.
    """
    if checkpoint in ("", "auto", "never"):
        raise ValueError(
            "takes the model of a checkpoint; give checkpoint.resume=DIR, a run's folder or one that "
            "`ropewalk import` made"
        )
    state = read_state(locate(Path(checkpoint)))
    model = typed_model(state.model)
    start = {
        "start_base": scheduled_base(model, state.rope_base),
        "start_length": state.context_length,
    }
    return dataclasses.asdict(model), start
