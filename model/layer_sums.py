"""The residual stream and the attention logits of every layer, summed up over the tokens of one step.

    place        0 = embedding    1 ... n = layers 0 ... n - 1    n + 1 = final norm    n + 2 = head
    squares      sum over tokens and channels of x^2, x: the residual stream after this place
    elements     number of these x
    products     largest product of a query and a key that the mask lets it see, over tokens and heads

The stream of the embedding is taken after its scale, that of the final norm after the norm; the head has none. A
product is that of rotated, normalised and scaled vectors, as the attention core gets them: times K ** -0.5, and
capped, it is the attention logit. Padding counts, as any token; attention sinks are no keys. See
`model.measured_steps`. Tables of ranks can be joined: squares and elements add up, of products the largest counts.

Shape letters: T tokens, D width, P places.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from model.measured_steps import MeasuredSteps
from model.norm import statistics_dtype

EMBEDDING = 0


def after_layer(layer: int) -> int:
    """The place after a layer. After the last one follow those of final norm and head."""
    return layer + 1


_Take = Callable[[Tensor], None]

_TAKE: ContextVar[_Take | None] = ContextVar("products are measured", default=None)


class LayerSums(MeasuredSteps):
    """The sums of the layers of one rank, float64 on the device. num_layers: of the whole model."""

    def __init__(self, num_layers: int, device: torch.device) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.table_3P = torch.zeros(3, num_layers + 3, dtype=torch.float64, device=device)

    def begin(self) -> None:
        """Sums anew from here until `end`."""
        self.table_3P.zero_()
        self.table_3P[2] = -torch.inf
        super().begin()

    @torch.no_grad()
    def add(self, place: int, x_TD: Tensor) -> None:
        """Adds tokens of the residual stream after a place; of a float32 copy only one number a token is kept."""
        if self.counts:
            norm_T = torch.linalg.vector_norm(x_TD, dim=-1, dtype=statistics_dtype(x_TD.dtype))
            self.table_3P[0, place] += norm_T.double().square().sum()
            self.table_3P[1, place] += x_TD.numel()

    @contextmanager
    def noting_logits(self, layer: int) -> Iterator[None]:
        """Within it `note_products` measures for a layer."""

        def take(largest: Tensor) -> None:
            into = self.table_3P[2, after_layer(layer)]
            into.copy_(torch.maximum(into, largest.double()))

        token = _TAKE.set(take if self.counts else None)
        try:
            yield
        finally:
            _TAKE.reset(token)


def note_products(largest: Callable[[], Tensor]) -> None:
    """Measures products of queries and keys if this forward of a layer counts.

    largest: computes the largest of them, a scalar; called only then.
    """
    take = _TAKE.get()
    if take is not None:
        with torch.no_grad():
            take(largest())
