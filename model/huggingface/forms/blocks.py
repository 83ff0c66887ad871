"""Blocks, norms, feed-forwards, biases; embedding, head and logits."""

import math
from dataclasses import replace

from model.config import ModelConfig
from model.huggingface.forms.form import Form, number, of_model


def _has_root(model: ModelConfig) -> bool:
    return math.isclose(model.embedding_scale, math.sqrt(model.hidden_size))


def _has_another(model: ModelConfig) -> bool:
    return model.embedding_scale != 1.0 and not _has_root(model)


BLOCK: tuple[Form, ...] = (
    of_model("parallel block", block="parallel"),
    of_model("sequential block", block="sequential"),
    of_model("norms before attention and feed-forward", norm_at="before"),
    of_model("norms after them", norm_at="after"),
    of_model("norms before and after them", norm_at="both"),
    of_model("LayerNorm", norm="layernorm"),
    of_model("RMSNorm", norm="rmsnorm"),
    of_model("RMSNorm with 1 + weight", norm="rmsnorm_plus_one"),
    of_model("silu", activation="silu"),
    of_model("gelu", activation="gelu_tanh"),
    of_model("clamped silu", activation="clamped_silu"),
    of_model("biases of queries, keys and values alone", qkv_bias=True, output_bias=False),
    of_model("biases of all projections of attention", qkv_bias=True, output_bias=True),
    of_model("biases of the output projection alone", qkv_bias=False, output_bias=True),
    of_model("biases of the feed-forward", feed_forward_bias=True),
    number("a factor of what is added to the residual stream", "residual_scale", 0.5, 1.0),
)
ENDS: tuple[Form, ...] = (
    of_model("tied head", tie_embeddings=True),
    of_model("head of its own", tie_embeddings=False),
    Form(
        "embedding times the root of its width",
        "model.embedding_scale",
        _has_root,
        lambda model: [replace(model, embedding_scale=math.sqrt(model.hidden_size))],
    ),
    Form(
        "embedding times another factor",
        "model.embedding_scale",
        _has_another,
        lambda model: [replace(model, embedding_scale=3.0)],
    ),
    number("a factor of the logits", "logit_scale", 0.25, 1.0),
    number("a cap of the logits", "logit_softcap", 30.0, 0.0),
)
