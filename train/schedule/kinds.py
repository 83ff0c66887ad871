"""What a stage changes in kinds of layers: windows, rotations, no position. Pure functions of tokens into the stage.

    schedule.stages.long.kinds:
      full_rope: {rope: {scaling: yarn, factor: 4, original_length: 8192}}
      window_rope: {window: {policy: ramp, start: 32, per_step: 0.125}}       SkyLadder
      far: {position: none}                                                   DroPE

`StageKinds.model_at` puts the changes into the model's configuration, so every function of a `ModelConfig` holds for a
step too. Parameters belong to the model: a stage changes only settings without parameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from model.config import ModelConfig
from model.layer_pattern import KindConfig, layer_kind
from train.configuration.schema import StageKindConfig, WindowRamp


@dataclass(frozen=True)
class StageKinds:
    """The changes of one stage. changes: by name of the kind. batch_tokens: of one step. tokens: of the stage."""

    changes: Mapping[str, StageKindConfig] = field(default_factory=dict)
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
        """Returns (kind, keys) of every kind whose window the stage sets, for the step `tokens` into the stage."""
        return tuple(
            (name, self._window(model, name, change, tokens))
            for name, change in self.changes.items()
            if change.window is not None
        )

    def _at(
        self, model: ModelConfig, name: str, change: StageKindConfig, tokens: int
    ) -> KindConfig:
        settings = model.kinds.get(name, KindConfig())
        if change.rope is not None:
            settings = replace(settings, rope=change.rope)
        if change.position is not None:
            settings = replace(settings, position=change.position)
        if settings.position == "none":
            settings = replace(settings, rope=KindConfig().rope)
        if change.window is not None:
            settings = replace(settings, window=self._window(model, name, change, tokens))
        return settings

    def _window(self, model: ModelConfig, name: str, change: StageKindConfig, tokens: int) -> int:
        ramp = change.window
        if not isinstance(ramp, WindowRamp):
            assert ramp is not None, "the caller looked"
            return ramp
        end = ramp.end or model.kinds.get(name, KindConfig()).window or model.window
        if ramp.per_step:
            return min(end, ramp.start + int(ramp.per_step * (tokens // self.batch_tokens)))
        return min(end, ramp.start + (end - ramp.start) * tokens // self.tokens)

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
                continue
            found += self._problems(model, name, change, key)
        return found

    def _problems(
        self, model: ModelConfig, name: str, change: StageKindConfig, key: str
    ) -> list[str]:
        found = []
        kind = layer_kind(model, name)
        if change == StageKindConfig():
            return [f"{key}: changes nothing; give rope, position or window, or drop it"]
        if change.window is not None and not kind.windowed:
            found.append(f"{key}.window: has no effect, {name} has no window; drop it")
        elif isinstance(change.window, WindowRamp):
            end = self._window(model, name, change, self.tokens)
            if change.window.start >= (change.window.end or end + 1):
                found.append(
                    f"{key}.window.start={change.window.start}: must be below the end of the ramp, "
                    f"{change.window.end or end}; give a number for a constant window"
                )
        for field_name in ("rope", "position"):
            if getattr(change, field_name) is not None and not kind.rotary:
                found.append(f"{key}.{field_name}: has no effect, {name} has no rotation; drop it")
        if change.rope is not None and kind.rotary:
            if change.position == "none":
                found.append(f"{key}.rope: has no effect with position=none; drop one of both")
            found += change.rope.problems(f"{key}.rope", model.head_dim)
        return found
