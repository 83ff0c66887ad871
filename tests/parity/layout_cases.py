"""Layouts that the parity tests run: a pairwise covering array over everything that may interact.

Every pair of values of two factors that is possible at all on at most eight processes stands in at least
one case; `test_layouts.py` proves it by enumeration. Twenty-odd cases instead of two thousand.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, product

from data.packing.document_rules import BY_DOCUMENT, DocumentRules, Pose
from model.config import ModelConfig
from model.layer_pattern import KindConfig
from model.position.dynamic_ntk import DynamicNtkRope
from model.position.linear import LinearRope
from model.position.longrope import LongRope
from model.position.rope import Rope
from model.position.scales.drope import DropeScale
from model.position.scales.llama4 import Llama4Scale
from model.position.scales.ssmax import SsmaxScale
from model.position.scales.swan import SwanScale
from model.position.yarn import YarnRope
from parallel.config import ParallelConfig
from parallel.pipeline.split import pipeline_problems
from train.configuration.schema import StageKindConfig, WindowRamp
from train.schedule.kinds import StageKinds

MOST_RANKS = 8
TOKENS = 96

_SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 4,
    "head_dim": 8,
    "vocab_size": 40,
    "attention_backend": "dense",
}
# Seven layers: two, four and eight stages do not divide them, and the last one is windowed. In `cohere`
# four tensor ranks share two key heads, and there are two kinds of windowed layers, each with a rotation of its own,
# and one in attention chunks whose borders are no borders of ranks.
# `llama` has one key head, a window larger than a rank's share, and what
# imported models bring: norms on both sides and over all heads, biases, caps, scaling by kind of layer.
MODELS = {
    "cohere": ModelConfig(
        **_SHAPE,
        num_layers=7,
        num_kv_heads=2,
        layer_pattern=["near", "full_nope", "wide", "part"],
        kinds={
            "near": KindConfig(like="window_rope", window=5),
            "wide": KindConfig(like="window_rope", window=17, rope=LinearRope(factor=2.0)),
            "part": KindConfig(like="chunk_rope", chunk=20),
        },
    ),
    "llama": ModelConfig(
        **_SHAPE,
        num_layers=7,
        num_kv_heads=1,
        window=40,
        layer_pattern=["window_rope", "full_rope"],
        block="sequential",
        norm="rmsnorm",
        norm_at="both",
        qk_norm=True,
        qk_norm_over="projection",
        qkv_bias=True,
        output_bias=True,
        feed_forward_bias=True,
        attention_softcap=2.0,
        logit_softcap=3.0,
        query_scale=1.5,
        embedding_scale=4.0,
        kinds={
            "window_rope": KindConfig(rope=Rope(base=500.0)),
            "full_rope": KindConfig(rope=YarnRope(factor=2.0, original_length=48)),
        },
        tie_embeddings=False,
        logit_scale=0.5,
    ),
}
# Rotations of models below: a part of the head with whole wavelengths; methods that read the length of the streams.
HALF = Rope(rotary_share=0.5, resonance=True)
LONG = LongRope(
    factor=2.0,
    original_length=TOKENS // 2,
    short_factors=[1.0] * 4,
    long_factors=[1.0, 1.5, 2.0, 2.5],
    unscaled_tokens=3,
)
PAPER = YarnRope(
    factor=2.0, original_length=48, ramp="paper", rotary_share=0.75, resonance=True, base=1e4
)
# Their cases are in `test_attention_forms.py`: layers with a form of attention beside layers without it.
FORMS = {
    "gated": replace(
        MODELS["cohere"],
        sinks=True,
        gate="sigmoid",
        gate_over="channel",
        kinds={
            "near": KindConfig(
                like="window_rope", window=5, gate="softplus", gate_over="head", value_scale=0.7
            ),
            "wide": KindConfig(
                like="window_rope",
                window=17,
                sinks=False,
                gate="none",
                qk_norm=True,
                qk_norm_at="after",
                qk_norm_weight=False,
            ),
            "part": KindConfig(like="chunk_rope", chunk=20),
        },
    ),
    "normed": replace(
        MODELS["llama"],
        gate="sigmoid",
        kinds={
            "window_rope": KindConfig(qk_norm_at="after", value_scale=0.7),
            "full_rope": KindConfig(
                rope=MODELS["llama"].kinds["full_rope"].rope,
                qk_norm_weight=False,
                gate="softplus",
                gate_over="channel",
            ),
        },
    ),
    "scaled": replace(
        MODELS["cohere"],
        kinds={
            "near": KindConfig(like="window_rope", window=5, position_scale=SsmaxScale(0.6)),
            "full_nope": KindConfig(position_scale=SsmaxScale(0.4)),
            "wide": KindConfig(like="window_rope", window=17, position_scale=Llama4Scale(0.5, 8)),
            "part": KindConfig(like="chunk_rope", chunk=20, position_scale=SsmaxScale(0.7)),
        },
    ),
    "turned": replace(
        MODELS["cohere"],
        kinds={
            "near": KindConfig(like="window_rope", window=5, rope=HALF),
            "wide": KindConfig(like="window_rope", window=17, rope=LONG),
            "part": KindConfig(
                like="chunk_rope", chunk=20, rope=replace(HALF, partial="proportional")
            ),
        },
    ),
    "turned_llama": replace(
        MODELS["llama"],
        kinds={
            "window_rope": KindConfig(rope=PAPER),
            "full_rope": KindConfig(rope=DynamicNtkRope(original_length=48)),
        },
    ),
    "scaled_llama": replace(
        MODELS["llama"],
        kinds={
            "window_rope": KindConfig(position_scale=SwanScale(6.0)),
            "full_rope": KindConfig(position_scale=SsmaxScale(0.5)),
        },
    ),
}
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
)
# With all dealings, and three ranks.
MORE_RULE_CASES = tuple(
    Case(tensor, 1, sequence, 1, "-", dealing, 4, model, "everything", rules)
    for rules in RULES
    if rules != "by document"
    for dealing in ("contiguous", "zigzag", "balanced")
    for tensor, sequence, model in ((1, 2, "cohere"), (1, 3, "llama"), (2, 2, "cohere"))
)
