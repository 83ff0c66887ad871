"""The hybrid pattern, and the only place that knows it.

A stack is described by a short list of layer kinds that is repeated over the layers, for example

    layer      0            1            2            3          4            5       ...
    pattern    window_rope  window_rope  window_rope  full_nope  window_rope  window_rope
               `---------------- one repeat ----------------'

Each kind says two things at once: how far back a token sees (a sliding window, or its whole
document) and whether queries and keys are rotated (RoPE) or carry no position (NoPE). Everything
else in Ropewalk asks the expanded tuple of `LayerSpec`; nobody works a layer's kind out of its
index.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol


@dataclass(frozen=True)
class LayerSpec:
    """What one layer's attention does.

    window: number of keys a token sees, itself included; None means every earlier token of its
    document. rotary: whether queries and keys are rotated by their position.
    """

    window: int | None
    rotary: bool


@dataclass(frozen=True)
class LayerKind:
    """The meaning of one name in a layer pattern."""

    windowed: bool
    rotary: bool


LAYER_KINDS: Mapping[str, LayerKind] = MappingProxyType(
    {
        "window_rope": LayerKind(windowed=True, rotary=True),
        "window_nope": LayerKind(windowed=True, rotary=False),
        "full_rope": LayerKind(windowed=False, rotary=True),
        "full_nope": LayerKind(windowed=False, rotary=False),
    }
)


class PatternSource(Protocol):
    """The three fields of a configuration that decide the pattern."""

    num_layers: int
    window: int
    layer_pattern: list[str]


def expand_pattern(config: PatternSource) -> tuple[LayerSpec, ...]:
    """The specification of every layer, by global layer index.

    Raises KeyError for an unknown kind: `ModelConfig.problems` reports it to the user first.
    """
    pattern = config.layer_pattern
    kinds = (LAYER_KINDS[pattern[index % len(pattern)]] for index in range(config.num_layers))
    return tuple(LayerSpec(config.window if k.windowed else None, k.rotary) for k in kinds)
