"""The scale of queries by position in a config.json: `llama_4_scaling_beta` of Ministral 3, inside `rope_parameters`.

    queries of position p, in every layer, times   1 + beta ln(1 + floor(p / original_max_position_embeddings))

The name is transformers'; Llama 4's own scale is another one (`model/position/scales/`). YaRN, Llama 3.1 scaling and
LongRoPE count from the same length. A beta of 0 is no scale.
"""

from collections.abc import Mapping
from typing import Any

from model.huggingface.refusal import CannotExpress
from model.huggingface.rope_values import ORIGINAL, number, original_length
from model.position.scales.methods import AnyScale
from model.position.scales.ministral3 import Ministral3Scale
from model.position.scales.none import NoScale

Json = dict[str, Any]
BETA = "llama_4_scaling_beta"
# The values of `rope_type` for which transformers takes an absent length from the keys outside.
_TAKE_LENGTH = ("yarn", "llama3", "longrope")


def read_scale(given: Mapping[str, Any], config: Mapping[str, Any]) -> AnyScale:
    """The scale of all layers. given: `rope_parameters`.

    Raises:
        CannotExpress: no factor or no length; transformers 5 fails without them.
    """
    beta = number(given, BETA)
    kind = given.get("rope_type", given.get("type", "default"))
    length = original_length(given, config) if kind in _TAKE_LENGTH else given.get(ORIGINAL)
    if type(length) is not int or length < 1:
        raise CannotExpress(
            [f"config.json: rope {ORIGINAL}={length}: must be a number of tokens beside {BETA}"]
        )
    return Ministral3Scale(beta=beta, original_length=length) if beta else NoScale()


def write_scale(scale: AnyScale, parameters: Json) -> Json:
    """`rope_parameters` with the scale.

    Raises:
        CannotExpress: another scale, or the rotation counts from another length.
    """
    if isinstance(scale, NoScale):
        return {ORIGINAL: Ministral3Scale.original_length} | parameters | {BETA: 0.0}
    if not isinstance(scale, Ministral3Scale):
        raise CannotExpress(
            [f"position_scale.scale={scale.scale}: this family has only ministral3"]
        )
    length = scale.original_length
    if parameters.get(ORIGINAL, length) != length:
        raise CannotExpress(
            [
                f"position_scale.original_length={length}: this family has one length for it and for "
                f"rope.original_length={parameters[ORIGINAL]}"
            ]
        )
    return parameters | {BETA: scale.beta, ORIGINAL: length}
