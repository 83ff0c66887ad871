"""Describes a run in words: model, stages, memory of a rank. No tensors, so `--check` prints it too."""

from collections.abc import Sequence
from math import prod

from data.tokens.declared import Declared, read_declared
from model.config import ModelConfig
from model.flops import forward_flops, parameter_count, training_flops
from model.layer_pattern import expand_pattern
from model.parameters import shape_of
from parallel.costs.rank import RankMemory, Step, rank_memory
from parallel.engine.groups import GroupSettings, frozen_parameters
from parallel.engine.optimizers import OPTIMIZERS
from train.configuration.schema import RunConfig
from train.schedule.saving import steps_between_checkpoints
from train.schedule.short_context import weighs
from train.schedule.stages import Schedule, Stage

_ELEMENT = {"float32": 4, "bfloat16": 2}


def describe_model(model: ModelConfig) -> str:
    """Returns the model's size, layer pattern, windows and attention chunks."""
    specs = expand_pattern(model)
    windows = sorted({spec.window for spec in specs if spec.window is not None})
    chunks = sorted({spec.chunk for spec in specs if spec.chunk is not None})
    seen = f", window {', '.join(map(str, windows))}" if windows else ""
    seen += f", attention chunks of {', '.join(map(str, chunks))}" if chunks else ""
    return (
        f"{parameter_count(model):,} parameters: {model.num_layers} layers "
        f"({', '.join(model.layer_pattern)}), width {model.hidden_size}{seen}, "
        f"vocabulary {model.vocab_size:,}"
    )


def describe_stages(schedule: Schedule) -> str:
    """Returns every stage with its context length, and the kinds of layers that it changes."""
    return " -> ".join(
        f"{stage.name} {stage.shape.sequence_length:,}{_changed(stage)}"
        for stage in schedule.stages
    )


def _changed(stage: Stage) -> str:
    return f" (changes {', '.join(stage.kinds.changes)})" if stage.kinds.changes else ""


def describe_labels(sources: Sequence[Declared]) -> list[str]:
    """Returns a line on the share of tokens with a label in each of these sources; none where all tokens have one."""
    if not any(one.has_labels for one in sources):
        return []
    shares = ", ".join(
        f"{one.labelled_share:.1%} of {one.name}" if one.has_labels else f"all of {one.name}"
        for one in sources
    )
    return [f"tokens with a label: {shares}; the loss is the mean over these"]


def describe_run(config: RunConfig, schedule: Schedule, world_size: int) -> list[str]:
    """Returns the lines that `--check` prints for a valid run."""
    steps = sum(stage.num_steps for stage in schedule.stages)
    every = steps_between_checkpoints(config)
    saved = (
        f"a checkpoint every {every:,} step(s)" if every else "checkpoints at ends of stages only"
    )
    return [
        describe_model(config.model),
        f"{describe_stages(schedule)}; {schedule.total_tokens:,} tokens, {steps:,} steps; {saved}",
        *describe_groups(config, schedule),
        *describe_labels(read_declared(config.data)[0]),
        *describe_long_ce(config, schedule),
        _describe_memory(config, schedule, world_size),
    ]


def describe_long_ce(config: RunConfig, schedule: Schedule) -> list[str]:
    """Returns a line on the stages with a second forward, and what it adds to their operations; none without LongCE."""
    wanted, added = config.train.long_ce, []
    for stage in schedule.stages if wanted else ():
        point, length = schedule.at_end_of(stage), [stage.shape.sequence_length]
        if wanted is None or not weighs(point, wanted):
            continue
        frozen = _frozen(config, stage)
        more = forward_flops(point.model, length, wanted.window_tokens)
        added.append(f"{stage.name} {more / training_flops(point.model, length, frozen):.0%}")
    says = "LongCE: a second forward adds to the operations of a step, in documents of the stage's length"
    return [f"{says}: {', '.join(added)}"] if added else []


def describe_groups(config: RunConfig, schedule: Schedule) -> list[str]:
    """Returns a line on how the groups of parameters train, in every stage that differs from the one before."""
    lines, before = [], None
    for stage in schedule.stages:
        if not config.optimizer.groups or stage.groups == before:
            continue
        before = stage.groups
        words = ", ".join(f"{name} {_trains(one)}" for name, one in stage.groups.items() if name)
        frozen = sum(prod(shape_of(name, config.model)) for name in _frozen(config, stage))
        train = parameter_count(config.model) - frozen
        lines.append(f"from stage {stage.name} on {train:,} parameters train; groups: {words}")
    return lines


def _trains(group: GroupSettings) -> str:
    if group.frozen:
        return "frozen"
    factors = [
        (group.learning_rate_factor, "learning rate"),
        (group.weight_decay_factor, "weight decay"),
    ]
    return " and ".join(f"{one:g} x {name}" for one, name in factors if one != 1.0) or "as usual"


def _frozen(config: RunConfig, stage: Stage) -> list[str]:
    return frozen_parameters(config.model, config.optimizer.groups, stage.groups)


def _describe_memory(config: RunConfig, schedule: Schedule, world_size: int) -> str:
    """Describes the memory of the stage that needs most; computed, not measured."""
    needed = {stage.name: stage_memory(config, stage, world_size) for stage in schedule.stages}
    name, most = max(needed.items(), key=lambda item: item[1].total)
    return (
        f"memory of each of {world_size} rank(s), computed: {_gigabytes(most.total)} in stage {name}: "
        f"{_gigabytes(most.model)} weights, gradients and optimizer, {_gigabytes(most.activations)} activations of one "
        "step; add a tenth (docs/parallelism.md)"
    )


def stage_memory(config: RunConfig, stage: Stage, world_size: int) -> RankMemory:
    """Returns the memory of the rank that needs most in this stage."""
    return rank_memory(
        Step(
            model=stage.kinds.model_at(
                config.model, stage.end - stage.start - stage.shape.batch_tokens
            ),
            layout=stage.parallel,
            world_size=world_size,
            sequence_length=stage.shape.sequence_length,
            micro_batch_tokens=stage.shape.micro_batch_tokens,
            batch_tokens=stage.shape.batch_tokens,
            element=_ELEMENT[config.train.precision],
            keep_for_backward=config.train.keep_for_backward,
            recompute_layers=config.train.recompute_layers,
            optimizer=OPTIMIZERS[config.optimizer.name],
            frozen=frozenset(_frozen(config, stage)),
        )
    )


def default_schedule_note(
    arguments: Sequence[str], config: RunConfig, schedule: Schedule, choices: Sequence[str]
) -> str:
    """Returns one line if the command line chooses no schedule; "" if it does.

    choices: the names of conf/schedule.
    """
    keys = {argument.lstrip("+~").partition("=")[0] for argument in arguments}
    if any(key in ("schedule", "experiment") or key.startswith("schedule.") for key in keys):
        return ""
    tokens, most = schedule.total_tokens, config.train.max_steps
    ends = "" if most is None else f", of which train.max_steps={most} takes a part"
    return (
        f"schedule=quickstart is taken where none is chosen: {describe_stages(schedule)}, {tokens:,} tokens{ends}; "
        f"choose with schedule=NAME: {', '.join(choices)}"
    )


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:,.2f} GB"
