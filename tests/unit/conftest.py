"""Fixtures that several files of unit tests use."""

from dataclasses import asdict
from pathlib import Path

import pytest

from data.files import seal
from model.config import ModelConfig
from train.checkpointing.state import FORMAT, RunState


@pytest.fixture
def imported(tmp_path: Path) -> str:
    """A checkpoint as `python -m train.import_huggingface` makes it, as far as `model=from_huggingface` looks at it."""
    state = RunState(
        model={**asdict(ModelConfig()), "layer_pattern": ["full_rope"], "num_heads": 2},
        rope_base={"full": 500_000.0},
        context_length=8192,
    )
    (tmp_path / "state.json").write_bytes(seal({"format": FORMAT, **asdict(state)}))
    return str(tmp_path)
