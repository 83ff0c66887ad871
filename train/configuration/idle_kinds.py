"""Whether settings of kinds of layers matter, given what every stage changes in them. For `idle.py`."""

from dataclasses import replace

from model.layer_pattern import expand_pattern, uses_model_window
from train.configuration.schema import (
    DerivedBase,
    RampBase,
    RopeBase,
    RunConfig,
    StageConfig,
    StageKindConfig,
    WindowRamp,
)
from train.schedule.kinds import StageKinds


def follows_base(run: RunConfig, stage: str) -> bool:
    """Whether some layer uses the RoPE base of a stage, there or in later stages whose base goes on from it."""
    if run.model.problems():
        return True
    names = list(run.schedule.stages)
    for name in names[names.index(stage) :]:
        row = run.schedule.stages[name]
        if name != stage and not goes_on(row.rope_base):
            return False
        kinds = {kind: row.kinds[kind] for kind in row.kinds if kind in run.model.layer_pattern}
        model = StageKinds(kinds, row.sequence_length).model_at(run.model, 0)
        if any(spec.rope is not None and not spec.rope.base for spec in expand_pattern(model)):
            return True
    return False


def goes_on(base: RopeBase | None) -> bool:
    """Whether a stage's base depends on the one before."""
    if isinstance(base, DerivedBase):
        return base.policy in ("keep", "ntk")
    return isinstance(base, RampBase) and base.start is None


def some_stage_has_model_window(run: RunConfig) -> bool:
    """Whether a windowed kind without a window of its own has the model's in some stage."""
    kinds = [
        name
        for name in run.model.layer_pattern
        if uses_model_window(replace(run.model, layer_pattern=[name]))
    ]
    return any(keeps(row, name, "window") for row in run.schedule.stages.values() for name in kinds)


def keeps(row: StageConfig, kind: str, setting: str) -> bool:
    """Whether a stage leaves a setting of a kind of layer as the model has it, or ends a ramp at it."""
    change = row.kinds.get(kind, StageKindConfig())
    if setting == "rope" and change.position == "none":
        return False
    value = getattr(change, setting)
    return value is None or (isinstance(value, WindowRamp) and not value.end)
