"""Rotations of queries and keys, and scales of queries by position."""

from collections.abc import Callable
from typing import Any

from model.config import ModelConfig
from model.huggingface.forms.form import Form, Give, changed, rotary, some
from model.layer_pattern import expand_pattern
from model.position.dynamic_ntk import DynamicNtkRope
from model.position.fourier import Fourier
from model.position.linear import LinearRope
from model.position.llama3 import Llama3Rope
from model.position.longrope import LongRope
from model.position.methods import RopeMethod
from model.position.ntk import NtkRope
from model.position.rope import Rope
from model.position.scales.drope import DropeScale
from model.position.scales.llama4 import Llama4Scale
from model.position.scales.methods import AnyScale
from model.position.scales.ministral3 import Ministral3Scale
from model.position.scales.ssmax import SsmaxScale
from model.position.scales.swan import SwanScale
from model.position.yarn import YarnRope

_KEY = "model.kinds.NAME.rope"
YARN = YarnRope(factor=4.0, original_length=16)
_TWO = {"window_rope", "full_rope"}


def _rotated(make: Callable[[int], RopeMethod]) -> Give:
    """Gives all rotary layers a rotation, made from the number of pairs of a head."""

    def give(model: ModelConfig) -> list[ModelConfig]:
        kinds = rotary(model)
        return [changed(model, kinds, rope=make(model.head_dim // 2))] if kinds else []

    return give


def _in_one_of_two(kind: str, rope: RopeMethod) -> Give:
    """Gives one of the two rotary kinds a rotation of its own, in models that have both."""
    return lambda model: (
        [changed(model, [kind], rope=rope)] if set(model.layer_pattern) >= _TWO else []
    )


def _long(pairs: int, unscaled: int = 0) -> LongRope:
    rising = [1.0 + pair for pair in range(pairs)]
    return LongRope(
        factor=4.0,
        original_length=16,
        short_factors=[1.0] * pairs,
        long_factors=rising,
        unscaled_tokens=unscaled,
    )


def _rotation(
    name: str, key: str, make: Callable[[int], RopeMethod], says: Callable[[Any], bool]
) -> Form:
    has = some(lambda spec: spec.rope is not None and says(spec.rope))
    return Form(name, f"{_KEY}.{key}", has, _rotated(make))


def _scaling(name: str, rope: RopeMethod, key: str = "", **fields: Any) -> Form:
    """A scaling, of these values of its fields where they matter."""

    def says(other: Any) -> bool:
        same = other.scaling == rope.scaling
        return same and all(getattr(other, field) == value for field, value in fields.items())

    return _rotation(name, f"scaling={rope.scaling}{key}", lambda _: rope, says)


def _ropes(model: ModelConfig, *, windowed: bool) -> list[RopeMethod]:
    return [
        spec.rope
        for spec in expand_pattern(model)
        if spec.rope is not None and (spec.window is not None) == windowed
    ]


def _have_own_base(model: ModelConfig) -> bool:
    bases = {rope.base for rope in _ropes(model, windowed=True)}
    return bool(_ropes(model, windowed=False)) and bool(bases - {0.0})


def _alone_scaled(*, windowed: bool) -> Callable[[ModelConfig], bool]:
    def has(model: ModelConfig) -> bool:
        here, there = (_ropes(model, windowed=which) for which in (windowed, not windowed))
        scaled = any(not isinstance(rope, Rope) for rope in here)
        return scaled and bool(there) and all(isinstance(rope, Rope) for rope in there)

    return has


def _scale(name: str, scale: AnyScale) -> Form:
    def give(model: ModelConfig) -> list[ModelConfig]:
        scaled = changed(model, dict.fromkeys(model.layer_pattern), position_scale=scale)
        # A family may have the scale beside YaRN only.
        return [scaled, *_rotated(lambda _: YARN)(scaled)]

    return Form(
        name,
        f"model.kinds.NAME.position_scale={scale.scale}",
        some(lambda spec: isinstance(spec.position_scale, type(scale))),
        give,
    )


def _is_partial(way: str) -> Callable[[Any], bool]:
    return lambda rope: rope.rotary_share < 1.0 and rope.partial == way


def _is_fourier(form: str) -> Callable[[Any], bool]:
    return lambda rope: rope.fourier is not None and rope.fourier.form == form


ROTATIONS: tuple[Form, ...] = (
    _scaling("plain RoPE", Rope(), rotary_share=1.0, resonance=False, fourier=None),
    _scaling("position interpolation", LinearRope(factor=4.0)),
    _scaling("NTK-aware, written as another base", NtkRope(factor=4.0)),
    _scaling("dynamic NTK", DynamicNtkRope(factor=4.0, original_length=16)),
    _scaling("YaRN", YARN, ramp="reference", truncate=True),
    _scaling(
        "YaRN with limits that are not rounded",
        YarnRope(factor=4.0, original_length=16, truncate=False),
        " .truncate=false",
        truncate=False,
        ramp="reference",
    ),
    _scaling(
        "YaRN with the paper's ramp",
        YarnRope(factor=4.0, original_length=16, ramp="paper"),
        " .ramp=paper",
        ramp="paper",
    ),
    _rotation(
        "YaRN with limits of its own",
        "scaling=yarn .beta_fast .beta_slow",
        lambda _: YarnRope(factor=4.0, original_length=16, beta_fast=12.0, beta_slow=2.0),
        lambda rope: rope.scaling == "yarn" and (rope.beta_fast, rope.beta_slow) != (32.0, 1.0),
    ),
    _rotation(
        "YaRN with an attention factor of its own",
        "scaling=yarn .attention_factor",
        lambda _: YarnRope(factor=4.0, original_length=16, attention_factor=1.3),
        lambda rope: rope.scaling == "yarn" and bool(rope.attention_factor or rope.mscale),
    ),
    _scaling("Llama 3.1", Llama3Rope(factor=4.0, original_length=16)),
    _rotation(
        "LongRoPE",
        "scaling=longrope",
        _long,
        lambda rope: rope.scaling == "longrope" and not rope.unscaled_tokens,
    ),
    _rotation(
        "LongRoPE with unscaled first tokens",
        "scaling=longrope .unscaled_tokens",
        lambda pairs: _long(pairs, 4),
        lambda rope: rope.scaling == "longrope" and bool(rope.unscaled_tokens),
    ),
    Form(
        "a base of windowed layers, another of full ones",
        "model.kinds.window_rope.rope.base",
        _have_own_base,
        _in_one_of_two("window_rope", Rope(base=5000.0)),
    ),
    Form(
        "scaling of full layers alone",
        "model.kinds.full_rope.rope.scaling",
        _alone_scaled(windowed=False),
        _in_one_of_two("full_rope", YARN),
    ),
    Form(
        "scaling of windowed layers alone",
        "model.kinds.window_rope.rope.scaling",
        _alone_scaled(windowed=True),
        _in_one_of_two("window_rope", LinearRope(factor=4.0)),
    ),
    _rotation(
        "a part of the head, with frequencies of a narrower head",
        "rotary_share",
        lambda _: Rope(rotary_share=0.5),
        _is_partial("ordinary"),
    ),
    _rotation(
        "a part of the head, with frequencies of the whole head",
        "rotary_share .partial=proportional",
        lambda _: Rope(rotary_share=0.5, partial="proportional"),
        _is_partial("proportional"),
    ),
    _rotation(
        "Resonance", "resonance", lambda _: Rope(resonance=True), lambda rope: rope.resonance
    ),
    _rotation("FoPE", "fourier", lambda _: Rope(fourier=Fourier()), _is_fourier("paper")),
    _rotation(
        "FoPE in the official code's form",
        "fourier={form: official}",
        lambda _: Rope(fourier=Fourier(form="official")),
        _is_fourier("official"),
    ),
)
SCALES: tuple[Form, ...] = (
    _scale("the scale of Llama 4", Llama4Scale()),
    _scale("the scale of Ministral 3", Ministral3Scale(original_length=16)),
    _scale("the scale of SWAN", SwanScale()),
    _scale("SSMax", SsmaxScale()),
    _scale("the scale of DroPE", DropeScale(trained_length=16)),
)
