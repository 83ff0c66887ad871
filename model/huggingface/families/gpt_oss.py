"""gpt-oss with one expert: sinks, biases, a clamped gate, YaRN.

Its feed-forward is a mixture of experts, which we do not support. With one expert it is dense and the router has no
effect: export writes zeros for the router, import requires zeros. Gate and up are interleaved columns of one tensor,
and the matrices of experts are stored transposed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from model.config import ModelConfig
from model.huggingface.family import Family, Json, Row
from model.huggingface.layer_fields import (
    SLIDING,
    every,
    layer_types,
    windowed_pattern,
    written_types,
)
from model.huggingface.links import Link, same
from model.huggingface.refusal import CannotExpress
from model.huggingface.rows import ATTENTION, PRE_NORMS, attention_bias, sizes

# `--check` reads the tables of this file without importing torch.
if TYPE_CHECKING:
    from torch import Tensor


def _read_layers(config: Mapping[str, Any]) -> Json:
    types = layer_types(config, every(2, config["num_hidden_layers"]))
    kinds = ["window_rope" if kind == SLIDING else "full_rope" for kind in types]
    return windowed_pattern(kinds, config.get("sliding_window", 128))


def _write_layers(model: ModelConfig) -> Json:
    return {"layer_types": written_types(model), "sliding_window": model.window}


def _gate_and_up(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Splits (1, ..., 2F), interleaved columns of gate and up, into gate and up, (F, ...) each."""
    columns = tensors[0][0]
    return [columns[..., 0::2].t().contiguous(), columns[..., 1::2].t().contiguous()]


def _in_turn(tensors: Sequence[Tensor]) -> list[Tensor]:
    gate, up = (tensor.t() for tensor in tensors)
    both = gate.new_empty((*gate.shape, 2))
    both[..., 0], both[..., 1] = gate, up
    return [both.flatten(-2)[None]]


def _transposed(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensors[0].squeeze(0).t().contiguous()]


def _transposed_back(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensors[0].t()[None].contiguous()]


def _without_router(tensors: Sequence[Tensor]) -> list[Tensor]:
    bias, *router = tensors
    if any(not tensor.is_meta and tensor.count_nonzero() for tensor in router):
        raise CannotExpress(
            ["mlp.router: with one expert it has no effect and nothing here holds it; set it to zero"]
        )  # fmt: skip
    return [bias[0]]


def _with_router(tensors: Sequence[Tensor]) -> list[Tensor]:
    (bias,) = tensors
    return [bias[None], bias.new_zeros(bias.shape)[None], bias.new_zeros(1)]


def _sinks_and_feed_forward(_: ModelConfig, layer: int) -> list[Link]:
    ours, theirs = f"layers.{layer}.feed_forward", f"model.layers.{layer}.mlp"
    experts = f"{theirs}.experts"
    return [
        same(f"model.layers.{layer}.self_attn.sinks", f"layers.{layer}.attention.sinks.weight"),
        Link(
            (f"{experts}.gate_up_proj",),
            (f"{ours}.gate_proj.weight", f"{ours}.up_proj.weight"),
            _gate_and_up,
            _in_turn,
        ),
        Link(
            (f"{experts}.gate_up_proj_bias",),
            (f"{ours}.gate_proj.bias", f"{ours}.up_proj.bias"),
            _gate_and_up,
            _in_turn,
        ),
        Link(
            (f"{experts}.down_proj",), (f"{ours}.down_proj.weight",), _transposed, _transposed_back
        ),
        Link(
            (f"{experts}.down_proj_bias", f"{theirs}.router.weight", f"{theirs}.router.bias"),
            (f"{ours}.down_proj.bias",),
            _without_router,
            _with_router,
        ),
    ]


GPT_OSS = Family(
    model_type="gpt_oss",
    architecture="GptOssForCausalLM",
    recipe={
        "block": "sequential",
        "norm": "rmsnorm",
        "feed_forward_bias": True,
        "activation": "clamped_silu",
        "sinks": True,
    },
    rows=[
        *sizes(tied=False, head_dim=64, kv_heads=8),
        attention_bias(True),
        Row("rms_norm_eps", 1e-5, ("norm_eps",)),
        # We cannot express a mixture of experts.
        Row("num_local_experts", 128, only=(1,)),
        Row("num_experts_per_tok", 4, only=(1,)),
        Row("swiglu_limit", 7.0, only=(7.0,)),
    ],
    kinds=frozenset({"full_rope", "window_rope"}),
    default_base=150_000.0,
    default_rope={
        "rope_type": "yarn",
        "factor": 32.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
    modules={**PRE_NORMS, **ATTENTION},
    read_layers=_read_layers,
    write_layers=_write_layers,
    special=_sinks_and_feed_forward,
)
