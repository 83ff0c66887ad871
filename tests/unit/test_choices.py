"""The names of a choice stand at its field; every table that says what they mean has exactly these names."""

from collections.abc import Iterable
from typing import Any, get_args

import pytest

from model.attention.backends import BACKENDS
from model.attention.core import IMPLEMENTATIONS
from model.attention.gate import GATES as OUTPUT_GATES
from model.block import BLOCKS
from model.config import HALVES, ModelConfig
from model.feed_forward.dense import GATES
from model.layer_pattern import LAYER_KINDS, KindConfig
from model.norm import NORMS
from model.recompute import RUNNERS
from parallel.config import OptimizerConfig, ParallelConfig
from parallel.engine.optimizers import OPTIMIZERS
from parallel.engine.settings import DTYPES
from parallel.pipeline.placement import STAGES_PER_RANK
from parallel.pipeline.schedule import SCHEDULES
from parallel.sequence.dealing import DEALINGS
from train.configuration.schema import DerivedBase, TrainConfig
from train.configuration.typed import field_types
from train.schedule.rope_base import DERIVED


def choices(schema: Any, name: str) -> set[str]:
    return set(get_args(field_types(schema)[name]))


@pytest.mark.parametrize(
    ("schema", "name", "table"),
    [
        (ModelConfig, "block", BLOCKS),
        (ModelConfig, "block", HALVES),
        (ModelConfig, "norm", NORMS),
        (ModelConfig, "activation", GATES),
        (ModelConfig, "gate", ["none", *OUTPUT_GATES]),
        (ModelConfig, "attention_backend", ["auto", *BACKENDS]),
        (ModelConfig, "attention_backend", ["auto", *(each.backend.name for each in IMPLEMENTATIONS)]),
        (KindConfig, "like", ["", *LAYER_KINDS]),
        (ParallelConfig, "pipeline_schedule", SCHEDULES),
        (ParallelConfig, "pipeline_schedule", STAGES_PER_RANK),
        (ParallelConfig, "sequence_layout", DEALINGS),
        (OptimizerConfig, "name", OPTIMIZERS),
        (TrainConfig, "precision", DTYPES),
        (TrainConfig, "keep_for_backward", RUNNERS),
        (DerivedBase, "policy", DERIVED),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_table_has_the_names_of_its_field(schema: Any, name: str, table: Iterable[str]) -> None:
    assert set(table) == choices(schema, name)
