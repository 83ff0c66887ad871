"""The one table of position methods. A method is a file beside this one with its settings, and a member of the union.

`model.kinds.NAME.rope` holds one of them; its field `scaling` selects which.
"""

from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, get_args, get_type_hints

from model.position.dynamic_ntk import DynamicNtkRope
from model.position.linear import LinearRope
from model.position.llama3 import Llama3Rope
from model.position.longrope import LongRope
from model.position.ntk import NtkRope
from model.position.rope import Rope
from model.position.settings import RopeSettings
from model.position.yarn import YarnRope

# The first one is taken where no method is given.
RopeMethod = Rope | LinearRope | NtkRope | DynamicNtkRope | YarnRope | Llama3Rope | LongRope

# Keys: the values of `scaling`.
METHODS: Mapping[str, type[RopeSettings]] = MappingProxyType(
    {
        name: method
        for method in get_args(RopeMethod)
        for name in get_args(get_type_hints(method)["scaling"])
    }
)


def default_fields() -> dict[str, Any]:
    """The fields of all methods with their defaults; `scaling` is that of plain RoPE."""
    found: dict[str, Any] = {}
    for method in METHODS.values():
        found = asdict(method()) | found
    return found
