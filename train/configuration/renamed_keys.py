"""Current names of the keys that earlier versions wrote into configurations and checkpoints."""

from collections.abc import Mapping
from typing import Any

from model.position.methods import default_fields

# Rotation used to be set for all windowed and for all full layers; now it is set for a kind of layer.
_ROTATION = {"rope_window": "window_rope", "rope_full": "full_rope"}


def new_name(key: str) -> str | None:
    """Returns the current name of a renamed key of the configuration; None for any other key."""
    parts = key.split(".")
    if parts[0] == "model" and len(parts) > 1 and parts[1] in _ROTATION:
        return ".".join(["model.kinds", _ROTATION[parts[1]], "rope", *parts[2:]])
    return None


def renamed_model(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns fields of `ModelConfig`, as any version wrote them, under their current names.

    A setting under both names keeps both; the old name is then reported as an unknown key.
    """
    renamed, plain = dict(content), default_fields()
    kinds = content.get("kinds") or {}
    for old, kind in _ROTATION.items():
        rope = content.get(old)
        if not (isinstance(rope, Mapping) and isinstance(kinds, Mapping)) or kind in kinds:
            continue
        del renamed[old]
        if {**plain, **rope} != plain:
            renamed["kinds"] = kinds = {**kinds, kind: {"rope": dict(rope)}}
    return renamed
