"""The rotation of a model as keys of a config.json: see the docstring of `rope_fields.py`."""

from collections.abc import Collection, Mapping
from typing import Any

from model.huggingface.refusal import CannotExpress
from model.huggingface.rope_by_length import (
    BY_LENGTH,
    LONGROPE_BY_KIND,
    write_dynamic,
    write_longrope,
)
from model.huggingface.rope_fields import EXTENDED, KINDS, NEW
from model.huggingface.rope_partial import (
    PARTIAL,
    is_proportional,
    refuse_slices,
    write_proportional,
)
from model.huggingface.rope_rules import ORDINARY, PROPORTIONAL, RopeRules
from model.huggingface.rope_values import CONTEXT, ORIGINAL
from model.position.dynamic_ntk import DynamicNtkRope
from model.position.linear import LinearRope
from model.position.llama3 import Llama3Rope
from model.position.longrope import LongRope, longrope_attention_factor
from model.position.ntk import NtkRope, ntk_base
from model.position.rope import Rope
from model.position.settings import RopeSettings
from model.position.yarn import YarnRope

Json = dict[str, Any]
# Scalings with the same name here and in transformers.
_SCALINGS = ("linear", *EXTENDED, "longrope")


def write(rope: RopeSettings, base: float, head_dim: int, rules: RopeRules = ORDINARY) -> Json:
    """`rope_parameters` of one kind of layer.

    Raises:
        CannotExpress: transformers has no such rotation in this family.
    """
    if rope.resonance:
        raise CannotExpress(["rope resonance=true: transformers has none"])
    if rope.fourier is not None:
        raise CannotExpress([f"rope fourier (form={rope.fourier.form}): transformers has no FoPE"])
    if is_proportional(rope):
        return write_proportional(rope, base, head_dim, rules)
    refuse_slices(rope, rules)
    written = _write_scaling(rope, base, head_dim)
    if written["rope_type"] not in rules.types:
        raise CannotExpress(
            [
                f"rope scaling={rope.scaling}: in this family transformers takes only rope_type "
                f"{', '.join(rules.types)}"
            ]
        )
    return written if rope.rotary_share == 1.0 else written | {PARTIAL: rope.rotary_share}


def _write_scaling(rope: RopeSettings, base: float, head_dim: int) -> Json:
    if isinstance(rope, Rope):
        return {"rope_type": "default", "rope_theta": base}
    if isinstance(rope, NtkRope):  # the same as another base
        width = rope.width(head_dim)
        return {"rope_type": "default", "rope_theta": ntk_base(base, rope.factor, width)}
    if isinstance(rope, DynamicNtkRope):
        return write_dynamic(rope, base)
    if isinstance(rope, LongRope):
        return write_longrope(rope, base)
    if not isinstance(rope, LinearRope | YarnRope | Llama3Rope):
        raise CannotExpress(
            [f"rope scaling={rope.scaling}: exports write only dynamic_ntk, {', '.join(_SCALINGS)}"]
        )
    written: Json = {"rope_type": rope.scaling, "rope_theta": base, "factor": rope.factor}
    if isinstance(rope, YarnRope | Llama3Rope):
        written["original_max_position_embeddings"] = rope.original_length
    if isinstance(rope, Llama3Rope):
        written |= {"low_freq_factor": rope.low_frequency, "high_freq_factor": rope.high_frequency}
    if isinstance(rope, YarnRope):
        if rope.ramp != "reference":
            raise CannotExpress(
                [f"rope ramp={rope.ramp}: transformers has only the reference ramp"]
            )
        written |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow}
        if not rope.truncate:
            written["truncate"] = False
        if rope.attention_factor or rope.mscale:
            written["attention_factor"] = rope.factor_of_turns
    return written


def written_flat(parameters: Json, context_length: int, rules: RopeRules = ORDINARY) -> Json:
    """All rotation keys of a family with one rotation for all layers, and the lengths that its scaling counts from.

    context_length: `max_position_embeddings`, in tokens.
    """
    kind = parameters["rope_type"]
    scaling = _scaling(parameters)
    if fields := _old_fields(parameters, context_length, rules):
        scaling = {name: parameters.get(name, kind) for name in fields}
    written = {NEW: parameters, "rope_theta": parameters["rope_theta"], "rope_scaling": scaling}
    if PARTIAL in parameters and kind != PROPORTIONAL:
        written[PARTIAL] = parameters[PARTIAL]
    if kind in BY_LENGTH:
        written[CONTEXT if kind == "dynamic" else ORIGINAL] = parameters[ORIGINAL]
    return written


def _old_fields(parameters: Json, context_length: int, rules: RopeRules) -> tuple[str, ...]:
    """The only fields of `rope_scaling` in transformers 4; none: all fields, or they do not say what we have."""
    fields = rules.old_fields.get(parameters["rope_type"], ())
    if "attention_factor" in fields or "attention_factor" not in parameters:
        return fields
    # transformers 4 computes the factor of LongRoPE from the two lengths.
    original = parameters[ORIGINAL]
    computed = 1.0
    if context_length > original:
        computed = longrope_attention_factor(context_length / original, original)
    return fields if parameters["attention_factor"] == computed else ()


def written_by_kind(
    by_kind: Mapping[str, Json], kinds: Collection[str], *, local_base: bool
) -> Json:
    """All rotation keys of a family with one rotation for windowed and one for full layers.

    by_kind: `rope_parameters` of each. kinds: those that the model has. local_base: whether transformers 4 has a key
    for the base of windowed layers. A base is null where transformers 4 cannot express the rotation, so that it fails
    to load the model instead of using another base. With dynamic scaling the keys include the context length.

    Raises:
        CannotExpress: LongRoPE; two original lengths of dynamic scaling; transformers 5 would not read
            `truncate=false`.
    """
    if any(by_kind[kind]["rope_type"] == "longrope" for kind in kinds):
        raise CannotExpress([f"rope scaling=longrope: {LONGROPE_BY_KIND}"])
    counted = {by_kind[kind][ORIGINAL] for kind in kinds if by_kind[kind]["rope_type"] == "dynamic"}
    if len(counted) > 1:
        says = " and ".join(map(str, sorted(counted)))
        raise CannotExpress(
            [f"rope scaling=dynamic_ntk: original_length={says}: a config.json has one, {CONTEXT}"]
        )
    if any(by_kind[kind].get("truncate") is False for kind in kinds):
        raise CannotExpress(
            ["rope truncate=false: transformers reads it only in families that rotate all layers alike"]
        )  # fmt: skip
    full, window = by_kind["full"], by_kind["window"]
    unscaled = "window" not in kinds or window["rope_type"] == "default"
    written: Json = {NEW: {KINDS[kind]: parameters for kind, parameters in by_kind.items()}}
    if local_base:
        local = window["rope_theta"] if unscaled else None
        written |= {"rope_theta": full["rope_theta"], "rope_local_base_freq": local}
    else:
        bases = {by_kind[kind]["rope_theta"] for kind in kinds or ["full"]}
        written["rope_theta"] = bases.pop() if unscaled and len(bases) == 1 else None
    if counted:
        written[CONTEXT] = counted.pop()
    return written | {"rope_scaling": _scaling(full) if "full" in kinds else None}


def obstacle_before_5(config: Mapping[str, Any]) -> str:
    """Why transformers 4 cannot read the rotation of a config.json that we wrote; empty if it can."""
    for key in ("rope_theta", "rope_local_base_freq"):
        if key in config and config[key] is None:
            return "it has no keys for a separate rotation of windowed layers"
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == PROPORTIONAL:
        return f"it has no rope_type={PROPORTIONAL}"
    if config.get("model_type") == "phi3" and "attention_factor" in scaling:
        return f"its phi3 computes LongRoPE's attention factor from {CONTEXT} and {ORIGINAL}, and takes no other"
    if config.get("model_type") == "olmo2":
        if kind in (*EXTENDED, "longrope"):
            return f"its olmo2 has linear and dynamic scaling only, not {kind}"
        if kind == "dynamic" and scaling["factor"] == 1.0:
            return "its olmo2 has dynamic scaling only with a factor above 1"
    return ""


def _scaling(parameters: Json) -> Json | None:
    """`rope_scaling`, including the base; see the docstring of this file."""
    return None if parameters["rope_type"] == "default" else dict(parameters)
