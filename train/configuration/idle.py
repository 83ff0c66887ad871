"""Settings without effect: the condition under which a key matters, and the message if the condition does not hold.

A setting without effect is reported as a mistake if it stands on the command line, in an experiment or in a file of
the user's own. It is not reported if only the command line makes a value of a file idle
(`experiment=quickstart evaluation.enabled=false`), if a preset of another group sets it (`model.window` of model=8b
under recipe=full_rope), or if the value is the default.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from model.layer_pattern import (
    OVERRIDES,
    LayerSpec,
    expand_pattern,
    uses_model_chunk,
)
from model.overrides import is_inherited
from parallel.config import ParallelConfig
from train.configuration.idle_evaluation import EVALUATION_ROWS
from train.configuration.idle_groups import group_matters, trains
from train.configuration.idle_kinds import (
    follows_base,
    goes_on,
    keeps,
    some_stage_has_model_window,
)
from train.configuration.idle_row import Row
from train.configuration.keys import field_at
from train.configuration.schema import (
    DerivedBase,
    LearningRateConfig,
    RopeBase,
    RunConfig,
)
from train.configuration.typed import default_of, plain
from train.configuration.wording import shown
from train.schedule.kinds import StageKinds


def idle_settings(run: RunConfig, given: Mapping[str, Any]) -> list[str]:
    """Returns one line for each of the `given` values (by key) that has no effect in this run."""
    found: dict[str, str] = {}
    for key, value in given.items():
        if _is_default(key, value) or not _is_in(run, key):
            continue
        for row in ROWS:
            match = row.match(key)
            if match and not row.matters(run, match[1]):
                at = match[0]
                says = f"{at}={shown(value)}" if at == key else at
                found.setdefault(at, f"{says}: has no effect {row.otherwise}")
    return list(found.values())


def flat(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every single value of nested mappings with its key."""
    if isinstance(values, Mapping) and (values or not key):
        for name, inner in values.items():
            yield from flat(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, values


def _is_in(run: RunConfig, key: str) -> bool:
    """Whether the run has the stage that a key belongs to: a stage with wrong settings was left out."""
    group, part, stage, *_ = [*key.split("."), "", ""]
    return (group, part) != ("schedule", "stages") or stage in ("", *run.schedule.stages)


def _is_default(key: str, value: Any) -> bool:
    key = re.sub(r"^schedule\.stages\.[^.]+\.parallel\.", "parallel.", key)
    field = field_at(key.split("."))
    return field is not None and plain(default_of(field)) == value


def _layouts(run: RunConfig) -> Iterator[ParallelConfig]:
    """Yields the layout of every stage."""
    return (_layout(run, name) for name in run.schedule.stages)


def _layout(run: RunConfig, stage: str) -> ParallelConfig:
    return run.schedule.stages[stage].layout(run.parallel)


def _mixes(run: RunConfig, mix: Mapping[str, float]) -> bool:
    """Whether there are several sources to mix, or the mix names an unknown source, which is reported elsewhere."""
    known = set(run.data.names)
    return len(known) > 1 or not set(mix) <= known


def _set_by_stages(setting: str) -> Row:
    """The row of a setting of a kind of layer that every stage may replace."""
    return Row(
        (f"model.kinds.NAME.{setting}",),
        lambda run, kind: any(keeps(row, kind, setting) for row in run.schedule.stages.values()),
        "where every stage sets it; drop it",
    )


def _reads_positions(run: RunConfig, stage: str) -> bool:
    """Whether some layer reads positions in this stage."""
    if run.model.problems():
        return True
    row = run.schedule.stages[stage]
    model = StageKinds(row.kinds, row.batch_tokens, row.tokens).model_at(run.model, 0)
    return any(
        spec.rope is not None
        or (spec.position_scale is not None and spec.position_scale.reads_positions)
        for spec in expand_pattern(model)
    )


def _some_layer(run: RunConfig, has: Callable[[LayerSpec], bool]) -> bool:
    return bool(run.model.problems()) or any(map(has, expand_pattern(run.model)))


def _is_inherited(run: RunConfig, _: str, *, field: str) -> bool:
    return bool(run.model.problems()) or is_inherited(run.model, field)


def _first_base(run: RunConfig) -> RopeBase | None:
    return next((stage.rope_base for stage in run.schedule.stages.values()), None)


def _begins_at_base(run: RunConfig) -> bool:
    """Whether the first stage's base depends on `schedule.start_base`."""
    return goes_on(_first_base(run))


def _begins_at_length(run: RunConfig) -> bool:
    base = _first_base(run)
    return isinstance(base, DerivedBase) and base.policy == "ntk"


def _rate(run: RunConfig, stage: str) -> LearningRateConfig:
    """Returns the learning rate of a stage; of the run if `stage` is empty."""
    rate = run.schedule.stages[stage].learning_rate if stage else run.schedule.learning_rate
    return rate if isinstance(rate, LearningRateConfig) else LearningRateConfig(shape="constant")


ROWS = (
    Row(
        ("data.look_ahead",),
        lambda run, _: run.data.packing == "best_fit",
        "with data.packing=concat, which takes documents as they come; drop it",
    ),
    Row(
        ("data.workers", "paths.prepared"),
        lambda run, _: bool(run.data.corpus),
        "without data.corpus: only an embedded corpus is tokenised by the run; drop it",
    ),
    Row(
        ("data.end_id", "data.bos_id"),
        lambda run, _: not run.data.has_files,
        "where token files give the end token and the BOS token; drop it",
    ),
    Row(
        ("data.full_check",),
        lambda run, _: run.data.has_files,
        "without token files; drop it",
    ),
    Row(
        ("data.sources.NAME.generated.heldout",),
        lambda run, _: run.evaluation.enabled,
        "with evaluation.enabled=false; drop it",
    ),
    Row(
        ("data.sources.NAME.weight",),
        lambda run, _: (
            len(run.data.names) > 1
            and not all(stage.data for stage in run.schedule.stages.values())
        ),
        "where there is one source, or every stage has its own mix; drop it",
    ),
    Row(
        ("schedule.stages.NAME.data",),
        lambda run, stage: _mixes(run, run.schedule.stages[stage].data),
        "where there is one source; drop it",
    ),
    Row(
        ("model.window",),
        lambda run, _: bool(run.model.problems()) or some_stage_has_model_window(run),
        "where no layer of model.layer_pattern has this window; drop it, or use recipe=rnope_swa",
    ),
    *map(_set_by_stages, ("window", "rope", "position", "position_scale")),
    Row(
        ("model.chunk",),
        lambda run, _: bool(run.model.problems()) or uses_model_chunk(run.model),
        "where no layer of model.layer_pattern has these chunks; drop it, or name chunk_rope in the pattern",
    ),
    Row(
        ("model.qk_norm_over",),
        lambda run, _: _some_layer(
            run,
            lambda spec: (
                spec.qk_norm and (spec.qk_norm_weight or run.model.qk_norm_over != "each_head")
            ),
        ),
        "without a norm, or without a weight where every head has its own; set model.qk_norm=true, or drop it",
    ),
    *(
        Row(
            (f"model.{field}",),
            partial(_is_inherited, field=field),
            "where no kind of layer takes the model's value or reads it; drop it",
        )
        for field in OVERRIDES
    ),
    Row(
        ("schedule.stages.NAME.rope_base",),
        follows_base,
        "where no layer rotates by the schedule's base; drop it",
    ),
    Row(
        ("schedule.stages.NAME.reset_positions", "schedule.stages.NAME.pose"),
        _reads_positions,
        "where no layer of this stage reads positions; drop it",
    ),
    Row(
        ("schedule.start_base",),
        lambda run, _: _begins_at_base(run),
        "where the first stage's rope_base is not keep, ntk or a ramp without start; drop it",
    ),
    Row(
        ("schedule.start_length",),
        lambda run, _: _begins_at_length(run),
        "where the first stage's rope_base is not ntk; drop it",
    ),
    Row(
        ("schedule.learning_rate.NAME",),
        lambda run, _: any(s.learning_rate is None for s in run.schedule.stages.values()),
        "where every stage has a learning rate of its own; change schedule.stages.NAME.learning_rate",
    ),
    Row(
        ("schedule.learning_rate.final", "schedule.stages.NAME.learning_rate.final"),
        lambda run, stage: _rate(run, stage).shape != "constant",
        "with shape=constant; leave it out",
    ),
    Row(
        ("schedule.learning_rate.decay_tokens", "schedule.stages.NAME.learning_rate.decay_tokens"),
        lambda run, stage: _rate(run, stage).shape == "wsd",
        "with another shape than wsd; use shape=wsd, or leave it out",
    ),
    Row(
        ("parallel.pipeline_schedule",),
        lambda run, _: any(layout.pipeline > 1 for layout in _layouts(run)),
        "with parallel.pipeline=1; drop it",
    ),
    Row(
        ("parallel.sequence_layout",),
        lambda run, _: any(layout.sequence > 1 for layout in _layouts(run)),
        "with parallel.sequence=1; drop it",
    ),
    Row(
        ("parallel.bucket_elements",),
        lambda run, _: any(layout.zero_stage > 0 for layout in _layouts(run)),
        "with parallel.zero_stage=0; drop it",
    ),
    Row(
        ("schedule.stages.NAME.parallel.pipeline_schedule",),
        lambda run, stage: _layout(run, stage).pipeline > 1,
        "where this stage has pipeline=1; drop it",
    ),
    Row(
        ("schedule.stages.NAME.parallel.sequence_layout",),
        lambda run, stage: _layout(run, stage).sequence > 1,
        "where this stage has sequence=1; drop it",
    ),
    Row(
        ("schedule.stages.NAME.parallel.bucket_elements",),
        lambda run, stage: _layout(run, stage).zero_stage > 0,
        "where this stage has zero_stage=0; drop it",
    ),
    Row(
        ("parallel.timeouts.NAME",),
        lambda run, axis: any(getattr(layout, axis, 2) > 1 for layout in _layouts(run)),
        "where no stage has this axis; drop it",
    ),
    Row(
        ("optimizer.groups.NAME.learning_rate_factor", "optimizer.groups.NAME.weight_decay_factor"),
        trains,
        "where the group is frozen in every stage; drop it",
    ),
    Row(
        ("optimizer.groups.NAME.weight_decay_factor",),
        lambda run, _: run.optimizer.weight_decay > 0,
        "with optimizer.weight_decay=0; drop it",
    ),
    Row(
        ("optimizer.groups.NAME",),
        group_matters,
        "where its parameters train the same without it; give learning_rate_factor, weight_decay_factor or frozen, or "
        "drop it",
    ),
    Row(
        ("train.recompute_layers",),
        lambda run, _: run.train.keep_for_backward != "everything",
        "with train.keep_for_backward=everything; use attention",
    ),
    Row(
        ("train.spikes.window", "train.spikes.threshold"),
        lambda run, _: run.train.spikes.action != "ignore",
        "with train.spikes.action=ignore; give an action, or drop it",
    ),
    Row(
        ("train.spikes.patience", "train.spikes.max_rollbacks"),
        lambda run, _: run.train.spikes.action == "rollback",
        "without train.spikes.action=rollback; give that, or drop it",
    ),
    *EVALUATION_ROWS,
    Row(
        ("checkpoint.allow_changes",),
        lambda run, _: run.checkpoint.resume != "never",
        "with checkpoint.resume=never; drop it",
    ),
    Row(
        (
            "preflight.link_bytes",
            "preflight.slow_link",
            "preflight.timeout_seconds",
            "preflight.clock_seconds",
        ),
        lambda run, _: run.preflight.links,
        "with preflight.links=false; drop it",
    ),
    Row(
        ("logging.gate_steps",),
        lambda run, _: _some_layer(run, lambda spec: spec.gate != "none"),
        "without an output gate; set model.gate, or drop it",
    ),
    Row(
        ("logging.straggler_factor",),
        lambda run, _: run.logging.straggler_steps > 0,
        "with logging.straggler_steps=0; drop it",
    ),
    Row(
        ("logging.wandb.project", "logging.wandb.entity"),
        lambda run, _: run.logging.wandb.mode != "disabled",
        "with logging.wandb.mode=disabled; drop it",
    ),
)
