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
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from model.huggingface.refusal import CannotExpress
from model.huggingface.rope_by_length import LONGROPE_BY_KIND, counted_from, read_longrope
from model.huggingface.rope_partial import PARTIAL, read_proportional, read_share, with_share
from model.huggingface.rope_rules import PROPORTIONAL, RopeRules
from model.huggingface.rope_values import CONTEXT, ORIGINAL, is_number, number, original_length
from model.position.dynamic_ntk import DynamicNtkRope
from model.position.linear import LinearRope
from model.position.llama3 import Llama3Rope
from model.position.methods import RopeMethod
from model.position.rope import Rope
from model.position.yarn import YarnRope, yarn_attention_factor

Json = dict[str, Any]
KINDS = {"window": "sliding_attention", "full": "full_attention"}
NEW, OLD = "rope_parameters", ("rope_theta", "rope_scaling", "rope_local_base_freq")
KEYS = (NEW, *OLD, PARTIAL, ORIGINAL)
EXTENDED = ("yarn", "llama3")


def parameters_of(config: Mapping[str, Any], default: Mapping[str, Any]) -> Mapping[str, Any]:
    """`rope_parameters` of all rotary layers, as transformers 5 takes it. default: that of the family.

    Raises:
        CannotExpress: keys that contradict each other, or of a family that rotates by kind of layer.
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
    return old or (default if config.get(NEW) is None else new)


def refuse_without_base(config: Mapping[str, Any], before_5: float, now: float) -> None:
    """Raises CannotExpress if no key gives a base: for families whose default transformers 5 changed to `now`."""
    new = config.get(NEW)
    places = [config, new, config.get("rope_scaling")]
    places += new.values() if isinstance(new, Mapping) else []
    if not any(isinstance(place, Mapping) and "rope_theta" in place for place in places):
        raise CannotExpress(
            [
                f"config.json: rope_theta is missing: transformers 4 takes {before_5:.0f} for it, transformers 5 "
                f"{now:.0f}; write the base that the model was trained with"
            ]
        )


def read_flat(
    config: Mapping[str, Any], default_base: float, default: Mapping[str, Any], rules: RopeRules
) -> tuple[float, RopeMethod]:
    """Base and scaling of all rotary layers. default: the family's default of `rope_parameters`.

    Raises:
        CannotExpress: a scaling that we do not have, an invalid value, or keys that contradict each other.
    """
    given, new = parameters_of(config, default), _object(config, NEW)
    base = _base(given, config, "rope_theta", default_base)
    _refuse_another_base("rope_theta", base, new.get("rope_theta"), config.get("rope_theta"))
    return base, _read(given, config, rules)


def read_by_kind(
    config: Mapping[str, Any], default_bases: Mapping[str, float], rules: RopeRules
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
        if kind.get("rope_type", kind.get("type")) == "longrope":
            raise CannotExpress([f"config.json: rope_type=longrope: {LONGROPE_BY_KIND}"])
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
    return {
        "full": (full_base, _read(full, config, rules)),
        "window": (window_base, _read(window, config, rules)),
    }


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


def _read(given: Mapping[str, Any], config: Mapping[str, Any], rules: RopeRules) -> RopeMethod:
    kind = given.get("rope_type", given.get("type", "default"))
    if "type" in given and given["type"] != kind:
        raise CannotExpress(
            [f"config.json: rope_type={kind} and type={given['type']}: remove one of them"]
        )
    kind = rules.other_names.get(str(kind), kind)
    if kind not in rules.types:
        raise CannotExpress(
            [
                f"config.json: rope_type={kind}: in a {config.get('model_type')} it can be {', '.join(rules.types)}"
            ]
        )
    if rules.original:
        config = {ORIGINAL: rules.original, **config}
    share = read_share(given, config, kind, rules)
    return with_share(_read_scaling(kind, given, config), kind, share)


def _read_scaling(kind: str, given: Mapping[str, Any], config: Mapping[str, Any]) -> RopeMethod:
    """The scaling of this `rope_type`."""
    if kind == "default":
        return Rope()
    if kind == PROPORTIONAL:
        return read_proportional(given)
    if kind == "longrope":
        return read_longrope(given, config)
    original = original_length(given, config) if kind in EXTENDED else 0
    if given.get("factor") is None and kind == "yarn":
        factor = number(config, CONTEXT) / original
    else:
        factor = number(given, "factor")
    if not factor >= 1.0:
        raise CannotExpress([f"config.json: rope factor={factor}: must be a number from 1 up"])
    if kind == "dynamic":
        return DynamicNtkRope(factor=factor, original_length=counted_from(given, config))
    if kind == "yarn":
        yarn = _read_yarn(given, factor, original)
        return yarn if factor > 1.0 or yarn.attention_factor else Rope()
    if kind == "llama3":
        low, high = number(given, "low_freq_factor"), number(given, "high_freq_factor")
        if factor > 1.0:
            return Llama3Rope(
                factor=factor, original_length=original, low_frequency=low, high_frequency=high
            )
    return LinearRope(factor=factor) if factor > 1.0 else Rope()


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
