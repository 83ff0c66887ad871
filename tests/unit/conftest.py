"""Fixtures that several files of unit tests use."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from data.files import seal
from data.tokens import manifest
from data.tokens.prefix import bin_path, idx_path, manifest_path
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


@pytest.fixture
def declare() -> Callable[..., str]:
    """Makes token files of which nothing but the manifest can be read, for what is judged without a look at tokens.

    Called with a prefix and what the manifest shall declare instead of the usual; returns the prefix.
    """

    def write(prefix: Path, **changes: Any) -> str:
        facts = {
            "format": manifest.FORMAT,
            "version": manifest.VERSION,
            "vocab_size": 300,
            "eos_id": 2,
        }
        facts |= {"tokenizer": {"sha256": ""}, "files": {"bin": {"sha256": prefix.name}}}
        bin_path(prefix).touch()
        idx_path(prefix).touch()
        manifest_path(prefix).write_bytes(seal(facts | changes))
        return str(prefix)

    return write
