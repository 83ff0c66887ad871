"""Phi-3, Phi-3.5 and Phi-4: Llama with two pairs of matrices in one tensor each, LongRoPE, and partly rotated heads.

    qkv_proj       rows of queries, then keys, then values
    gate_up_proj   rows of the gate, then those beside it

Attention turns the first `partial_rotary_factor` of a head. `original_max_position_embeddings` stands outside the
scaling and is 4096 where it is absent. Phi-4 multimodal and the mixtures of experts are other model types.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from model.config import ModelConfig
from model.huggingface.family import Family, Json, Row
from model.huggingface.layer_fields import read_alike, rotated_widths, write_alike
from model.huggingface.links import Link, interleave, joined, split_halves
from model.huggingface.refusal import CannotExpress
from model.huggingface.rope_rules import RopeRules
from model.huggingface.rows import ATTENTION, FEED_FORWARD, PRE_NORMS, sizes
from model.layer_pattern import layer_kinds

# `--check` reads the tables of this file without importing torch.
if TYPE_CHECKING:
    from torch import Tensor


def _write_layers(model: ModelConfig) -> Json:
    ropes = [spec.rope for spec in layer_kinds(model).values()]
    wide = model.head_dim * model.num_heads != model.hidden_size
    if wide and any(rope is not None and rope.scaling == "longrope" for rope in ropes):
        raise CannotExpress(
            [
                f"model.head_dim={model.head_dim}: with rope scaling=longrope phi3 requires hidden_size / num_heads = "
                f"{model.hidden_size} / {model.num_heads}"
            ]
        )
    return write_alike(model)


def _fused(model: ModelConfig, layer: int) -> list[Link]:
    ours, theirs = f"layers.{layer}", f"model.layers.{layer}"
    width, queries = rotated_widths(model)[layer], model.num_heads * model.head_dim
    values = queries + model.num_kv_heads * model.head_dim

    def apart(tensors: Sequence[Tensor]) -> list[Tensor]:
        whole = tensors[0]
        turned = (
            interleave(rows, model.head_dim, width)
            for rows in (whole[:queries], whole[queries:values])
        )
        return [*turned, whole[values:].contiguous()]

    def together(tensors: Sequence[Tensor]) -> list[Tensor]:
        q, k, v = tensors
        turned = (split_halves(rows, model.head_dim, width) for rows in (q, k))
        return [joined([*turned, v])]

    return [
        Link(
            (f"{theirs}.self_attn.qkv_proj.weight",),
            tuple(f"{ours}.attention.{name}_proj.weight" for name in "qkv"),
            apart,
            together,
        ),
        Link(
            (f"{theirs}.mlp.gate_up_proj.weight",),
            (f"{ours}.feed_forward.gate_proj.weight", f"{ours}.feed_forward.up_proj.weight"),
            lambda tensors: [half.contiguous() for half in tensors[0].chunk(2)],
            lambda tensors: [joined(tensors)],
        ),
    ]


PHI3 = Family(
    model_type="phi3",
    architecture="Phi3ForCausalLM",
    recipe={"block": "sequential", "norm": "rmsnorm"},
    rows=[*sizes(tied=False), Row("rms_norm_eps", 1e-5, ("norm_eps",))],
    kinds=frozenset({"full_rope", "window_rope"}),
    default_base=10_000.0,
    modules={**PRE_NORMS, **ATTENTION, **FEED_FORWARD},
    read_layers=read_alike,
    write_layers=_write_layers,
    layer_keys=("sliding_window",),
    rope_rules=RopeRules(
        types=("default", "longrope"),
        slices=True,
        other_names={"su": "longrope", "yarn": "longrope"},
        original=4096,
        old_fields={"longrope": ("type", "short_factor", "long_factor")},
    ),
    published=("partial_rotary_factor", "original_max_position_embeddings"),
    special=_fused,
)
