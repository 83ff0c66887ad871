"""The table of scales: one row a method, under its name at `scale`."""

from collections.abc import Mapping
from types import MappingProxyType

from model.position.scales.drope import DropeScale
from model.position.scales.llama4 import Llama4Scale
from model.position.scales.ministral3 import Ministral3Scale
from model.position.scales.none import NoScale
from model.position.scales.scale import PositionScale
from model.position.scales.ssmax import SsmaxScale
from model.position.scales.swan import SwanScale

# The type of `model.kinds.NAME.position_scale`.
AnyScale = NoScale | Llama4Scale | Ministral3Scale | SwanScale | SsmaxScale | DropeScale
SCALES: Mapping[str, type[PositionScale]] = MappingProxyType(
    {
        "none": NoScale,
        "llama4": Llama4Scale,
        "ministral3": Ministral3Scale,
        "swan": SwanScale,
        "ssmax": SsmaxScale,
        "drope": DropeScale,
    }
)
