"""What transformers does with the rotation keys of one family, where families differ."""

from collections.abc import Mapping
from dataclasses import dataclass, field

# p-RoPE: `rope_type` of transformers 5; transformers 4 has none.
PROPORTIONAL = "proportional"
# All values of `rope_type`.
TYPES = ("default", "dynamic", "linear", "llama3", "longrope", PROPORTIONAL, "yarn")


@dataclass(frozen=True)
class RopeRules:
    """The rotation keys of a family.

    types: the values of `rope_type` that it accepts. slices: whether its attention turns only the first dimensions of a
    head, as many as there are frequencies, which makes `partial_rotary_factor` the ordinary partial rotation; the
    attention of other families turns whole heads. other_names: names of a `rope_type` in early releases, which not
    every version reads, mapped to that type; an export writes the type. original: its default of
    `original_max_position_embeddings` beside the scaling; 0: the family has no such key of its own. old_fields: by
    type, the only fields that transformers 4 accepts in `rope_scaling`; types that are not here may have all fields.
    scales_queries: whether `rope_parameters` has the scale of queries of Ministral 3.
    """

    types: tuple[str, ...] = TYPES
    slices: bool = False
    other_names: Mapping[str, str] = field(default_factory=dict)
    original: int = 0
    old_fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    scales_queries: bool = False


ORDINARY = RopeRules()
