"""Rotation in a config.json: `rope_parameters` of transformers 5, and the keys of transformers 4 and other programs.

    transformers 5   flat      rope_parameters: {rope_type, rope_theta, factor, ...}              every rotary layer
                     by kind   rope_parameters: {sliding_attention: {...}, full_attention: {...}} Gemma 3, OLMo 3
    transformers 4   rope_theta, rope_scaling: {rope_type, factor, ...} or null; rope_local_base_freq (Gemma 3)

Export writes both forms with the same rotation. transformers 5 reads the old keys too: a `rope_scaling` that is not
null replaces the whole `rope_parameters`, so it includes the base. Import raises CannotExpress for a config.json that
the two versions would read differently.

Here the schedule sets the base (and may raise it), and the model has the scaling; so a base that only windowed layers
have becomes `kinds.window_rope.rope.base`, and the base of full layers follows the schedule.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from model.huggingface.refusal import CannotExpress
from model.huggingface.rope_by_length import (
    BY_LENGTH,
    counted_from,
    read_longrope,
    write_dynamic,
    write_longrope,
)
from model.huggingface.rope_values import CONTEXT, ORIGINAL, is_number, number, original_length
from model.position.dynamic_ntk import DynamicNtkRope
from model.position.linear import LinearRope
from model.position.llama3 import Llama3Rope
from model.position.longrope import LongRope
from model.position.methods import RopeMethod
from model.position.ntk import NtkRope, ntk_base
from model.position.rope import Rope
from model.position.settings import RopeSettings
from model.position.yarn import YarnRope, yarn_attention_factor

Json = dict[str, Any]
KINDS = {"window": "sliding_attention", "full": "full_attention"}
NEW, OLD = "rope_parameters", ("rope_theta", "rope_scaling", "rope_local_base_freq")
KEYS = (NEW, *OLD, "partial_rotary_factor", ORIGINAL)
_EXTENDED = ("yarn", "llama3")
# Scalings with the same name here and in transformers.
_SCALINGS = ("linear", *_EXTENDED, "longrope")


def read_flat(
    config: Mapping[str, Any], default_base: float, default: Mapping[str, Any]
) -> tuple[float, RopeMethod]:
    """Base and scaling of all rotary layers. default: the family's default of `rope_parameters`.

    Raises:
        CannotExpress: a scaling that we do not have, an invalid value, or keys that contradict each other.
    """
    old, new = _object(config, "rope_scaling"), _object(config, NEW)
    if set(old) & set(KINDS.values()) or set(new) & set(KINDS.values()):
        raise CannotExpress(
            ["config.json: rope_parameters by kind of layer, which this family does not read"]
        )
    if default and config.get(NEW) is None and "rope_scaling" in config and not old:
        raise CannotExpress(
            [
                f"config.json: rope_scaling={config['rope_scaling']}: nothing in transformers 4, and "
                f"{default['rope_type']} in transformers 5; write rope_parameters"
            ]
        )
    given = old or (default if config.get(NEW) is None else new)
    base = _base(given, config, "rope_theta", default_base)
    _refuse_another_base("rope_theta", base, new.get("rope_theta"), config.get("rope_theta"))
    return _read(given, config, base)


def read_by_kind(
    config: Mapping[str, Any], default_bases: Mapping[str, float]
) -> dict[str, tuple[float, RopeMethod]]:
    """Base and scaling of windowed and of full layers.

    An older config.json scales full layers only, and has a separate key for the base of windowed layers.

    Raises:
        CannotExpress: a scaling that we do not have, an invalid value, or keys that contradict each other.
    """
    given, scaling = _object(config, NEW), _object(config, "rope_scaling")
    if strange := sorted(set(given) - set(KINDS.values())):
        raise CannotExpress(
            [
                f"config.json: rope_parameters.{strange[0]}: this family reads rope_parameters by kind of layer; "
                f"put it into {' and '.join(KINDS.values())}"
            ]
        )
    new = {kind: _object(given, name, f"{NEW}.") for kind, name in KINDS.items()}
    full, window = new["full"] | scaling, new["window"]
    for kind in (full, window):
        if (scaled := kind.get("rope_type", kind.get("type"))) in BY_LENGTH:
            raise CannotExpress(
                [f"config.json: rope_type={scaled}: is read only where all layers rotate alike"]
            )
        if kind.get("truncate") is False:
            raise CannotExpress(
                [
                    "config.json: rope_parameters.truncate=false inside a kind of layer: transformers 5.17 does not "
                    "read it there, so the released weights were used without it; remove it if that is what you want"
                ]
            )
    full_base = _base(full, config, "rope_theta", default_bases["full"])
    _refuse_another_base(
        "rope_theta", full_base, new["full"].get("rope_theta"), config.get("rope_theta")
    )
    if default_bases["window"] != default_bases["full"]:
        key = "rope_local_base_freq"
        window_base = _base(window, config, key, default_bases["window"])
        _refuse_another_base(key, window_base, config.get(key))
    else:
        window_base = _base(window, {}, "rope_theta", default_bases["window"])
        if "rope_theta" not in window and full_base != window_base:
            raise CannotExpress(
                [
                    f"config.json: rope_theta={full_base}: of all layers in transformers 4, of the full ones only in "
                    "transformers 5; write rope_parameters with rope_theta for both kinds of layer"
                ]
            )
    return {"full": _read(full, config, full_base), "window": _read(window, config, window_base)}


def _object(config: Mapping[str, Any], key: str, where: str = "") -> Json:
    value = config.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise CannotExpress([f"config.json: {where}{key}={value!r}: must be an object or null"])
    return dict(value or {})


def _base(given: Mapping[str, Any], config: Mapping[str, Any], key: str, default: float) -> float:
    """The base as transformers 5 reads it: `rope_theta` in `given`, else `key` of the config.json, else the default."""
    base = given["rope_theta"] if "rope_theta" in given else config.get(key, default)
    if not is_number(base) or not 1.0 < base < math.inf:
        raise CannotExpress([f"config.json: {key}={base}: must be a number above 1"])
    return float(base)


def _refuse_another_base(key: str, base: float, *others: object) -> None:
    """Raises CannotExpress unless transformers 4 and 5 read the same base.

    others: values of keys that only one of the versions reads. None is ignored: we export null where transformers 4
    cannot read the model.
    """
    for other in others:
        if other is not None and other != base:
            raise CannotExpress(
                [
                    f"config.json: {key}: rope_parameters, rope_scaling and {key} itself give {base:g} and {other}; "
                    "transformers 4 and 5 take different ones; write the same base into each of them"
                ]
            )


def _read(
    given: Mapping[str, Any], config: Mapping[str, Any], base: float
) -> tuple[float, RopeMethod]:
    kind = given.get("rope_type", given.get("type", "default"))
    if "type" in given and given["type"] != kind:
        raise CannotExpress(
            [f"config.json: rope_type={kind} and type={given['type']}: remove one of them"]
        )
    partial = given.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if partial not in (None, 1, 1.0):
        raise CannotExpress(
            [f"config.json: partial_rotary_factor={partial}: our rotary layers turn whole heads"]
        )
    if kind not in ("default", "dynamic", *_SCALINGS):
        known = "default, dynamic, linear, llama3, longrope, yarn"
        raise CannotExpress([f"config.json: rope_type={kind}: can be {known}"])
    if kind == "default":
        return base, Rope()
    if kind == "longrope":
        return base, read_longrope(given, config)
    original = original_length(given, config) if kind in _EXTENDED else 0
    if given.get("factor") is None and kind == "yarn":
        factor = number(config, "max_position_embeddings") / original
    else:
        factor = number(given, "factor")
    if not factor >= 1.0:
        raise CannotExpress([f"config.json: rope factor={factor}: must be a number from 1 up"])
    if kind == "dynamic":
        return base, DynamicNtkRope(factor=factor, original_length=counted_from(given, config))
    if kind == "yarn":
        yarn = _read_yarn(given, factor, original)
        return base, yarn if factor > 1.0 or yarn.attention_factor else Rope()
    if kind == "llama3":
        low, high = number(given, "low_freq_factor"), number(given, "high_freq_factor")
        if factor > 1.0:
            return base, Llama3Rope(
                factor=factor, original_length=original, low_frequency=low, high_frequency=high
            )
    return base, LinearRope(factor=factor) if factor > 1.0 else Rope()


def _read_yarn(given: Mapping[str, Any], factor: float, original_length: int) -> YarnRope:
    found = YarnRope(
        factor=factor,
        original_length=original_length,
        # As in transformers, 0 and null stand for the default.
        beta_fast=number(given, "beta_fast") if given.get("beta_fast") else 32.0,
        beta_slow=number(given, "beta_slow") if given.get("beta_slow") else 1.0,
        truncate=bool(given.get("truncate", True)),
    )
    if given.get("attention_factor") is not None:
        own = number(given, "attention_factor")
        if own <= 0.0:
            raise CannotExpress([f"config.json: rope attention_factor={own}: must be above 0"])
        return replace(found, attention_factor=own)
    if given.get("mscale") and given.get("mscale_all_dim"):  # DeepSeek's two scales
        scale, all_scale = number(given, "mscale"), number(given, "mscale_all_dim")
        above, below = (yarn_attention_factor(factor, each) for each in (scale, all_scale))
        return replace(found, attention_factor=above / below)
    return found


def write(rope: RopeSettings, base: float, head_dim: int) -> Json:
    """`rope_parameters` of one kind of layer.

    Raises:
        CannotExpress: transformers has no such rotation.
    """
    if rope.rotary_share != 1.0:
        raise CannotExpress(
            [f"rope rotary_share={rope.rotary_share:g}: exports rotate whole heads"]
        )
    if rope.resonance:
        raise CannotExpress(["rope resonance=true: transformers has none"])
    if rope.fourier is not None:
        raise CannotExpress([f"rope fourier (form={rope.fourier.form}): transformers has no FoPE"])
    if isinstance(rope, Rope):
        return {"rope_type": "default", "rope_theta": base}
    if isinstance(rope, NtkRope):  # the same as another base
        return {"rope_type": "default", "rope_theta": ntk_base(base, rope.factor, head_dim)}
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


def written_flat(parameters: Json, *, two_fields: bool) -> Json:
    """All rotation keys of a family with one rotation for all layers, and the lengths that its scaling counts from.

    two_fields: in this family transformers 4 accepts in `rope_scaling` exactly the fields `type` and `factor`.
    """
    scaling = _scaling(parameters)
    kind = parameters["rope_type"]
    if scaling and two_fields and kind in ("linear", "dynamic"):
        scaling = {"type": kind, "factor": scaling["factor"]}
    written = {NEW: parameters, "rope_theta": parameters["rope_theta"], "rope_scaling": scaling}
    if kind in BY_LENGTH:
        written[CONTEXT if kind == "dynamic" else ORIGINAL] = parameters[ORIGINAL]
    return written


def written_by_kind(
    by_kind: Mapping[str, Json], kinds: Collection[str], *, local_base: bool
) -> Json:
    """All rotation keys of a family with one rotation for windowed and one for full layers.

    by_kind: `rope_parameters` of each. kinds: those that the model has. local_base: whether transformers 4 has a key
    for the base of windowed layers. A base is null where transformers 4 cannot express the rotation, so that it fails
    to load the model instead of using another base.

    Raises:
        CannotExpress: transformers 5 would not read `truncate=false`; a scaling by length.
    """
    for kind in kinds:
        if (scaled := by_kind[kind]["rope_type"]) in BY_LENGTH:
            raise CannotExpress(
                [f"rope scaling ({scaled} in transformers): exports write it only where all layers rotate alike"]
            )  # fmt: skip
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
    return written | {"rope_scaling": _scaling(full) if "full" in kinds else None}


def obstacle_before_5(config: Mapping[str, Any]) -> str:
    """Why transformers 4 cannot read the rotation of a config.json that we wrote; empty if it can."""
    for key in ("rope_theta", "rope_local_base_freq"):
        if key in config and config[key] is None:
            return "it has no keys for a separate rotation of windowed layers"
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if config.get("model_type") == "olmo2":
        if kind in (*_EXTENDED, "longrope"):
            return f"its olmo2 has linear and dynamic scaling only, not {kind}"
        if kind == "dynamic" and scaling["factor"] == 1.0:
            return "its olmo2 has dynamic scaling only with a factor above 1"
    return ""


def _scaling(parameters: Json) -> Json | None:
    """`rope_scaling`, including the base; see the docstring of this file."""
    return None if parameters["rope_type"] == "default" else dict(parameters)
