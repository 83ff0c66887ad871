"""Models that the parity tests run: two that hold most settings at once, and models of single forms of attention."""

from dataclasses import replace

from model.config import ModelConfig
from model.layer_pattern import KindConfig
from model.position.dynamic_ntk import DynamicNtkRope
from model.position.fourier import Fourier
from model.position.linear import LinearRope
from model.position.llama3 import Llama3Rope
from model.position.longrope import LongRope
from model.position.ntk import NtkRope
from model.position.rope import Rope
from model.position.scales.drope import DropeScale
from model.position.scales.llama4 import Llama4Scale
from model.position.scales.ministral3 import Ministral3Scale
from model.position.scales.ssmax import SsmaxScale
from model.position.scales.swan import SwanScale
from model.position.yarn import YarnRope

TOKENS = 96

_SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 4,
    "head_dim": 8,
    "vocab_size": 40,
    "attention_backend": "dense",
}
# Seven layers: two, four and eight stages do not divide them, and the last one is windowed. In `cohere`
# four tensor ranks share two key heads, and there are two kinds of windowed layers, each with a rotation of its own,
# and one in attention chunks whose borders are no borders of ranks.
# `llama` has one key head, a window larger than a rank's share, and what
# imported models bring: norms on both sides and over all heads, biases, caps, scaling by kind of layer.
MODELS = {
    "cohere": ModelConfig(
        **_SHAPE,
        num_layers=7,
        num_kv_heads=2,
        layer_pattern=["near", "full_nope", "wide", "part"],
        kinds={
            "near": KindConfig(like="window_rope", window=5),
            "wide": KindConfig(like="window_rope", window=17, rope=LinearRope(factor=2.0)),
            "part": KindConfig(like="chunk_rope", chunk=20),
        },
    ),
    "llama": ModelConfig(
        **_SHAPE,
        num_layers=7,
        num_kv_heads=1,
        window=40,
        layer_pattern=["window_rope", "full_rope"],
        block="sequential",
        norm="rmsnorm",
        norm_at="both",
        qk_norm=True,
        qk_norm_over="projection",
        qkv_bias=True,
        output_bias=True,
        feed_forward_bias=True,
        attention_softcap=2.0,
        logit_softcap=3.0,
        query_scale=1.5,
        embedding_scale=4.0,
        kinds={
            "window_rope": KindConfig(rope=Rope(base=500.0)),
            "full_rope": KindConfig(rope=YarnRope(factor=2.0, original_length=48)),
        },
        tie_embeddings=False,
        logit_scale=0.5,
    ),
}
# Rotations of models below: a part of the head with whole wavelengths; methods that read the length of the streams.
HALF = Rope(rotary_share=0.5, resonance=True)
LONG = LongRope(
    factor=2.0,
    original_length=TOKENS // 2,
    short_factors=[1.0] * 4,
    long_factors=[1.0, 1.5, 2.0, 2.5],
    unscaled_tokens=3,
)
PAPER = YarnRope(
    factor=2.0, original_length=48, ramp="paper", rotary_share=0.75, resonance=True, base=1e4
)
# Their cases are in `test_attention_forms.py`: layers with a form of attention beside layers without it.
FORMS = {
    "gated": replace(
        MODELS["cohere"],
        sinks=True,
        residual_scale=0.7,
        gate="sigmoid",
        gate_over="channel",
        kinds={
            "near": KindConfig(
                like="window_rope", window=5, gate="softplus", gate_over="head", value_scale=0.7
            ),
            "wide": KindConfig(
                like="window_rope",
                window=17,
                sinks=False,
                gate="none",
                qk_norm=True,
                qk_norm_at="after",
                qk_norm_weight=False,
            ),
            "part": KindConfig(like="chunk_rope", chunk=20),
        },
    ),
    "normed": replace(
        MODELS["llama"],
        gate="sigmoid",
        residual_scale=0.7,
        kinds={
            "window_rope": KindConfig(qk_norm_at="after", value_scale=0.7),
            "full_rope": KindConfig(
                rope=MODELS["llama"].kinds["full_rope"].rope,
                qk_norm_weight=False,
                gate="softplus",
                gate_over="channel",
            ),
        },
    ),
    "scaled": replace(
        MODELS["cohere"],
        kinds={
            "near": KindConfig(
                like="window_rope",
                window=5,
                position_scale=SsmaxScale(0.6),
                gate="sigmoid",
                gate_over="channel",
            ),
            "full_nope": KindConfig(position_scale=SsmaxScale(0.4)),
            "wide": KindConfig(like="window_rope", window=17, position_scale=Llama4Scale(0.5, 8)),
            "part": KindConfig(like="chunk_rope", chunk=20, position_scale=SsmaxScale(0.7)),
        },
    ),
    "turned": replace(
        MODELS["cohere"],
        kinds={
            "near": KindConfig(like="window_rope", window=5, rope=HALF),
            "wide": KindConfig(like="window_rope", window=17, rope=LONG),
            "part": KindConfig(
                like="chunk_rope", chunk=20, rope=replace(HALF, partial="proportional")
            ),
        },
    ),
    "turned_llama": replace(
        MODELS["llama"],
        kinds={
            "window_rope": KindConfig(rope=PAPER),
            "full_rope": KindConfig(rope=DynamicNtkRope(original_length=48)),
        },
    ),
    "scaled_llama": replace(
        MODELS["llama"],
        kinds={
            "window_rope": KindConfig(position_scale=SwanScale(6.0)),
            "full_rope": KindConfig(position_scale=SsmaxScale(0.5)),
        },
    ),
}
FORMS |= {
    # FoPE that has grown with the length: the slow pairs of the windowed layers stay dropped.
    "fourier": replace(
        MODELS["cohere"],
        kinds={
            "near": KindConfig(like="window_rope", window=5, rope=Rope(fourier=Fourier(sigma=0.2))),
            "wide": KindConfig(
                like="window_rope",
                window=17,
                rope=YarnRope(
                    factor=2.0,
                    original_length=48,
                    rotary_share=0.75,
                    resonance=True,
                    fourier=Fourier(num_tones=6),
                ),
            ),
            "part": KindConfig(
                like="chunk_rope", chunk=20, rope=Rope(fourier=Fourier(form="official", seed=3))
            ),
        },
    ),
    "fourier_llama": replace(
        MODELS["llama"],
        kinds={
            "window_rope": KindConfig(rope=Rope(fourier=Fourier(form="official"))),
            "full_rope": KindConfig(rope=Rope(fourier=Fourier(num_tones=9))),
        },
    ),
    # What is left: methods that scale frequencies of full layers, scales of queries without a parameter.
    "extended": replace(
        MODELS["cohere"],
        layer_pattern=["near", "full_nope", "wide", "part", "far"],
        kinds={
            "near": KindConfig(like="window_rope", window=5, rope=NtkRope(factor=2.0)),
            "full_nope": KindConfig(position_scale=Ministral3Scale(0.2, original_length=20)),
            "wide": KindConfig(
                like="full_rope",
                rope=Llama3Rope(factor=2.0, original_length=48),
                position_scale=DropeScale(trained_length=24),
            ),
            "part": KindConfig(like="chunk_nope", chunk=20, position_scale=SwanScale(6.0)),
            "far": KindConfig(like="full_rope", rope=LinearRope(factor=3.0, resonance=True)),
        },
    ),
}
# Static gates over heads and over channels, beside layers without one.
FORMS |= {
    "static": replace(
        MODELS["cohere"],
        static_gate="head",
        kinds={
            "near": KindConfig(like="window_rope", window=5, static_gate="channel"),
            "wide": KindConfig(like="window_rope", window=17, static_gate="none"),
            "part": KindConfig(like="chunk_rope", chunk=20, gate="sigmoid"),
        },
    ),
    "static_llama": replace(
        MODELS["llama"],
        static_gate="channel",
        kinds=MODELS["llama"].kinds
        | {"window_rope": KindConfig(static_gate="head", gate="softplus", gate_over="channel")},
    ),
}
# Norms of queries and keys with weights for every head: after a LayerNorm here, an RMSNorm with 1 + weight there.
FORMS |= {
    "headed": replace(
        MODELS["cohere"],
        qk_norm=True,
        qk_norm_over="each_head",
        kinds=MODELS["cohere"].kinds
        | {
            "full_nope": KindConfig(qk_norm_at="after"),
            "part": KindConfig(like="chunk_rope", chunk=20, qk_norm=False),
        },
    ),
    "headed_llama": replace(
        MODELS["llama"],
        norm="rmsnorm_plus_one",
        qk_norm_over="each_head",
        kinds=MODELS["llama"].kinds | {"window_rope": KindConfig(qk_norm_weight=False)},
    ),
}
