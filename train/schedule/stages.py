"""The run's table of stages, resolved into functions of the tokens seen.

`Schedule.at(tokens_seen)` returns everything that changes over a run. It is a pure function without
state, so a resumed run gets the same values. `tokens_seen` counts stream tokens, padding included: a
stage of `tokens` takes ceil(tokens / batch_tokens) steps, whatever packing does.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby

from data.packing.document_rules import DocumentRules, Pose
from data.packing.mixture import mixture_weights
from data.packing.spans import BatchShape
from model.at_step import AtStep
from model.config import ModelConfig
from model.layer_pattern import expand_pattern
from parallel.config import ParallelConfig
from parallel.engine.groups import NO_GROUP, ORDINARY, GroupSettings
from train.configuration.schema import LearningRateConfig, RunConfig, StageConfig
from train.schedule import learning_rate, rope_base
from train.schedule.groups import stage_group_problems, stage_groups, untrained_stages
from train.schedule.kinds import StageKinds
from train.schedule.rope_base import BaseCurve

_STAGE_NAME = re.compile(r"[\w-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class Stage:
    """One resolved stage: tokens [start, end) of the run."""

    name: str
    index: int
    start: int
    num_steps: int
    shape: BatchShape
    base: BaseCurve
    # None: the learning rate of the run applies.
    learning_rate: LearningRateConfig | None
    # The run's layout with the overrides of this stage.
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    # What the stage changes in kinds of layers.
    kinds: StageKinds = field(default_factory=StageKinds)
    # How every group of parameters trains, by name; `NO_GROUP`: those of no group.
    groups: Mapping[str, GroupSettings] = field(default_factory=lambda: {NO_GROUP: ORDINARY})

    @property
    def frozen(self) -> frozenset[str]:
        """The groups whose parameters do not train."""
        return frozenset(name for name, group in self.groups.items() if group.frozen)

    @property
    def end(self) -> int:
        """Returns the tokens seen at the end of the stage."""
        return self.start + self.num_steps * self.shape.batch_tokens


@dataclass(frozen=True)
class Point:
    """Everything that the schedule decides about one step.

    model: the run's model with the settings of kinds at this step. lengths: lengths trained at so far, ascending; the
    last is this step's. Under PoSE the length is the one that positions reach.
    """

    stage: Stage
    learning_rate: float
    rope_base: float
    model: ModelConfig
    lengths: tuple[int, ...] = ()
    # See `BatchShape.windows`.
    windows: tuple[tuple[str, int], ...] = ()

    @property
    def keys_seen(self) -> dict[str, int]:
        """The most keys that a token of a kind of layer sees, of every kind whose window the stage sets."""
        length = self.stage.shape.sequence_length
        return {kind: keys or length for kind, keys in self.windows}

    @property
    def at(self) -> AtStep:
        """The settings of attention, for the model's forward."""
        return AtStep.of(self.model, self.rope_base, self.lengths)

    def at_length(self, length: int) -> AtStep:
        """The settings of attention for an evaluation at a sequence length."""
        shorter = (trained for trained in self.lengths if trained < length)
        return AtStep.of(self.model, self.rope_base, (*shorter, length))


@dataclass(frozen=True)
class Schedule:
    """All stages in order."""

    stages: tuple[Stage, ...]
    learning_rate: LearningRateConfig
    # The run's model, and the context length that it has before the first stage; 0: none.
    model: ModelConfig = field(default_factory=ModelConfig)
    start_length: int = 0

    @property
    def total_tokens(self) -> int:
        """Returns the stream tokens of the whole run."""
        return self.stages[-1].end

    def stage_at(self, tokens_seen: int) -> Stage:
        """Returns the stage of the step that starts at `tokens_seen`; after the end, the last stage."""
        for stage in self.stages:
            if tokens_seen < stage.end:
                return stage
        return self.stages[-1]

    def at(self, tokens_seen: int) -> Point:
        """Returns stage, learning rate and RoPE base of the step that starts at `tokens_seen`."""
        stage = self.stage_at(tokens_seen)
        drawn = tokens_seen + stage.shape.batch_tokens
        if stage.learning_rate is not None:
            span = stage.end - stage.start
            rate = learning_rate.learning_rate_at(stage.learning_rate, drawn - stage.start, span)
        else:
            rate = learning_rate.learning_rate_at(self.learning_rate, drawn, self.total_tokens)
        return Point(
            stage,
            rate,
            stage.base.at(tokens_seen - stage.start),
            stage.kinds.model_at(self.model, tokens_seen - stage.start),
            self._lengths(stage),
            stage.kinds.windows_at(self.model, tokens_seen - stage.start),
        )

    def at_end_of(self, stage: Stage) -> Point:
        """Returns what holds at the last step of a stage: the widest windows of its ramps."""
        return self.at(stage.end - stage.shape.batch_tokens)

    def _lengths(self, stage: Stage) -> tuple[int, ...]:
        """Returns the lengths trained at up to `stage`, ascending, each longer than those before."""
        before = [s.shape.position_length for s in self.stages[: stage.index]]
        here = stage.shape.position_length
        return (*sorted({n for n in (self.start_length, *before) if 0 < n < here}), here)

    def leg(self, tokens_seen: int) -> tuple[Stage, ...]:
        """Returns the consecutive stages around `tokens_seen` that share one layout and the parameters that train, and
        so one engine. The result is the same wherever among them a run starts."""
        here = self.stage_at(tokens_seen)
        for _, stages in groupby(self.stages, key=lambda stage: (stage.parallel, stage.frozen)):
            members = tuple(stages)
            if members[0].index <= here.index <= members[-1].index:
                return members
        raise AssertionError("every stage is in a group")

    def shapes(self, tokens_seen: int, until: int | None = None) -> Iterator[BatchShape]:
        """Yields the shape of every batch from `tokens_seen` to the end of the run, or to `until` tokens seen."""
        end = self.total_tokens if until is None else until
        while tokens_seen < end:
            stage = self.stage_at(tokens_seen)
            shape = stage.shape
            yield replace(
                shape, windows=stage.kinds.windows_at(self.model, tokens_seen - stage.start)
            )
            tokens_seen += shape.batch_tokens


def build_schedule(config: RunConfig) -> tuple[Schedule | None, list[str]]:
    """Returns the resolved schedule, or None and every mistake (with full keys)."""
    found: list[str] = []
    if not config.schedule.stages:
        return None, ["schedule.stages: a run needs at least one stage"]
    stages: list[Stage] = []
    for name, row in config.schedule.stages.items():
        mistakes = _name_problems(name)
        found += mistakes
        if not mistakes:
            stage, mistakes = _resolve(name, row, config, stages)
            found += mistakes
            if stage is not None:
                stages.append(stage)
    changes = {name: row.groups for name, row in config.schedule.stages.items()}
    found += untrained_stages(config.model, config.optimizer.groups, changes)
    if found:
        return None, found
    schedule = Schedule(
        tuple(stages),
        config.schedule.learning_rate,
        config.model,
        config.schedule.start_length,
    )
    if any(stage.learning_rate is None for stage in stages):
        found += learning_rate.problems(
            config.schedule.learning_rate, "schedule.learning_rate", schedule.total_tokens
        )
    return (None, found) if found else (schedule, [])


def rotary_reach(model: ModelConfig, sequence_length: int) -> int:
    """Returns the largest distance that a rotary layer of `model` sees in sequences of this length."""
    reaches = [
        min(spec.reach.limit or sequence_length, sequence_length)
        for spec in expand_pattern(model)
        if spec.rope is not None
    ]
    return max(reaches, default=1)


def rotary_width(model: ModelConfig) -> int:
    """Returns the width of the rotation of layers that follow the schedule's base; the widest if they differ."""
    ropes = [spec.rope for spec in expand_pattern(model) if spec.rope and not spec.rope.base]
    return max((rope.width(model.head_dim) for rope in ropes), default=model.head_dim)


def source_weights(config: RunConfig, mix: Mapping[str, float]) -> tuple[float, ...]:
    """Returns the weights of the sources, in their order: from a stage's mix or, if that is empty, from the sources.

    Raises:
        ValueError: the mix names an unknown source, or all weights are 0.
    """
    weights = {name: source.weight for name, source in config.data.sources.items()}
    base = {name: weights.get(name, 1.0) for name in config.data.names}
    return mixture_weights(tuple(base), mix or base)


def _resolve(
    name: str, row: StageConfig, config: RunConfig, before: list[Stage]
) -> tuple[Stage | None, list[str]]:
    key = f"schedule.stages.{name}"
    found: list[str] = []
    num_steps = row.num_steps
    tokens = num_steps * row.batch_tokens
    kinds = StageKinds(row.kinds, row.sequence_length, row.batch_tokens, tokens)
    found += kinds.problems(config.model, key)
    found += stage_group_problems(config.model, config.optimizer.groups, row.groups, key)
    if found:
        return None, found
    rules, mistakes = _document_rules(row, key)
    found += mistakes
    length = rules.pose.target_length if rules.pose else row.sequence_length
    facts = rope_base.StageFacts(
        tokens=tokens,
        sequence_length=length,
        head_dim=rotary_width(config.model),
        rotary_reach=rotary_reach(kinds.model_at(config.model, tokens), length),
        previous_base=before[-1].base.last if before else config.schedule.start_base or None,
        previous_length=(
            before[-1].shape.position_length if before else config.schedule.start_length or None
        ),
    )
    curve = None
    weights: tuple[float, ...] = ()
    try:
        curve = rope_base.base_curve(row.rope_base, facts)
    except ValueError as error:
        found.append(f"{key}.rope_base{error}")
    try:
        weights = source_weights(config, row.data)
    except ValueError as error:
        found.append(f"{key}.data: {error}")
    rate = _stage_rate(row.learning_rate)
    if rate is not None:
        found += learning_rate.problems(rate, f"{key}.learning_rate", facts.tokens)
    layout = row.layout(config.parallel)
    if row.parallel:  # else its problems are those of the run's layout, which are reported there
        found += [f"{key}.parallel: {problem}" for problem in layout.problems()]
    if found or curve is None:
        return None, found
    shape = BatchShape(
        row.sequence_length, row.batch_tokens, row.micro_batch_tokens, weights, rules
    )
    start = before[-1].end if before else 0
    groups = stage_groups(config.optimizer.groups, row.groups)
    return Stage(name, len(before), start, num_steps, shape, curve, rate, layout, kinds, groups), []


def _document_rules(row: StageConfig, key: str) -> tuple[DocumentRules, list[str]]:
    """Returns how a stage keeps documents apart, and every mistake."""
    if row.pose is None:
        return DocumentRules(row.document_mask, row.reset_positions), []
    found, length, pose = [], row.sequence_length, row.pose
    if pose.target_length < length:
        found.append(
            f"{key}.pose.target_length={pose.target_length}: must be at least sequence_length={length}; "
            "positions reach so far without skips"
        )
    if pose.chunks > length:
        found.append(
            f"{key}.pose.chunks={pose.chunks}: must be at most sequence_length={length}; a chunk has a token"
        )
    skips = Pose(pose.chunks, pose.target_length)
    return DocumentRules(row.document_mask, row.reset_positions, skips), found


def _stage_rate(value: float | LearningRateConfig | None) -> LearningRateConfig | None:
    """Returns a stage's own learning rate; None if it sets none."""
    return LearningRateConfig(shape="constant", peak=value) if isinstance(value, float) else value


def _name_problems(name: str) -> list[str]:
    if _STAGE_NAME.fullmatch(name):
        return []
    return [
        f"schedule.stages: {name!r} is no name for a stage, files are called after it; use up to 64 letters, digits, "
        "_ and -"
    ]
