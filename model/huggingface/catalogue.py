"""The list of all families, and the choice of a family for a config.json or a model."""

from collections.abc import Mapping
from typing import Any

from model.config import ModelConfig
from model.huggingface.families.cohere import COHERE
from model.huggingface.families.cohere2 import COHERE2
from model.huggingface.families.exaone4 import EXAONE4
from model.huggingface.families.gemma import GEMMA2, GEMMA3
from model.huggingface.families.gpt_oss import GPT_OSS
from model.huggingface.families.granite import GRANITE, GRANITE_SWA
from model.huggingface.families.llama import LLAMA
from model.huggingface.families.ministral3 import MINISTRAL3
from model.huggingface.families.mistral import MINISTRAL, MISTRAL
from model.huggingface.families.olmo import OLMO2, OLMO3
from model.huggingface.families.phi3 import PHI3
from model.huggingface.families.qwen import QWEN2, QWEN3
from model.huggingface.families.smollm3 import SMOLLM3
from model.huggingface.family import Family
from model.huggingface.layer_fields import unknown_to_all
from model.huggingface.refusal import CannotExpress
from model.huggingface.wrappers import WRAPPERS

# In the order in which `family_for` tries them.
FAMILIES: tuple[Family, ...] = (
    COHERE2, LLAMA, MISTRAL, SMOLLM3, MINISTRAL, QWEN3, QWEN2, OLMO2, OLMO3, EXAONE4, GEMMA3, GPT_OSS,
    COHERE, GEMMA2, GRANITE, GRANITE_SWA, PHI3, MINISTRAL3,
)  # fmt: skip
BY_TYPE: Mapping[str, Family] = {family.model_type: family for family in FAMILIES}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of the `model_type` of a config.json.

    Raises:
        CannotExpress: no family has this `model_type`, or it is no text.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise CannotExpress(
            [f"config.json: model_type={kind!r}: must be a text, the name of the family"]
        )
    if kind not in BY_TYPE:
        way_out = (
            "; ropewalk import --text-only takes its language model" if kind in WRAPPERS else ""
        )
        raise CannotExpress(
            [f"config.json: model_type={kind}: there are {', '.join(sorted(BY_TYPE))}{way_out}"]
        )
    return BY_TYPE[kind]


def family_for(model: ModelConfig, rope_base: float) -> Family:
    """The first family that can express a model.

    Raises:
        CannotExpress: no family can; it lists the reasons of each, or those that hold for all.
    """
    if reasons := unknown_to_all(model):
        raise CannotExpress(reasons)
    for family in FAMILIES:
        try:
            family.write(model, rope_base, 1)
        except CannotExpress as error:
            reasons.append(f"{family.model_type}: {'; '.join(error.reasons)}")
        else:
            return family
    raise CannotExpress(reasons)
