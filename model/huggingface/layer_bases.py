"""A family whose config.json has a RoPE base for every layer, 0 for a layer without rotation (Granite with windows).

Here a base belongs to a kind of layer. The most frequent base of the windowed layers is that of `window_rope`; layers
with another base are of the kinds `window_rope_2`, `window_rope_3`, ..., which are like it. The full layers likewise:

    layer             0      1        2        3      4       5
    their base        0      10,000   10,000   0      5,000   10,000       windows in 1, 2, 4 and 5
    kind here   full_nope    window_rope  window_rope  full_nope  window_rope_2  window_rope

The schedule sets the base of `full_rope` (without such layers, of `window_rope`) and of the layers with the same base;
the others keep theirs.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from model.huggingface.layer_fields import SLIDING
from model.huggingface.refusal import CannotExpress
from model.huggingface.rope_values import is_number
from model.layer_pattern import LAYER_KINDS
from model.position.methods import RopeMethod


def listed_bases(config: Mapping[str, Any], key: str, base: float) -> list[float]:
    """The base of every layer. key: of the list. base: of all layers where there is no list.

    Raises:
        CannotExpress: it is no list of one number a layer, each 0 or above 1.
    """
    layers = config["num_hidden_layers"]
    bases = config.get(key)
    if bases is None:
        return [base] * layers
    if len(bases) != layers or not all(
        is_number(each) and (each == 0 or each > 1) for each in bases
    ):
        raise CannotExpress(
            [
                f"config.json: {key}: must be a list of num_hidden_layers={layers} numbers, each 0 or above 1"
            ]
        )
    return [float(each) for each in bases]


def kinds_of(types: Sequence[str], bases: Sequence[float]) -> list[str]:
    """The kind of every layer. types: `layer_types`."""
    names: dict[tuple[str, float], str] = {}
    for kind in dict.fromkeys(types):
        sees = "window" if kind == SLIDING else "full"
        found = Counter(
            base for own, base in zip(types, bases, strict=True) if own == kind and base
        )
        names[kind, 0.0] = f"{sees}_nope"
        for place, (base, _) in enumerate(found.most_common(), start=1):
            names[kind, base] = f"{sees}_rope" if place == 1 else f"{sees}_rope_{place}"
    return [names[key] for key in zip(types, bases, strict=True)]


def like(kind: str) -> Literal["", "window_rope", "full_rope"]:
    """The built-in kind that a kind of `kinds_of` is like; empty for a built-in kind itself."""
    if kind in LAYER_KINDS:
        return ""
    return "window_rope" if kind.startswith("window_rope") else "full_rope"


def rope_of_kinds(
    kinds: Sequence[str], bases: Sequence[float], rope: RopeMethod
) -> dict[str, tuple[float, RopeMethod]]:
    """Base and rotation of every kind that rotates. kinds, bases: of every layer. rope: the scaling of all of them."""
    found = {kind: base for kind, base in zip(kinds, bases, strict=True) if base}
    scheduled = found.get("full_rope", found.get("window_rope"))
    return {
        kind: (base, rope if base == scheduled else replace(rope, base=base))
        for kind, base in found.items()
    }
