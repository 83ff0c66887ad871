"""Folds the static gates of a model into its `o_proj`, for formats that have no such gates.

    o_proj(o * g)  =  (o_proj with its columns times g)(o)

The folded model is the plain one: the same parameters under the same names, and no others. Products are float64; the
caller rounds once, to the dtype it writes. See `model/attention/static_gate.py`.
"""

from collections.abc import Callable

from torch import Tensor

from model.attention.static_gate import folded
from model.config import ModelConfig
from model.layer_pattern import expand_pattern

Read = Callable[[str], Tensor]


def folding_read(model: ModelConfig, read: Read) -> Read:
    """Reads the parameters of `model.without_static_gates()` by means of `read`, which returns those of `model`."""
    specs = expand_pattern(model)

    def read_folded(name: str) -> Tensor:
        found = read(name)
        layer, _, rest = name.removeprefix("layers.").partition(".")
        if rest != "attention.o_proj.weight" or specs[int(layer)].static_gate == "none":
            return found
        module = "static_gate" if specs[int(layer)].static_gate == "channel" else "head_static_gate"
        gate = f"layers.{layer}.attention.{module}"
        parts = ("constant.weight", "reduce.weight", "expand.weight")
        return folded(found, *(read(f"{gate}.{part}") for part in parts))

    return read_folded
