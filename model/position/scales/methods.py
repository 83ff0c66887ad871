"""The table of scales: one row a method, which is chosen by its name at `scale`."""

from typing import get_args

from model.position.scales.drope import DropeScale
from model.position.scales.llama4 import Llama4Scale
from model.position.scales.ministral3 import Ministral3Scale
from model.position.scales.none import NoScale
from model.position.scales.ssmax import SsmaxScale
from model.position.scales.swan import SwanScale

# The type of `model.kinds.NAME.position_scale`.
AnyScale = NoScale | Llama4Scale | Ministral3Scale | SwanScale | SsmaxScale | DropeScale
# Names of the scales with a parameter.
LEARNED = frozenset(scale.scale for scale in get_args(AnyScale) if scale.learned)
