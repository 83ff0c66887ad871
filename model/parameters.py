"""The table of parameters: shape, cut, initial values and other properties, one row per name.

    name in the Transformer             row
    embedding.weight                    EMBEDDING["embedding.weight"]
    layers.3.attention.q_proj.weight    LAYER["attention.q_proj.weight"]
    norm.weight                         HEAD["norm.weight"]

Building, cutting, initialising, decay, FLOPs, costs, checkpoints and the exchange with Hugging Face use `role_of`,
which raises for a name without a row. Names and shapes are those of the whole (logical) parameter. No tensors here.

Letters of shapes: V vocabulary, D width, F feed-forward width, H query heads, G key/value heads, K head dimension; S
and C the reduced widths of static gates over heads and channels. "HK D" is a matrix of H * K rows and D columns.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from model.config import ModelConfig
from model.layer_pattern import LayerSpec, expand_pattern

# The field of ModelConfig that each letter of a shape stands for.
FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "V": "vocab_size",
        "D": "hidden_size",
        "F": "intermediate_size",
        "H": "num_heads",
        "G": "num_kv_heads",
        "K": "head_dim",
    }
)


# What the reduced widths of static gates are made from.
REDUCED: Mapping[str, str] = MappingProxyType({"S": "H", "C": "HK"})


@dataclass(frozen=True)
class Role:
    """The properties of one parameter of the model, or of one parameter that every layer has.

    shape: logical shape, in letters. cut: how tensor ranks divide it: by rows, by columns, by the rows of key/value
    heads (several ranks hold the same head where there are fewer heads than ranks), or not at all.
    summed: whether the tensor ranks that hold the same part each compute a share of its gradient (that of their own
    tokens or heads), and the shares must be summed. False where each computes the whole gradient.
    initial: normal (deviation init_std), into_residual (init_std / sqrt(2 num_layers): the product is added to the
    residual stream), norm (multiplies by one), zero, scale (as the layer's `position_scale` says), positive (the
    absolute value of normal) or tenth (0.1). decays: whether weight decay applies. multiplies_tokens: whether all of
    its elements multiply every token, so that FLOPs count them.
    turned: whether its rows are in the order of rotary pairs: (2i, 2i + 1) here, (i, i + K / 2) in most
    families of Hugging Face. present: whether a layer of this specification has it, in a model with this
    configuration; not asked for the parameters of the ends, which every embedding or head has.
    """

    shape: str
    cut: Literal["rows", "key_rows", "columns", "whole"]
    summed: bool
    initial: Literal[
        "normal", "into_residual", "norm", "zero", "scale", "positive", "tenth"
    ] = "normal"  # fmt: skip
    decays: bool = True
    multiplies_tokens: bool = True
    turned: bool = False
    present: Callable[[ModelConfig, LayerSpec], bool] = lambda config, spec: True  # noqa: ARG005

    @property
    def dims(self) -> tuple[str, ...]:
        """The letters of every dimension."""
        return tuple(self.shape.split())


def _vector(
    shape: str,
    cut: Literal["rows", "key_rows", "whole"],
    initial: Literal["normal", "norm", "zero", "scale", "tenth"],
    present: Callable[[ModelConfig, LayerSpec], bool] = lambda config, spec: True,  # noqa: ARG005
    *,
    turned: bool = False,
) -> Role:
    """Row of norms, biases, sinks: not decayed; ranks that hold the same part each compute a share of its gradient."""
    return Role(shape, cut, cut != "rows", initial, False, False, turned, present)


def _norms_before(config: ModelConfig, _: LayerSpec) -> bool:
    return config.norm_at != "after"


def _norms_after(config: ModelConfig, _: LayerSpec) -> bool:
    return config.halves == 2 and config.norm_at != "before"


def _norms_each_head(config: ModelConfig, spec: LayerSpec) -> bool:
    return spec.qk_norm and spec.qk_norm_weight and config.qk_norm_over == "head"


def _norms_head_by_head(config: ModelConfig, spec: LayerSpec) -> bool:
    return spec.qk_norm and spec.qk_norm_weight and config.qk_norm_over == "each_head"


def _norms_all_heads(config: ModelConfig, spec: LayerSpec) -> bool:
    return spec.qk_norm and spec.qk_norm_weight and config.qk_norm_over == "projection"


def _gates_channels(_: ModelConfig, spec: LayerSpec) -> bool:
    return spec.gate != "none" and spec.gate_over == "channel"


def _gates_heads(_: ModelConfig, spec: LayerSpec) -> bool:
    return spec.gate != "none" and spec.gate_over == "head"


def _static_over_channels(_: ModelConfig, spec: LayerSpec) -> bool:
    return spec.static_gate == "channel"


def _static_over_heads(_: ModelConfig, spec: LayerSpec) -> bool:
    return spec.static_gate == "head"


def _static_matrix(
    shape: str,
    present: Callable[[ModelConfig, LayerSpec], bool],
    initial: Literal["normal", "positive"],
) -> Role:
    """Row of a matrix of a static gate: each tensor rank has the share of its own heads' gates in the gradient."""
    return Role(shape, "whole", True, initial, multiplies_tokens=False, present=present)


def _has_qkv_bias(config: ModelConfig, _: LayerSpec) -> bool:
    return config.qkv_bias


def _has_feed_forward_bias(config: ModelConfig, _: LayerSpec) -> bool:
    return config.feed_forward_bias


EMBEDDING: Mapping[str, Role] = MappingProxyType(
    {"embedding.weight": Role("V D", "rows", False, decays=False, multiplies_tokens=False)}
)
LAYER: Mapping[str, Role] = MappingProxyType(
    {
        "norm.weight": _vector("D", "whole", "norm", _norms_before),
        "post_norm.weight": _vector("D", "whole", "norm", _norms_after),
        "feed_forward_norm.weight": _vector(
            "D",
            "whole",
            "norm",
            lambda config, spec: config.halves == 2 and _norms_before(config, spec),
        ),
        "feed_forward_post_norm.weight": _vector("D", "whole", "norm", _norms_after),
        "attention.q_proj.weight": Role("HK D", "rows", False, turned=True),
        "attention.q_proj.bias": _vector("HK", "rows", "zero", _has_qkv_bias, turned=True),
        "attention.k_proj.weight": Role("GK D", "key_rows", True, turned=True),
        "attention.k_proj.bias": _vector("GK", "key_rows", "zero", _has_qkv_bias, turned=True),
        "attention.v_proj.weight": Role("GK D", "key_rows", True),
        "attention.v_proj.bias": _vector("GK", "key_rows", "zero", _has_qkv_bias),
        "attention.gate_proj.weight": Role("HK D", "rows", False, present=_gates_channels),
        "attention.head_gate_proj.weight": Role("H D", "rows", False, present=_gates_heads),
        "attention.o_proj.weight": Role("D HK", "columns", False, "into_residual"),
        "attention.o_proj.bias": _vector(
            "D", "whole", "zero", lambda config, _: config.output_bias
        ),
        "attention.q_norm.weight": _vector("K", "whole", "norm", _norms_each_head, turned=True),
        "attention.k_norm.weight": _vector("K", "whole", "norm", _norms_each_head, turned=True),
        "attention.q_heads_norm.weight": _vector(
            "H K", "rows", "norm", _norms_head_by_head, turned=True
        ),
        "attention.k_heads_norm.weight": _vector(
            "G K", "key_rows", "norm", _norms_head_by_head, turned=True
        ),
        "attention.q_projection_norm.weight": _vector(
            "HK", "rows", "norm", _norms_all_heads, turned=True
        ),
        "attention.k_projection_norm.weight": _vector(
            "GK", "key_rows", "norm", _norms_all_heads, turned=True
        ),
        "attention.position_scale.weight": _vector(
            "H", "rows", "scale", lambda _, spec: spec.learns_scale
        ),
        "attention.sinks.weight": _vector("H", "rows", "normal", lambda _, spec: spec.sinks),
        "attention.static_gate.constant.weight": _vector(
            "HK", "whole", "tenth", _static_over_channels
        ),
        "attention.static_gate.reduce.weight": _static_matrix(
            "C HK", _static_over_channels, "positive"
        ),
        "attention.static_gate.expand.weight": _static_matrix(
            "HK C", _static_over_channels, "normal"
        ),
        "attention.head_static_gate.constant.weight": _vector(
            "H", "whole", "tenth", _static_over_heads
        ),
        "attention.head_static_gate.reduce.weight": _static_matrix(
            "S H", _static_over_heads, "positive"
        ),
        "attention.head_static_gate.expand.weight": _static_matrix(
            "H S", _static_over_heads, "normal"
        ),
        "feed_forward.gate_proj.weight": Role("F D", "rows", False),
        "feed_forward.gate_proj.bias": _vector("F", "rows", "zero", _has_feed_forward_bias),
        "feed_forward.up_proj.weight": Role("F D", "rows", False),
        "feed_forward.up_proj.bias": _vector("F", "rows", "zero", _has_feed_forward_bias),
        "feed_forward.down_proj.weight": Role("D F", "columns", False, "into_residual"),
        "feed_forward.down_proj.bias": _vector("D", "whole", "zero", _has_feed_forward_bias),
    }
)
HEAD: Mapping[str, Role] = MappingProxyType(
    {
        "norm.weight": _vector("D", "whole", "norm"),
        "lm_head.weight": Role("V D", "rows", False),
    }
)


def role_of(name: str) -> Role:
    """The row of the parameter called `name`, its full name in the Transformer.

    Raises:
        LookupError: the table has no such row.
    """
    in_layer = name.startswith("layers.")
    role = LAYER.get(name.split(".", 2)[-1]) if in_layer else {**EMBEDDING, **HEAD}.get(name)
    if role is None:
        raise LookupError(
            f"{name}: the table of parameters has no such row; add one to model/parameters.py with its shape, "
            "its cut over tensor ranks, its initial values and whether it decays"
        )
    return role


def shape_of(name: str, config: ModelConfig) -> tuple[int, ...]:
    """Logical shape of a parameter.

    Raises:
        LookupError: the table has no such row.
    """
    return tuple(_length(dim, config) for dim in role_of(name).dims)


def reduced_width(width: int) -> int:
    """Numbers between the two matrices of a static gate over `width` heads or channels."""
    return max(1, width // 16)


def _length(dim: str, config: ModelConfig) -> int:
    if dim in REDUCED:
        return reduced_width(_length(REDUCED[dim], config))
    return math.prod(getattr(config, FIELDS[letter]) for letter in dim)


def numbers_of(name: str, config: ModelConfig) -> str:
    """The name of the parameter that shares its values with `name`: the embedding for a tied head, else `name`."""
    tied = name == "lm_head.weight" and config.tie_embeddings
    return "embedding.weight" if tied else name


def parameter_names(
    config: ModelConfig,
    layers: Iterable[int],
    *,
    has_embedding: bool = True,
    has_head: bool = True,
) -> list[str]:
    """Names of all parameters of a Transformer with these layers and ends; a tied head counts as the embedding."""
    specs = expand_pattern(config)
    found = list(EMBEDDING) if has_embedding else []
    for layer in layers:
        found += layer_names(config, specs[layer], layer)
    found += list(HEAD) if has_head else []
    return [name for name in found if not has_embedding or numbers_of(name, config) == name]


def layer_names(config: ModelConfig, spec: LayerSpec, layer: int = 0) -> list[str]:
    """Names of the parameters of one layer of this specification, as the layer of this number."""
    return [f"layers.{layer}.{name}" for name, role in LAYER.items() if role.present(config, spec)]


def check_parameters(
    found: Mapping[str, tuple[int, ...]], expected: Iterable[str], config: ModelConfig
) -> None:
    """Compare the parameters of a module, by name and shape, with the rows of the expected names.

    Raises:
        LookupError: a parameter has no row.
        ValueError: a parameter is missing, is not expected or has another shape than its row.
    """
    rows = {name: shape_of(name, config) for name in (*found, *expected)}
    wanted = {name: rows[name] for name in expected}
    for name, shape in rows.items():
        if found.get(name) != wanted.get(name):
            raise ValueError(
                f"{name}: the model has {found.get(name, 'none')}, the table of parameters has "
                f"{shape if name in wanted else 'none'}; make model/parameters.py and the module agree"
            )
