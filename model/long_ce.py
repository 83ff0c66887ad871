"""LongCE: the loss of a token weighs more, the more the model's long context lowers it.

    w = min(exp(l_short - l_long), cap)        loss = sum over valid tokens of w * l_long

l_short is the token's cross-entropy with a short context, from another forward; w has no gradient. Source: arXiv
2410.23771, section 4.

Shape letters: T tokens, C tokens of one chunk.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ShortContext:
    """What weighs the losses of a stream.

    losses_T: cross-entropy of its tokens with a short context, in nats, in float32 or float64, 0 where the target is
    ignored; of the same tokens as the targets. cap: the largest weight, at least 1.
    """

    losses_T: Tensor
    cap: float

    def of(self, short_C: Tensor) -> "ShortContext":
        """The same for some of its tokens, by their losses."""
        return ShortContext(short_C, self.cap)

    def weights(self, losses_T: Tensor) -> Tensor:
        """The weights of tokens with these losses; 1 where both are 0, NaN where one is NaN."""
        return (self.losses_T - losses_T).exp().clamp(max=self.cap)
