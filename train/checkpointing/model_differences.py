"""Differences between the model of a checkpoint, as of its last step, and that of a configuration at this step."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from model.config import ModelConfig
from model.layer_pattern import KindConfig, layer_kind, layer_kinds, uses_model_chunk
from model.position.methods import default_fields
from model.position.scales.methods import LEARNED

# Fields that do not affect the trained model: a run may resume with other values.
_NOT_THE_MODEL = {"attention_backend", "init_std"}


def model_differences(
    trained: Mapping[str, Any], model: ModelConfig, allowed: Sequence[str]
) -> list[str]:
    """Returns one line for each difference that `allowed` does not name.

    trained: fields of `ModelConfig`, as JSON has them. allowed: `checkpoint.allow_changes`.
    """
    found = []
    before, now = _comparable(trained, model)
    for name in now:
        kind, of_rope, _ = name.partition(".rope.")
        if name == "chunk" and not uses_model_chunk(model):
            continue
        # A kind that rotates on one side only is named once, by its position.
        if of_rope and before[f"{kind}.position"] != now[f"{kind}.position"]:
            continue
        change = _change_of(name, before[name], now[name])
        if before[name] == now[name] or change in allowed:
            continue
        line = (
            f"model.{name}={_said(now[name])}: the checkpoint's model has {_said(before[name])}; "
            "use that, or start a new run (another run_name)"
        )
        if change:
            line += f", or set checkpoint.allow_changes=[{change}]"
        found.append(line)
    return found


def _change_of(name: str, trained: Any, wanted: Any) -> str:
    """Returns the value of `checkpoint.allow_changes` that allows another value of a field; empty if none does."""
    if ".rope." in name:
        return "rope_scaling"
    if name == "window" or name.endswith(".window"):
        return "window"
    if name.endswith(".position"):
        return "position"
    if name.endswith(".position_scale") and not LEARNED & {trained["scale"], wanted["scale"]}:
        return "position_scale"
    return ""


def _said(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return "{" + ", ".join(f"{name}: {inner}" for name, inner in value.items()) + "}"


def _comparable(trained: Mapping[str, Any], model: ModelConfig) -> list[dict[str, Any]]:
    """Returns the fields of each model, flat and under the same keys, such as `kinds.NAME.window`.

    Fields that an older version did not have, or that one model does not set, have their defaults. Windows are those
    that layers have: of a kind if one side sets it, of the model if a kind has none of its own on both sides.
    """
    models: list[Mapping[str, Any]] = [trained, asdict(model)]
    default = asdict(ModelConfig())
    named = sorted({name for one in models for name in one.get("kinds", {})})
    found = []
    for one in models:
        parts = default | dict(one)
        kinds = parts.pop("kinds")
        flat = {name: parts[name] for name in sorted(parts.keys() - _NOT_THE_MODEL)}
        for name in named:
            settings = asdict(KindConfig()) | kinds.get(name, {})
            rope = default_fields() | settings.pop("rope")
            settings["position_scale"].pop("initial", None)
            flat |= {f"kinds.{name}.{key}": value for key, value in settings.items()}
            flat |= {f"kinds.{name}.rope.{key}": value for key, value in rope.items()}
        found.append(flat)
    _resolve_windows(found, model)
    return found


def _resolve_windows(models: list[dict[str, Any]], model: ModelConfig) -> None:
    """Puts the windows that layers have in the place of those that are given."""
    follow = []
    for name in layer_kinds(model):
        key, windowed = f"kinds.{name}.window", layer_kind(model, name).windowed
        own = [one.get(key, 0) for one in models]
        if windowed and not any(own):
            follow.append(name)
        elif windowed:
            for one, window in zip(models, own, strict=True):
                one[key] = window or one["window"]
    if not follow:  # then the model's window is that of no layer
        for one in models:
            del one["window"]
