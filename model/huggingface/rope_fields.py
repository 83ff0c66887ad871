"""Rotation in a config.json: `rope_parameters`, and `rope_theta` with `rope_scaling` as it was before.

    flat      rope_parameters: {rope_type, rope_theta, factor, ...}                  every rotary layer
    by kind   rope_parameters: {sliding_attention: {...}, full_attention: {...}}     Gemma 3, OLMo 3

A base is a number of the run here (a schedule may raise it), scaling belongs to the model; so a base that only
windowed layers have becomes `kinds.window_rope.rope.base`, and the full layers' is the one that is scheduled.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from model.huggingface.refusal import CannotExpress
from model.position.config import RopeConfig
from model.position.ntk import ntk_base
from model.position.yarn import yarn_attention_factor

Json = dict[str, Any]
KINDS = {"window": "sliding_attention", "full": "full_attention"}
KEYS = ("rope_parameters", "rope_theta", "rope_scaling", "rope_local_base_freq", "partial_rotary_factor")  # fmt: skip
_EXTENDED = ("yarn", "llama3")


def read_flat(config: Mapping[str, Any], default_base: float) -> tuple[float, RopeConfig]:
    """Base and scaling of all rotary layers.

    Raises:
        CannotExpress: a scaling that we have not.
    """
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if set(given) & set(KINDS.values()):
        raise CannotExpress(
            ["config.json: rope_parameters by kind of layer, which this family does not read"]
        )
    return _read(given, config, config.get("rope_theta", default_base))


def read_by_kind(
    config: Mapping[str, Any], default_bases: Mapping[str, float]
) -> dict[str, tuple[float, RopeConfig]]:
    """Base and scaling of windowed and of full layers.

    An older config.json scales full layers only, and names the windowed layers' base by itself.

    Raises:
        CannotExpress: a scaling that we have not.
    """
    given = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or {}
    full = {**(given.get(KINDS["full"]) or {}), **scaling}
    window = dict(given.get(KINDS["window"]) or {})
    full_base = config.get("rope_theta", default_bases["full"])
    same = default_bases["window"] == default_bases["full"]
    window_base = config.get("rope_local_base_freq", full_base if same else default_bases["window"])
    for kind in (full, window):
        if kind.get("truncate") is False:
            raise CannotExpress(
                [
                    "config.json: rope_parameters.truncate=false inside a kind of layer: transformers 5.17 does not "
                    "read it there, so the released weights were used without it; remove it if that is what you want"
                ]
            )
    return {"full": _read(full, config, full_base), "window": _read(window, config, window_base)}


def _read(
    given: Mapping[str, Any], config: Mapping[str, Any], default_base: Any
) -> tuple[float, RopeConfig]:
    base = given.get("rope_theta") or default_base
    kind = given.get("rope_type", given.get("type", "default"))
    partial = given.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if partial not in (None, 1, 1.0):
        raise CannotExpress(
            [f"config.json: partial_rotary_factor={partial}: our rotary layers turn whole heads"]
        )
    known = {"default", "linear", *_EXTENDED}
    if kind not in known:
        raise CannotExpress(
            [
                f"config.json: rope_type={kind}: can be {', '.join(sorted(known))}"
                + ("; dynamic scaling differs from text to text, remove it" if kind == "dynamic" else "")
            ]
        )  # fmt: skip
    original = given.get("original_max_position_embeddings")
    original = original or config.get("max_position_embeddings")
    factor = given.get("factor")
    if kind == "default":
        return float(base), RopeConfig()
    if factor is None and kind == "yarn" and original:
        factor = config.get("max_position_embeddings", 0) / original
    if not isinstance(factor, int | float) or factor < 1:
        raise CannotExpress([f"config.json: rope factor={factor}: must be a number from 1 up"])
    if kind == "linear":
        return float(base), RopeConfig(scaling="linear", factor=float(factor))
    if not isinstance(original, int):
        raise CannotExpress(
            [f"config.json: rope_type={kind} needs original_max_position_embeddings"]
        )
    rope = RopeConfig(scaling=kind, factor=float(factor), original_length=original)
    if kind == "llama3":
        low, high = given.get("low_freq_factor", 1.0), given.get("high_freq_factor", 4.0)
        return float(base), replace(rope, low_frequency=float(low), high_frequency=float(high))
    return float(base), replace(
        rope,
        beta_fast=float(given.get("beta_fast") or 32.0),
        beta_slow=float(given.get("beta_slow") or 1.0),
        truncate=bool(given.get("truncate", True)),
        attention_factor=_attention_factor(given, float(factor)),
    )


def _attention_factor(given: Mapping[str, Any], factor: float) -> float:
    """The factor that is written, that of DeepSeek's two scales, or 0 for the method's own."""
    if given.get("attention_factor") is not None:
        return float(given["attention_factor"])
    scale, all_scale = given.get("mscale"), given.get("mscale_all_dim")
    if scale and all_scale:
        return yarn_attention_factor(factor, scale) / yarn_attention_factor(factor, all_scale)
    return 0.0


def write(rope: RopeConfig, base: float, head_dim: int) -> Json:
    """`rope_parameters` of one kind of layer."""
    if rope.scaling == "none":
        return {"rope_type": "default", "rope_theta": base}
    if rope.scaling == "ntk":  # nothing but another base
        return {"rope_type": "default", "rope_theta": ntk_base(base, rope.factor, head_dim)}
    written: Json = {"rope_type": rope.scaling, "rope_theta": base, "factor": rope.factor}
    if rope.scaling in _EXTENDED:
        written["original_max_position_embeddings"] = rope.original_length
    if rope.scaling == "llama3":
        written |= {"low_freq_factor": rope.low_frequency, "high_freq_factor": rope.high_frequency}
    if rope.scaling == "yarn":
        written |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow}
        if not rope.truncate:
            written["truncate"] = False
        if rope.attention_factor:
            written["attention_factor"] = rope.attention_factor
    return written
