"""Implements `model=from_huggingface`: takes the model of the checkpoint that the run starts from."""

import dataclasses
from pathlib import Path
from typing import Any

from train.checkpointing.locate import locate
from train.checkpointing.state import read_state
from train.configuration.typed_model import typed_model
from train.schedule.rope_base import scheduled_base

# The key of conf/model/from_huggingface.yaml, which the keys of the model replace.
MARK = "from_checkpoint"


def imported_model(checkpoint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the keys of `model`, and the keys of `schedule` with the model's base and context length.

    Raises:
        ValueError: no checkpoint is named, or the named path is no checkpoint.
    """
    if checkpoint in ("", "auto", "never"):
        raise ValueError(
            "takes the model of a checkpoint; give checkpoint.resume=DIR, a run's folder or one that "
            "`ropewalk import` made"
        )
    try:
        folder = locate(Path(checkpoint))
    except ValueError as error:
        raise ValueError(f"checkpoint.resume={error}") from error
    state = read_state(folder)
    model = typed_model(state.model)
    start = {
        "start_base": scheduled_base(model, state.rope_base),
        "start_length": state.context_length,
    }
    return dataclasses.asdict(model), start
