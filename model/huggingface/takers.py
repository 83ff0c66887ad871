"""Which families take a form (`forms/`): the form is given to small models of every family, and written.

A family takes a form if it can write one of its small models with that form. Families differ, so a model whose forms
all have takers may still have no family. `python -m tests.unit.family_table` makes the table of docs/huggingface.md.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from model.config import ModelConfig
from model.huggingface.catalogue import BY_TYPE, FAMILIES, family_for
from model.huggingface.family import Family
from model.huggingface.forms.attention import ATTENTION
from model.huggingface.forms.blocks import BLOCK, ENDS
from model.huggingface.forms.form import Form
from model.huggingface.forms.layers import LAYERS, patterns
from model.huggingface.forms.rotations import ROTATIONS, SCALES
from model.huggingface.refusal import CannotExpress

# By what they are forms of.
FORMS: Mapping[str, tuple[Form, ...]] = {
    "layers": LAYERS,
    "rotation": ROTATIONS,
    "scale of queries by position": SCALES,
    "attention": ATTENTION,
    "block": BLOCK,
    "ends": ENDS,
}
_BASE, _LENGTH = 10_000.0, 64
# A config.json whose keys some family reads; the others ignore them.
_CONFIG: Mapping[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "sliding_window": 8,
    "layer_types": ["full_attention"] * 4,
    "max_position_embeddings": _LENGTH,
    "num_local_experts": 1,
    "num_experts_per_tok": 1,
}


def takers(form: Form) -> list[str]:
    """The families (model_type) that take a form, in the order of the catalogue."""
    return [
        family.model_type
        for family in FAMILIES
        if any(
            _writes(family, given)
            for model in small_models(family.model_type)
            for given in form.give(model)
        )
    ]


def refusal(model: ModelConfig, rope_base: float) -> str:
    """Why no family takes a model: its forms that none takes, or the nearest family's reasons; empty if one does.

    Static gates are no reason: an export folds them into `o_proj`.
    """
    model = model.without_static_gates()
    try:
        family_for(model, rope_base)
    except CannotExpress as error:
        forms = [form for rows in FORMS.values() for form in rows if form.has(model)]
        if strange := [f"{form.name} ({form.key})" for form in forms if not takers(form)]:
            return f"no Hugging Face family takes {', '.join(strange)}"
        nearest = min(error.reasons, key=lambda reason: reason.count(";"))
        return f"no Hugging Face family takes all forms of this model together (the nearest, {nearest})"
    return ""


@cache
def small_models(model_type: str) -> tuple[ModelConfig, ...]:
    """A small model of a family with each mixture of kinds of layers that it has."""
    family = BY_TYPE[model_type]
    plain = {"rope_type": "default", "rope_theta": _BASE}
    if family.rope_rules.scales_queries:
        plain |= {"llama_4_scaling_beta": 0.0, "original_max_position_embeddings": 16}
    by_kind = isinstance(family.default_base, Mapping)
    ropes = {"sliding_attention": plain, "full_attention": plain} if by_kind else plain
    read = family.read({**_CONFIG, "model_type": model_type, "rope_parameters": ropes})
    models = (replace(read.model, layer_pattern=list(kinds), kinds={}) for kinds in patterns())
    return tuple(model for model in models if _writes(family, model))


def _writes(family: Family, model: ModelConfig) -> bool:
    try:
        family.write(model, _BASE, _LENGTH)
    except CannotExpress:
        return False
    return True
