"""Keys that earlier versions wrote into configurations and checkpoints, and what they are called today."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from model.position.config import RopeConfig

# Rotation used to be set for all windowed and for all full layers; it belongs to a kind of layer now.
_ROTATION = {"rope_window": "window_rope", "rope_full": "full_rope"}


def new_name(key: str) -> str | None:
    """Today's name of a key of the configuration, or None where it never had another."""
    parts = key.split(".")
    if parts[0] == "model" and len(parts) > 1 and parts[1] in _ROTATION:
        return ".".join(["model.kinds", _ROTATION[parts[1]], "rope", *parts[2:]])
    return None


def renamed_model(content: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `ModelConfig` as any version wrote them, under today's names."""
    renamed = {key: value for key, value in content.items() if key not in _ROTATION}
    plain = asdict(RopeConfig())
    for old, kind in _ROTATION.items():
        rope = content.get(old, {})
        if isinstance(rope, Mapping) and {**plain, **rope} == plain:
            continue
        renamed["kinds"] = {**renamed.get("kinds", {}), kind: {"rope": rope}}
    return renamed
