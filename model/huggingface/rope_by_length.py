"""Scalings that read a length, in a config.json: dynamic NTK (`dynamic`) and LongRoPE (`longrope`).

Here the length is the sequence length of the stage, or the one that an evaluation asks for; in transformers it is the
length of the input. An input as long as the length in force gets the same frequencies in both. A shorter input differs:
transformers takes the smaller base of its length (or of the longest input since the last one below
`max_position_embeddings`), and the short factors up to the original length.

For dynamic NTK the original length is `max_position_embeddings` in transformers 4 and 5. For LongRoPE transformers 4
reads `original_max_position_embeddings` only outside `rope_scaling`, so an export writes it in both places.
"""

from collections.abc import Mapping
from typing import Any

from model.huggingface.refusal import CannotExpress
from model.huggingface.rope_values import CONTEXT, ORIGINAL, is_number, number, original_length
from model.position.dynamic_ntk import DynamicNtkRope
from model.position.longrope import LongRope, longrope_attention_factor
from model.position.methods import RopeMethod
from model.position.rope import Rope

Json = dict[str, Any]
# Names in transformers.
BY_LENGTH = ("dynamic", "longrope")
LONGROPE_BY_KIND = (
    "transformers 5.17 fails at the second input beyond the original length, by kind of layer"
)


def counted_from(given: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """The length from which dynamic scaling grows: both versions take the context length."""
    length = original_length({}, {CONTEXT: config.get(CONTEXT)})
    for named in (given.get(ORIGINAL), config.get(ORIGINAL)):
        if named not in (None, length):
            raise CannotExpress(
                [
                    f"config.json: {ORIGINAL}={named}: transformers ignores it in dynamic scaling and takes "
                    f"{CONTEXT}={length}; write the same length into both"
                ]
            )
    return length


def read_longrope(given: Mapping[str, Any], config: Mapping[str, Any]) -> RopeMethod:
    """LongRoPE, where both versions of transformers read the same original length and attention factor."""
    original = original_length({ORIGINAL: given.get(ORIGINAL) or config.get(ORIGINAL)}, config)
    before_5 = config.get(ORIGINAL, config.get(CONTEXT))
    if before_5 != original:
        raise CannotExpress(
            [
                f"config.json: {ORIGINAL}={original} only inside the scaling: transformers 4 takes {before_5} for "
                f"longrope; write {ORIGINAL} outside too"
            ]
        )
    context = number(config, CONTEXT)
    factor = context / original if given.get("factor") is None else number(given, "factor")
    if not factor >= 1.0:
        raise CannotExpress([f"config.json: rope factor={factor}: must be a number from 1 up"])
    own = 0.0
    if given.get("attention_factor") is not None:
        own = number(given, "attention_factor")
        if own <= 0.0:
            raise CannotExpress([f"config.json: rope attention_factor={own}: must be above 0"])
    elif ORIGINAL in config and factor != context / original:
        raise CannotExpress(
            [
                f"config.json: rope factor={factor:g}: transformers 4 takes {context / original:g} for longrope, "
                f"{CONTEXT} / {ORIGINAL}; write attention_factor"
            ]
        )
    if original > 1 and own == longrope_attention_factor(factor, original):
        own = 0.0
    short, long = _factors(given, "short_factor"), _factors(given, "long_factor")
    if {*short, *long} == {1.0} and factor == 1.0 and not own:
        return Rope()
    return LongRope(
        factor=factor, original_length=original, short_factors=short, long_factors=long, attention_factor=own
    )  # fmt: skip


def _factors(given: Mapping[str, Any], key: str) -> list[float]:
    """A list of LongRoPE's factors, one for each pair."""
    found = given.get(key)
    if not isinstance(found, list) or not all(is_number(each) for each in found):
        raise CannotExpress([f"config.json: rope {key}={found!r}: must be a list of numbers"])
    return [float(each) for each in found]


def write_longrope(rope: LongRope, base: float) -> Json:
    if rope.unscaled_tokens:
        raise CannotExpress(
            [f"rope unscaled_tokens={rope.unscaled_tokens}: transformers scales every token"]
        )
    attention = rope.attention_factor or longrope_attention_factor(
        rope.factor, rope.original_length
    )
    return {
        "rope_type": "longrope", "rope_theta": base, "factor": rope.factor, ORIGINAL: rope.original_length,
        "short_factor": rope.short_factors, "long_factor": rope.long_factors, "attention_factor": attention,
    }  # fmt: skip


def write_dynamic(rope: DynamicNtkRope, base: float) -> Json:
    """`rope_parameters` of dynamic NTK scaling."""
    kept = {"factor": rope.factor, ORIGINAL: rope.original_length}
    return {"rope_type": "dynamic", "rope_theta": base, **kept}
