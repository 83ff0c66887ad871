"""What a schedule decides about attention at one step: the kinds of layers, the RoPE base, the lengths.

`AtStep` is host data and imports no torch, so a configuration is judged with it; the model's forward makes the
tensors of every kind from it (`model/kind_at_step.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from model.config import ModelConfig
from model.layer_pattern import LayerSpec, layer_kinds
from model.reach import Reach


@dataclass(frozen=True)
class AtStep:
    """The settings of attention at one step.

    specs: by name of the kind, the specification of its layers: window, rotation, scale. rope_base: base of rotary
    layers that set none of their own. lengths: sequence lengths trained at so far, in tokens, ascending; the last one
    is that of this step. Empty: unknown. asked_length: the length that an evaluation asks for; 0: that of this step.
    keys_at_most: layers in which a token would see more keys get a window of so many, and keep their rotation;
    0: no such limit.
    """

    specs: Mapping[str, LayerSpec]
    rope_base: float
    lengths: tuple[int, ...] = ()
    asked_length: int = 0
    keys_at_most: int = 0

    @classmethod
    def of(cls, model: ModelConfig, rope_base: float, lengths: tuple[int, ...] = ()) -> "AtStep":
        """The settings of `model` itself, with this base at these lengths."""
        return cls(MappingProxyType(layer_kinds(model)), rope_base, lengths)

    def reach_of(self, kind: str) -> Reach:
        """How far a token of this kind of layer sees at this step."""
        return self.specs[kind].reach.at_most(self.keys_at_most)

    @property
    def length(self) -> int:
        """The sequence length in force, in tokens.

        Raises:
            ValueError: no length was given.
        """
        return self.asked_length or self.trained_lengths[-1]

    @property
    def trained_lengths(self) -> tuple[int, ...]:
        """`lengths`, which must be known.

        Raises:
            ValueError: no length was given.
        """
        if not self.lengths:
            raise ValueError(
                "lengths=(): a position method of this model needs the sequence length; give AtStep its lengths"
            )
        return self.lengths
