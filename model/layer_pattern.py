"""The hybrid layer pattern: its kinds, its rules and its expansion over the layers.

A short list of layer kinds is repeated over the layers, for example

    layer      0            1            2            3          4            5       ...
    pattern    window_rope  window_rope  window_rope  full_nope  window_rope  window_rope
               `---------------- one repeat ----------------'

Each kind defines how far back a token sees (a sliding window, its attention chunk, or its whole
document; see `reach.py`) and whether queries and keys are rotated (RoPE) or carry no position (NoPE).
`LAYER_KINDS` has the built-in kinds; `model.kinds` declares further kinds, each like a built-in one
with a window, a chunk or a rotation of its own:

    kinds      near: {like: window_rope, window: 512}
    pattern    near  near  window_rope  full_nope

All other code reads the expanded tuple of `LayerSpec` and identifies a kind by its name; none
derives a layer's kind from its index or its window.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from types import MappingProxyType
from typing import Annotated, Literal, Protocol, get_args

from annotated_types import Ge, Gt, Le, Lt

from model.position.methods import RopeMethod
from model.position.rope import UNSCALED, Rope
from model.position.scales.methods import AnyScale
from model.position.scales.none import NoScale
from model.position.scales.scale import PositionScale
from model.reach import Reach

# How far a token sees, and the name of such layers in metrics and checkpoints.
Sees = Literal["full", "window", "chunk"]

# Choices of both the model and a kind of layer: see `ModelConfig`.
NormPlace = Literal["before", "after"]
Gate = Literal["none", "sigmoid", "softplus"]
GateOver = Literal["head", "channel"]
StaticGateOver = Literal["none", "head", "channel"]


@dataclass(frozen=True)
class LayerKind:
    """A built-in kind: how far a token sees, and whether it is rotary.

    sees: "full": the whole document up to the token; "window": the last keys; "chunk": its attention chunk up to
    the token. Its layers have this name in metrics and checkpoints.
    """

    sees: Sees
    rotary: bool

    @property
    def windowed(self) -> bool:
        """Whether it has a window."""
        return self.sees == "window"

    @property
    def chunked(self) -> bool:
        """Whether it has attention chunks."""
        return self.sees == "chunk"


LAYER_KINDS: Mapping[str, LayerKind] = MappingProxyType(
    {
        "window_rope": LayerKind("window", rotary=True),
        "window_nope": LayerKind("window", rotary=False),
        "full_rope": LayerKind("full", rotary=True),
        "full_nope": LayerKind("full", rotary=False),
        "chunk_rope": LayerKind("chunk", rotary=True),
        "chunk_nope": LayerKind("chunk", rotary=False),
    }
)
# Names in metrics and checkpoints that combine layers of built-in kinds; no further kind has one of them.
REPORTED = get_args(Sees)


@dataclass
class KindConfig:
    """Settings of one kind of layer. Mutable only because Hydra needs it; read-only by rule."""

    # The built-in kind that a further kind is like; empty for the built-in kinds themselves.
    like: Literal[
        "", "window_rope", "window_nope", "full_rope", "full_nope", "chunk_rope", "chunk_nope"
    ] = ""  # fmt: skip
    # Keys seen by a token of these layers, ITSELF INCLUDED; 0: model.window in windowed kinds, no window in the others.
    window: Annotated[int, Ge(0), Le(2**31 - 1)] = 0
    # Tokens of an attention chunk of these layers, counted from the document's first token; 0: model.chunk.
    chunk: Annotated[int, Ge(0), Le(2**31 - 1)] = 0
    # none: these layers do not rotate, whatever their name says (DroPE, for a stage of the schedule).
    position: Literal["as_named", "none"] = "as_named"
    # How these layers rotate: scaling, a base of their own, a part of the head.
    rope: RopeMethod = field(default_factory=Rope)
    # Factor of the queries that depends on a token's position in its document, in addition to model.query_scale, which
    # is the same for all tokens; it makes tokens far into a document attend more sharply.
    position_scale: AnyScale = field(default_factory=NoScale)
    # Whether the heads of these layers have attention sinks; null: model.sinks.
    sinks: bool | None = None
    # Whether queries and keys of these layers are normalised; null: model.qk_norm.
    qk_norm: bool | None = None
    # Whether that happens before the rotation or after it; null: model.qk_norm_at.
    qk_norm_at: NormPlace | None = None
    # Whether their norm has a learned weight; null: model.qk_norm_weight.
    qk_norm_weight: bool | None = None
    # Output gate of these layers; null: model.gate.
    gate: Gate | None = None
    # What the gate of these layers has a number for; null: model.gate_over.
    gate_over: GateOver | None = None
    # What the static gate of these layers has a number for; null: model.static_gate.
    static_gate: StaticGateOver | None = None
    # Factor of the values of these layers; null: model.value_scale.
    value_scale: Annotated[float, Gt(0), Lt(inf)] | None = None

    def problems(self, name: str, head_dim: int) -> list[str]:
        """Returns every broken rule between these settings of the kind `name`, one line each."""
        key = f"model.kinds.{name}"
        if name in REPORTED or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            return [
                f"{key}: a kind's name is made of letters, digits, _ and -, and is not "
                f"{', '.join(REPORTED[:-1])} or {REPORTED[-1]}; use another"
            ]
        if name in LAYER_KINDS and self.like:
            return [f"{key}.like={self.like}: {name} needs no kind to be like; drop it"]
        if name not in LAYER_KINDS and not self.like:
            return [
                f"{key}.like=: must name the kind it is like; give one of {', '.join(LAYER_KINDS)}"
            ]
        kind = LAYER_KINDS[self.like or name]
        found = []
        if self.chunk and not kind.chunked:
            found.append(f"{key}.chunk={self.chunk}: has no effect, {name} has no chunks; drop it")
        if self.position == "none" and not kind.rotary:
            found.append(f"{key}.position=none: has no effect, {name} has no rotation; drop it")
        if self.rope != UNSCALED and not (kind.rotary and self.position == "as_named"):
            found.append(f"{key}.rope: has no effect, {name} has no rotation; drop it")
        else:
            found += self.rope.problems(f"{key}.rope", head_dim)
        return found


# Fields of `KindConfig` that replace the model's field of the same name, for layers of that kind; None keeps it.
OVERRIDES = (
    "sinks", "qk_norm", "qk_norm_at", "qk_norm_weight", "gate", "gate_over", "static_gate",
    "value_scale",
)  # fmt: skip


@dataclass(frozen=True)
class LayerSpec:
    """What one layer's attention computes: its `KindConfig` with the model's values put in.

    kind: its name in the pattern. window: number of keys a token sees, itself included; None means
    no window. rope: how queries and keys are rotated by their position; None means they are not.
    chunk: tokens of an attention chunk; None means no chunks. position_scale: how queries are scaled
    by their position; None means they are not. The others: as in `ModelConfig`.
    """

    kind: str
    window: int | None
    rope: RopeMethod | None
    chunk: int | None = None
    position_scale: PositionScale | None = None
    sinks: bool = False
    qk_norm: bool = False
    qk_norm_at: NormPlace = "before"
    qk_norm_weight: bool = True
    gate: Gate = "none"
    gate_over: GateOver = "head"
    static_gate: StaticGateOver = "none"
    value_scale: float = 1.0

    @property
    def reach(self) -> Reach:
        """How far a token of this layer sees."""
        return Reach(self.window, self.chunk)

    @property
    def reported_as(self) -> str:
        """The name of layers of this kind in metrics and checkpoints; a further kind keeps its own name."""
        return LAYER_KINDS[self.kind].sees if self.kind in LAYER_KINDS else self.kind

    @property
    def learns_scale(self) -> bool:
        """Whether its scale has a parameter, one number per head."""
        return self.position_scale is not None and self.position_scale.learned


class PatternSource(Protocol):
    """The fields of a configuration that decide the pattern."""

    num_layers: int
    window: int
    chunk: int
    layer_pattern: list[str]
    kinds: dict[str, KindConfig]
    sinks: bool
    qk_norm: bool
    qk_norm_at: NormPlace
    qk_norm_weight: bool
    gate: Gate
    gate_over: GateOver
    static_gate: StaticGateOver
    value_scale: float


def expand_pattern(config: PatternSource) -> tuple[LayerSpec, ...]:
    """The specification of every layer, by global layer index.

    Raises KeyError for an unknown kind: `ModelConfig.problems` reports it to the user first.
    """
    pattern = config.layer_pattern
    specs = {name: _spec(config, name) for name in pattern}
    return tuple(specs[pattern[index % len(pattern)]] for index in range(config.num_layers))


def layer_kinds(config: PatternSource) -> dict[str, LayerSpec]:
    """The specification of every kind in use, by name, in order of first appearance."""
    return {spec.kind: spec for spec in expand_pattern(config)}


def layer_kind(config: PatternSource, name: str) -> LayerKind:
    """The built-in kind that `name` is, or is like.

    Raises KeyError for an unknown kind.
    """
    settings = config.kinds.get(name)
    return LAYER_KINDS[settings.like if settings and settings.like else name]


def uses_model_window(config: PatternSource) -> bool:
    """Whether a windowed layer uses `model.window` because its kind has no window of its own.

    Raises KeyError for an unknown kind.
    """
    return any(
        layer_kind(config, name).windowed and not config.kinds.get(name, KindConfig()).window
        for name in config.layer_pattern
    )


def uses_model_chunk(config: PatternSource) -> bool:
    """Whether a chunked layer uses `model.chunk` because its kind has no chunk of its own.

    Raises KeyError for an unknown kind.
    """
    return any(
        layer_kind(config, name).chunked and not config.kinds.get(name, KindConfig()).chunk
        for name in config.layer_pattern
    )


def pattern_problems(config: PatternSource, head_dim: int) -> list[str]:
    """Returns every rule that the pattern and its kinds break, one line each."""
    pattern, known = config.layer_pattern, dict.fromkeys([*LAYER_KINDS, *config.kinds])
    if not pattern:
        return [f"model.layer_pattern=[]: must name at least one of {', '.join(LAYER_KINDS)}"]
    found = []
    for name, settings in config.kinds.items():
        found += settings.problems(name, head_dim)
        if name not in pattern:
            found.append(
                f"model.kinds.{name}: has no effect, model.layer_pattern has no {name}; drop it"
            )
    unknown = sorted({name for name in pattern if name not in known})
    if unknown:
        return found + [
            f"model.layer_pattern: {name} is unknown; there are {', '.join(known)}"
            for name in unknown
        ]
    unreached = sorted(set(pattern) - set(pattern[: config.num_layers]))
    if config.num_layers >= 1 and unreached:
        found.append(
            f"model.num_layers={config.num_layers}: too few to reach {', '.join(unreached)} in "
            f"model.layer_pattern (length {len(pattern)}); use at least "
            f"{_layers_to_reach_all(pattern)} layers or a shorter pattern"
        )
    return found


def _spec(config: PatternSource, name: str) -> LayerSpec:
    kind, settings = layer_kind(config, name), config.kinds.get(name, KindConfig())
    scale = settings.position_scale
    own = {field_name: getattr(settings, field_name) for field_name in OVERRIDES}
    return LayerSpec(
        name,
        window=settings.window or (config.window if kind.windowed else None),
        rope=settings.rope if kind.rotary and settings.position == "as_named" else None,
        chunk=(settings.chunk or config.chunk) if kind.chunked else None,
        position_scale=None if isinstance(scale, NoScale) else scale,
        **{
            field_name: getattr(config, field_name) if value is None else value
            for field_name, value in own.items()
        },
    )


def _layers_to_reach_all(pattern: list[str]) -> int:
    return max(pattern.index(kind) for kind in set(pattern)) + 1


def evenly(count: int, num_layers: int) -> frozenset[int]:
    """`count` of the layers 0 to num_layers - 1, evenly spread."""
    return frozenset(
        index
        for index in range(num_layers)
        if (index + 1) * count // num_layers > index * count // num_layers
    )
