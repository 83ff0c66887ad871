"""Windowed and rotary layers in a config.json: `layer_types`, and the keys that older versions used.

sliding_attention    keys q - sliding_window < k <= q: the same as our window, itself included
full_attention       all keys up to the query
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from model.config import ModelConfig
from model.huggingface.refusal import CannotExpress
from model.layer_pattern import LAYER_KINDS, OVERRIDES, KindConfig, expand_pattern, layer_kinds
from model.position.scales.ministral3 import Ministral3Scale
from model.position.scales.none import NoScale

Json = dict[str, Any]
SLIDING, FULL = "sliding_attention", "full_attention"


def layer_types(config: Mapping[str, Any], default: Sequence[str]) -> list[str]:
    """`layer_types` of a config.json, or the family's default.

    Raises:
        CannotExpress: another kind of attention, or the list does not have one entry per layer.
    """
    types = config.get("layer_types")
    types = list(default) if types is None else types
    strange = sorted({str(kind) for kind in types} - {SLIDING, FULL})
    if strange:
        raise CannotExpress(
            [f"config.json: layer_types has {', '.join(strange)}; we have {SLIDING} and {FULL}"]
        )
    layers = config.get("num_hidden_layers")
    if layers is not None and len(types) != layers:
        raise CannotExpress(
            [f"config.json: layer_types has {len(types)} entries for num_hidden_layers={layers}"]
        )
    return types


def every(period: int, layers: int, otherwise: str = SLIDING) -> list[str]:
    """Full attention in every `period`-th layer, `otherwise` in those between."""
    return [otherwise if (index + 1) % period else FULL for index in range(layers)]


def pattern(kinds: Sequence[str]) -> list[str]:
    """The shortest pattern that yields these layer kinds when repeated."""
    for length in range(1, len(kinds) + 1):
        if all(kind == kinds[index % length] for index, kind in enumerate(kinds)):
            return list(kinds[:length])
    return list(kinds)


def windowed_pattern(kinds: Sequence[str], window: Any) -> Json:
    """The `ModelConfig` fields of these layer kinds and this window.

    Raises:
        CannotExpress: there are windowed layers, but no window is given.
    """
    windowed = any(LAYER_KINDS[kind].windowed for kind in kinds)
    if windowed and not isinstance(window, int):
        raise CannotExpress(
            [f"config.json: layer_types has {SLIDING}, but sliding_window={window}; give a number of keys"]
        )  # fmt: skip
    found: Json = {"layer_pattern": pattern(kinds)}
    if isinstance(window, int):
        found["window"] = window
    return found


def expanded(config: ModelConfig) -> list[str]:
    """The kind of every layer."""
    repeat = config.layer_pattern
    return [repeat[index % len(repeat)] for index in range(config.num_layers)]


def unknown_to_all(model: ModelConfig) -> list[str]:
    """Why the layers of a model are in no family at all."""
    chunked = [name for name, spec in layer_kinds(model).items() if spec.chunk is not None]
    if not chunked:
        return []
    return [f"model.layer_pattern has {', '.join(chunked)}: no family here has attention chunks"]


def in_four_kinds(model: ModelConfig, *, bases_differ: bool = False) -> ModelConfig:
    """The same model with further kinds replaced by the windowed and full kinds that they are like.

    Values that all its kinds of layers override alike become the model's. bases_differ: the family writes the base of
    every layer elsewhere; the rotations returned have none of their own.

    Raises:
        CannotExpress: layers with attention chunks, layers with different windows or different values of an override,
            or layers of one built-in kind with different rotations.
    """
    if reasons := unknown_to_all(model):
        raise CannotExpress(reasons)
    specs = layer_kinds(model)
    # By what they do: a stage of the schedule may have given a full kind a window, or ended its rotation.
    names = {
        name: f"{'full' if spec.window is None else 'window'}_{'nope' if spec.rope is None else 'rope'}"
        for name, spec in specs.items()
    }
    windows = {name: spec.window for name, spec in specs.items() if spec.window is not None}
    reasons = []
    if len(set(windows.values())) > 1:
        says = ", ".join(f"{window} of {name}" for name, window in windows.items())
        reasons.append(
            f"model.kinds: different windows ({says}): a config.json has one, sliding_window"
        )
    shared = {
        field: {name: getattr(spec, field) for name, spec in specs.items()} for field in OVERRIDES
    }
    for field, values in shared.items():
        if len(set(values.values())) > 1:
            says = ", ".join(f"{value} of {name}" for name, value in values.items())
            reasons.append(
                f"model.kinds: different {field} ({says}): a config.json has one for all layers"
            )
    kinds, differences = _built_in_kinds(model, names, bases_differ=bases_differ)
    reasons += differences
    if reasons:
        raise CannotExpress(reasons)
    return replace(
        model,
        **{field: next(iter(values.values())) for field, values in shared.items()},
        layer_pattern=[names[name] for name in model.layer_pattern],
        window=next(iter(windows.values()), model.window),
        kinds={name: found for name, found in kinds.items() if found != KindConfig()},
    )


def _built_in_kinds(
    model: ModelConfig, names: Mapping[str, str], *, bases_differ: bool
) -> tuple[dict[str, KindConfig], list[str]]:
    """Rotation and scale of the built-in kinds that rotate, and why a config.json cannot have them.

    names: the built-in kind of every kind. bases_differ: as in `in_four_kinds`.
    """
    kinds: dict[str, KindConfig] = {}
    reasons = []
    for name, spec in layer_kinds(model).items():
        scale = model.kinds.get(name, KindConfig()).position_scale
        known_scale = isinstance(scale, NoScale | Ministral3Scale)
        if not known_scale or (spec.rope is None and spec.position_scale is not None):
            reasons.append(
                f"model.kinds.{name}.position_scale: the queries of these layers are scaled by position "
                f"({scale.scale}), which no family here has"
            )
        if spec.rope is None:
            continue
        rope = replace(spec.rope, base=0.0) if bases_differ else spec.rope
        settings = KindConfig(rope=rope, position_scale=scale)
        known = kinds.setdefault(names[name], settings)
        reasons += [
            f"model.kinds.{name}.{field}: differs from that of other layers like {names[name]}: a config.json has "
            "one for both"
            for field in ("rope", "position_scale")
            if getattr(known, field) != getattr(settings, field)
        ]
    return kinds, reasons


def written_types(config: ModelConfig) -> list[str]:
    """`layer_types` of every layer; always exported, because the defaults differ between families."""
    return [SLIDING if LAYER_KINDS[kind].windowed else FULL for kind in expanded(config)]


def read_alike(config: Mapping[str, Any]) -> Json:
    """Layers of a family with one window for all layers, `sliding_window`, or null."""
    window = config.get("sliding_window")
    return windowed_pattern(["full_rope" if window is None else "window_rope"], window)


def write_alike(model: ModelConfig) -> Json:
    """`sliding_window` of a family with one window for all layers or none.

    Raises:
        CannotExpress: some layers have a window.
    """
    types = set(written_types(model))
    if len(types) > 1:
        raise CannotExpress(
            [
                f"model.layer_pattern={model.layer_pattern}: this family has one window for all layers or none; "
                "ministral has windows in some"
            ]
        )
    return {"sliding_window": model.window if SLIDING in types else None}


def rotated_widths(model: ModelConfig) -> list[int]:
    """For each layer: rows of a head, from the first, that pair with each other; see `links.interleave`."""
    return [
        model.head_dim if spec.rope is None else spec.rope.width(model.head_dim)
        for spec in expand_pattern(model)
    ]
