"""Layouts that the parity tests run: a pairwise covering array over everything that may interact.

Every pair of values of two factors that is possible at all on at most eight processes stands in at least
one case; `test_layouts.py` proves it by enumeration. Twenty-odd cases instead of two thousand.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product

from data.packing.document_rules import BY_DOCUMENT, DocumentRules, Pose
from model.config import ModelConfig
from model.position.rope import Rope
from model.position.scales.drope import DropeScale
from model.position.scales.swan import SwanScale
from parallel.config import ParallelConfig
from parallel.pipeline.split import pipeline_problems
from tests.parity.layout_models import FORMS, MODELS, TOKENS
from train.configuration.schema import StageKindConfig, WindowRamp
from train.schedule.kinds import StageKinds

MOST_RANKS = 8
# How documents of a stream are kept apart.
RULES = {
    "by document": BY_DOCUMENT,
    "rows": DocumentRules(document_mask=False, reset_positions=False),
    "positions of rows": DocumentRules(reset_positions=False),
    "pose": DocumentRules(pose=Pose(chunks=3, target_length=300)),
    "pose over rows": DocumentRules(document_mask=False, pose=Pose(chunks=2, target_length=500)),
}

# What a stage of the schedule changes: windows of all kinds, also of those without one in the model; rotations, scales.
STAGES = {
    "": StageKinds(),
    "ladder": StageKinds(
        {
            "near": StageKindConfig(window=9, position="none"),
            "full_nope": StageKindConfig(
                window=WindowRamp(start=30), position_scale=SwanScale(6.0)
            ),
            "wide": StageKindConfig(rope=Rope(base=99.0)),
            "part": StageKindConfig(window=7),
        },
        TOKENS,
    ),
    "dropped": StageKinds(
        {
            "window_rope": StageKindConfig(window=12, position="none"),
            "full_rope": StageKindConfig(
                position="none", position_scale=DropeScale(trained_length=24)
            ),
        },
        TOKENS,
    ),
}


@dataclass(frozen=True)
class Case:
    """One layout of one model. `schedule` and `dealing` are "-" where their axis has one rank."""

    tensor: int
    pipeline: int
    sequence: int
    data: int
    schedule: str
    dealing: str
    # On every data rank.
    micro_batches: int
    model: str
    keep: str
    # Of RULES.
    rules: str = "by document"
    # Of STAGES.
    stage: str = ""

    @property
    def at_stage(self) -> ModelConfig:
        """Its model with the settings of its stage."""
        return STAGES[self.stage].model_at(self.config, 0)

    @property
    def windows(self) -> tuple[tuple[str, int], ...]:
        """The windows that its stage sets."""
        return STAGES[self.stage].windows_at(self.config, 0)

    @property
    def ranks(self) -> int:
        """Processes."""
        return self.tensor * self.pipeline * self.sequence * self.data

    def parallel(self, zero_stage: int = 1) -> ParallelConfig:
        """As a configuration says it."""
        named = {} if self.schedule == "-" else {"pipeline_schedule": self.schedule}
        if self.dealing != "-":
            named["sequence_layout"] = self.dealing
        return ParallelConfig(
            tensor=self.tensor,
            pipeline=self.pipeline,
            sequence=self.sequence,
            zero_stage=zero_stage,
            **named,
        )

    @property
    def config(self) -> ModelConfig:
        """Of its model."""
        return {**MODELS, **FORMS}[self.model]

    @property
    def is_possible(self) -> bool:
        """Whether the case fits the processes and breaks no rule."""
        if not 2 <= self.ranks <= MOST_RANKS:
            return False
        if (self.pipeline == 1) != (self.schedule == "-"):
            return False
        if (self.sequence == 1) != (self.dealing == "-"):
            return False
        return self.pipeline == 1 or not pipeline_problems(
            self.config,
            self.parallel(),
            micro_batches=self.micro_batches,
            keep_for_backward=self.keep,
        )


FACTORS: dict[str, tuple[object, ...]] = {
    "tensor": (1, 2, 4),
    "pipeline": (1, 2, 4),
    "sequence": (1, 2, 3, 4),
    "data": (1, 2),
    "schedule": ("-", "1f1b", "interleaved_1f1b", "zbv"),
    "dealing": ("-", "contiguous", "zigzag", "balanced"),
    "micro_batches": (1, 2, 4),
    "model": tuple(MODELS),
    "keep": ("everything", "input"),
}
Pair = tuple[str, object, str, object]


def possible_cases() -> list[Case]:
    """Every combination of factors that is possible."""
    combined = (Case(*values) for values in product(*FACTORS.values()))  # type: ignore[arg-type]
    return [case for case in combined if case.is_possible]


def pairs(case: Case) -> Iterator[Pair]:
    """The pairs of values that a case holds."""
    values = [(name, getattr(case, name)) for name in FACTORS]
    return ((a, x, b, y) for (a, x), (b, y) in combinations(values, 2))


# tensor, pipeline, sequence, data, schedule, dealing, micro-batches, model, keep
CASES: tuple[Case, ...] = (
    Case(1, 1, 3, 2, "-", "zigzag", 4, "llama", "everything"),
    Case(1, 2, 3, 1, "1f1b", "balanced", 2, "llama", "everything"),
    Case(1, 2, 3, 1, "interleaved_1f1b", "contiguous", 1, "cohere", "input"),
    Case(1, 2, 3, 1, "zbv", "contiguous", 1, "llama", "everything"),
    Case(2, 1, 3, 1, "-", "zigzag", 1, "llama", "everything"),
    Case(1, 1, 4, 2, "-", "balanced", 1, "cohere", "input"),
    Case(1, 2, 2, 2, "interleaved_1f1b", "contiguous", 1, "cohere", "input"),
    Case(1, 2, 4, 1, "1f1b", "zigzag", 2, "cohere", "input"),
    Case(1, 2, 4, 1, "interleaved_1f1b", "balanced", 1, "cohere", "input"),
    Case(1, 2, 4, 1, "zbv", "zigzag", 2, "cohere", "everything"),
    Case(1, 4, 1, 2, "zbv", "-", 1, "llama", "everything"),
    Case(1, 4, 2, 1, "1f1b", "contiguous", 4, "cohere", "input"),
    Case(1, 4, 2, 1, "interleaved_1f1b", "balanced", 1, "llama", "everything"),
    Case(1, 4, 2, 1, "interleaved_1f1b", "zigzag", 1, "cohere", "input"),
    Case(2, 1, 4, 1, "-", "contiguous", 4, "llama", "input"),
    Case(2, 2, 1, 2, "1f1b", "-", 2, "llama", "input"),
    Case(2, 2, 2, 1, "zbv", "balanced", 4, "cohere", "everything"),
    Case(2, 4, 1, 1, "interleaved_1f1b", "-", 2, "cohere", "everything"),
    Case(4, 1, 1, 2, "-", "-", 1, "cohere", "everything"),
    Case(4, 1, 2, 1, "-", "balanced", 1, "cohere", "input"),
    Case(4, 1, 2, 1, "-", "contiguous", 2, "llama", "everything"),
    Case(4, 1, 2, 1, "-", "zigzag", 1, "llama", "everything"),
    Case(4, 2, 1, 1, "1f1b", "-", 2, "llama", "input"),
    Case(4, 2, 1, 1, "interleaved_1f1b", "-", 4, "cohere", "input"),
    Case(4, 2, 1, 1, "zbv", "-", 1, "llama", "everything"),
)
# `make test` runs these: every value of every factor, on as few ranks as there are. All pairs: `make test-all`.
FIRST_CASES = tuple(
    case
    for case in CASES
    if case.ranks <= 6
    or case
    in (
        Case(1, 1, 4, 2, "-", "balanced", 1, "cohere", "input"),
        Case(2, 4, 1, 1, "interleaved_1f1b", "-", 2, "cohere", "everything"),
        Case(4, 1, 2, 1, "-", "balanced", 1, "cohere", "input"),
    )
)
# Beyond the pairs: attention that is kept while the rest is recomputed, where keys arrive by ring and by exchange.
KEPT_ATTENTION = (
    Case(1, 1, 4, 1, "-", "balanced", 1, "cohere", "attention"),
    Case(2, 2, 2, 1, "1f1b", "zigzag", 2, "llama", "attention"),
)
# Beyond the pairs: the rules by which documents are kept apart, on every axis.
RULE_CASES = (
    Case(1, 1, 2, 1, "-", "zigzag", 2, "llama", "everything", "rows"),
    Case(1, 1, 2, 1, "-", "balanced", 1, "cohere", "everything", "pose over rows"),
    Case(1, 2, 1, 1, "1f1b", "-", 2, "llama", "everything", "positions of rows"),
    Case(1, 2, 1, 1, "1f1b", "-", 2, "cohere", "everything", "pose over rows"),
    Case(2, 1, 1, 1, "-", "-", 1, "llama", "input", "rows"),
    Case(2, 1, 1, 1, "-", "-", 2, "cohere", "everything", "pose"),
)
# Beyond the pairs: settings of attention that a stage changes, on every axis.
STAGE_CASES = (
    Case(1, 1, 2, 1, "-", "zigzag", 2, "cohere", "everything", stage="ladder"),
    Case(1, 1, 2, 1, "-", "contiguous", 1, "cohere", "attention", stage="ladder"),
    Case(1, 1, 2, 1, "-", "balanced", 2, "llama", "input", stage="dropped"),
    Case(1, 2, 1, 1, "1f1b", "-", 2, "llama", "everything", stage="dropped"),
    Case(2, 1, 1, 1, "-", "-", 1, "cohere", "input", stage="ladder"),
)
# With all dealings, and three ranks.
MORE_STAGE_CASES = tuple(
    Case(tensor, 1, sequence, 1, "-", dealing, 4, model, keep, stage=stage)
    for dealing in ("contiguous", "zigzag", "balanced")
    for keep in ("everything", "attention")
    for model, stage in (("cohere", "ladder"), ("llama", "dropped"))
    for tensor, sequence in ((1, 2), (1, 3), (1, 4), (2, 2))
) + tuple(
    Case(tensor, 2, sequence, 1, schedule, dealing, 4, model, "everything", stage=stage)
    for schedule in ("1f1b", "interleaved_1f1b", "zbv")
    for tensor, sequence, dealing in ((2, 1, "-"), (1, 2, "balanced"))
    for model, stage in (("cohere", "ladder"), ("llama", "dropped"))
)
# With all dealings, and three ranks.
MORE_RULE_CASES = tuple(
    Case(tensor, 1, sequence, 1, "-", dealing, 4, model, "everything", rules)
    for rules in RULES
    if rules != "by document"
    for dealing in ("contiguous", "zigzag", "balanced")
    for tensor, sequence, model in ((1, 2, "cohere"), (1, 3, "llama"), (2, 2, "cohere"))
)
