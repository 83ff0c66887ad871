"""Keeps attention's output and log-sum-exp, so that the recomputation of a layer does not run attention again.

A layer that is recomputed in the backward runs its forward twice. Its products are cheap to recompute, but the cost
of attention grows with the square of the length: at 128k tokens it is most of the layer. So the forward stores output
and log-sum-exp of its attention, T H (K + 1) numbers per layer, and the recomputation reuses them:

    forward         x -> q, k, v -> [attention] -> o -> ...        keeps x, o, log-sum-exp
    recomputation   x -> q, k, v ->      o     ->  ...             the kernel is not run

`torch.utils.checkpoint` enters the two contexts of `keep_attention` around forward and recomputation.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from torch import Tensor


class Attended(NamedTuple):
    """Output and natural log-sum-exp of attention over all keys that the queries see."""

    o_THK: Tensor
    lse_TH: Tensor


_Through = Callable[[Callable[[], Attended]], Attended]

_THROUGH: ContextVar[_Through | None] = ContextVar("attention is kept through", default=None)


def kept(compute: Callable[[], Attended]) -> Attended:
    """Returns the result of `compute`; in a recomputation, the result that was stored in the forward."""
    through = _THROUGH.get()
    return compute() if through is None else through(compute)


def keep_attention() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of one layer's forward and of its one recomputation, for `torch.utils.checkpoint`."""
    outputs: deque[Attended] = deque()

    def record(compute: Callable[[], Attended]) -> Attended:
        attended = compute()
        # Detached: the output's grad_fn would keep the whole graph alive.
        outputs.append(Attended(attended.o_THK.detach(), attended.lse_TH.detach()))
        return attended

    def replay(compute: Callable[[], Attended]) -> Attended:  # noqa: ARG001
        return outputs.popleft()

    return _passing(record), _passing(replay)


@contextmanager
def _passing(through: _Through) -> Iterator[None]:
    token = _THROUGH.set(through)
    try:
        yield
    finally:
        _THROUGH.reset(token)
