"""Sinks, gates, norms of queries and keys, factors and caps of attention."""

from dataclasses import replace
from typing import Literal

from model.config import ModelConfig
from model.huggingface.forms.form import Form, in_some, number, of_layers, some
from model.layer_pattern import Gate, GateOver, LayerSpec


def _gate(name: str, gate: Gate, over: GateOver) -> Form:
    def says(spec: LayerSpec) -> bool:
        return spec.gate == gate and spec.gate_over == over

    return of_layers(name, says, gate=gate, gate_over=over)


def _normed(name: str, over: Literal["head", "each_head", "projection"]) -> Form:
    def has(model: ModelConfig) -> bool:
        return model.qk_norm_over == over and some(lambda spec: spec.qk_norm)(model)

    return Form(
        name,
        f"model.qk_norm=true .qk_norm_over={over}",
        has,
        lambda model: [replace(model, qk_norm=True, qk_norm_over=over)],
    )


ATTENTION: tuple[Form, ...] = (
    of_layers("sinks", lambda spec: spec.sinks, sinks=True),
    in_some("sinks in some layers alone", "sinks"),
    _gate("sigmoid gate over heads", "sigmoid", "head"),
    _gate("sigmoid gate over channels", "sigmoid", "channel"),
    _gate("softplus gate over heads", "softplus", "head"),
    _gate("softplus gate over channels", "softplus", "channel"),
    Form(
        "static gates, folded into the output projection",
        "model.static_gate",
        some(lambda spec: spec.static_gate != "none"),
        lambda model: [replace(model, static_gate="channel").without_static_gates()],
    ),
    _normed("QK-norm over heads, one weight for all", "head"),
    _normed("QK-norm over heads, a weight for each", "each_head"),
    _normed("QK-norm over the whole projection", "projection"),
    of_layers(
        "QK-norm after the rotation",
        lambda spec: spec.qk_norm and spec.qk_norm_at == "after",
        qk_norm=True,
        qk_norm_at="after",
    ),
    of_layers(
        "QK-norm without a weight",
        lambda spec: spec.qk_norm and not spec.qk_norm_weight,
        qk_norm=True,
        qk_norm_weight=False,
    ),
    in_some("QK-norm in some layers alone", "qk_norm"),
    Form(
        "a factor of the values",
        "model.value_scale",
        some(lambda spec: spec.value_scale != 1.0),
        lambda model: [replace(model, value_scale=0.5)],
    ),
    number("a factor of the queries", "query_scale", 1.5, 1.0),
    number("a cap of the scores", "attention_softcap", 50.0, 0.0),
)
