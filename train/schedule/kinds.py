"""What a stage changes in kinds of layers: windows, rotations, scales. Pure functions of tokens into the stage.

    schedule.stages.long.kinds:
      full_rope: {rope: {scaling: yarn, factor: 4, original_length: 8192}}
      window_rope: {window: 512}
      full_nope: {window: {policy: ramp, start: 32, per_step: 0.125}}                 SkyLadder
      far: {position: none, position_scale: {scale: drope, trained_length: 8192}}     DroPE

`StageKinds.model_at` puts the changes into the model's configuration, so every function of a `ModelConfig` holds for a
step too. Parameters belong to the model: a stage changes only settings without parameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from model.config import ModelConfig
from model.layer_pattern import KindConfig, layer_kind, layer_kinds
from train.configuration.schema import StageKindConfig, WindowRamp

# Fields of `StageKindConfig` that replace the field of `KindConfig` of the same name, as they are.
REPLACED = ("rope", "position", "position_scale")


@dataclass(frozen=True)
class StageKinds:
    """The changes of one stage.

    changes: by name of the kind. sequence_length, batch_tokens: of one step. tokens: of the stage.
    """

    changes: Mapping[str, StageKindConfig] = field(default_factory=dict)
    sequence_length: int = 1
    batch_tokens: int = 1
    tokens: int = 1

    def model_at(self, model: ModelConfig, tokens: int) -> ModelConfig:
        """Returns `model` with the settings of the step that starts `tokens` into the stage."""
        if not self.changes:
            return model
        changed = {
            name: self._at(model, name, change, tokens) for name, change in self.changes.items()
        }
        return replace(model, kinds=model.kinds | changed)

    def windows_at(self, model: ModelConfig, tokens: int) -> tuple[tuple[str, int], ...]:
        """Returns (kind, keys) of every kind whose window the stage sets, for the step `tokens` into the stage.

        0 keys: no window.
        """
        return tuple(
            (name, self._window(model, name, change, tokens))
            for name, change in self.changes.items()
            if change.window is not None
        )

    def _at(
        self, model: ModelConfig, name: str, change: StageKindConfig, tokens: int
    ) -> KindConfig:
        settings = _settings(model, name)
        given = {key: getattr(change, key) for key in REPLACED}
        settings = replace(
            settings, **{k: value for k, value in given.items() if value is not None}
        )
        if settings.position == "none":
            settings = replace(settings, rope=KindConfig().rope)
        if change.window is not None:
            settings = replace(settings, window=self._window(model, name, change, tokens))
        return settings

    def _window(self, model: ModelConfig, name: str, change: StageKindConfig, tokens: int) -> int:
        """Returns the keys of the window; 0 for no window."""
        window = change.window
        assert window is not None, "the caller looked"
        keys = self._ramp(window, model, name, tokens) if isinstance(window, WindowRamp) else window
        windowed = layer_kind(model, name).windowed
        # A window as long as the sequence masks nothing; a kind that is named full has none then.
        return 0 if not windowed and keys >= self.sequence_length else keys

    def _ramp(self, ramp: WindowRamp, model: ModelConfig, name: str, tokens: int) -> int:
        end = self.end_of_ramp(ramp, model, name)
        if ramp.per_step:
            # The decimal that was given: 0.29 x 100 is 29, in binary floating point 28.99...
            grown = Fraction(str(ramp.per_step)) * (tokens // self.batch_tokens)
            return min(end, ramp.start + int(grown))
        return min(end, ramp.start + (end - ramp.start) * tokens // self.tokens)

    def end_of_ramp(self, ramp: WindowRamp, model: ModelConfig, name: str) -> int:
        """Returns the keys at which a ramp of the kind `name` ends."""
        return ramp.end or _window_of_model(model, name) or self.sequence_length

    def problems(self, model: ModelConfig, stage: str) -> list[str]:
        """Returns every rule that the changes break, one line each. stage: the key of the stage."""
        if model.problems():
            return []  # reported with the model
        found = []
        for name, change in self.changes.items():
            key = f"{stage}.kinds.{name}"
            if name not in model.layer_pattern:
                has = ", ".join(dict.fromkeys(model.layer_pattern))
                found.append(f"{key}: has no effect, model.layer_pattern has {has}; drop it")
            elif change == StageKindConfig():
                found.append(
                    f"{key}: changes nothing; give rope, position, position_scale or window, or drop it"
                )
            else:
                found += self._window_problems(model, name, change, f"{key}.window")
                found += _rotation_problems(model, name, change, key)
                found += _scale_problems(model, name, change, f"{key}.position_scale")
        return found

    def _window_problems(
        self, model: ModelConfig, name: str, change: StageKindConfig, key: str
    ) -> list[str]:
        window = change.window
        if window is None:
            return []
        if isinstance(window, WindowRamp):
            end = self.end_of_ramp(window, model, name)
            if window.start >= end:
                return [
                    f"{key}.start={window.start}: must be below the end of the ramp, {end}; give a number for a "
                    "constant window"
                ]
            if window.start >= self.sequence_length:
                return [
                    f"{key}.start={window.start}: must be below sequence_length={self.sequence_length}; such a window "
                    "masks nothing"
                ]
        elif self._window(model, name, change, 0) == _window_of_model(model, name):
            is_none = "there is none in the model, and the stage's sequences are not longer"
            says = "it is the model's" if _window_of_model(model, name) else is_none
            return [f"{key}={window}: has no effect, {says}; drop it"]
        return []


def _settings(model: ModelConfig, name: str) -> KindConfig:
    return model.kinds.get(name, KindConfig())


def _window_of_model(model: ModelConfig, name: str) -> int:
    """Returns the keys of the window that the model gives the kind; 0 for none."""
    return layer_kinds(model)[name].window or 0


def _rotation_problems(
    model: ModelConfig, name: str, change: StageKindConfig, key: str
) -> list[str]:
    settings, found = _settings(model, name), []
    given = [part for part in ("rope", "position") if getattr(change, part) is not None]
    if not layer_kind(model, name).rotary:
        return [f"{key}.{part}: has no effect, {name} has no rotation; drop it" for part in given]
    if change.position == settings.position:
        found.append(f"{key}.position={change.position}: has no effect, it is the model's; drop it")
    if change.rope is None:
        return found
    position = change.position or settings.position
    if position == "none":
        found.append(
            f"{key}.rope: has no effect with position=none; drop it, or give {key}.position=as_named"
        )
    elif change.rope == settings.rope and settings.position == "as_named":
        found.append(f"{key}.rope: has no effect, it is the model's; drop it")
    return found + change.rope.problems(f"{key}.rope", model.head_dim)


def _scale_problems(model: ModelConfig, name: str, change: StageKindConfig, key: str) -> list[str]:
    scale, own = change.position_scale, _settings(model, name).position_scale
    if scale is None:
        return []
    if reason := scale.stage_problem(key):
        return [reason]
    if own.learned:
        return [
            f"{key}: takes the place of model.kinds.{name}.position_scale, which has a parameter; that belongs to the "
            "model and cannot be left out in a stage; drop it"
        ]
    if scale == own:
        return [f"{key}: has no effect, it is the model's; drop it"]
    return []
