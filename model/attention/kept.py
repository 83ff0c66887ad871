"""What attention computed in a forward, kept so that a recomputation of the layer does not compute it again.

A layer that is recomputed in the backward runs its forward twice. Its products are cheap to repeat, but
attention grows with the square of the length: at 128k tokens it is most of the layer. So the forward
records output and log-sum-exp of its attention, T (H K + ...) numbers a layer, and the recomputation takes them back:

    forward         x -> q, k, v -> [attention] -> o -> ...        keeps x, o, log-sum-exp
    recomputation   x -> q, k, v ->      o     ->  ...             the kernel is not run

`torch.utils.checkpoint` enters `forward` and `recomputation` around the two.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from torch import Tensor


class Attended(NamedTuple):
    """Output and natural log-sum-exp of an attention over all keys that the queries see."""

    o_THK: Tensor
    lse_TH: Tensor


_Through = Callable[[Callable[[], Attended]], Attended]

_THROUGH: ContextVar[_Through | None] = ContextVar("attention is kept through", default=None)


def kept(compute: Callable[[], Attended]) -> Attended:
    """What `compute` returns, or in a recomputation what it returned in the forward."""
    through = _THROUGH.get()
    return compute() if through is None else through(compute)


def keep_attention() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of one layer's forward and of its one recomputation, for `torch.utils.checkpoint`."""
    outputs: deque[Attended] = deque()

    def record(compute: Callable[[], Attended]) -> Attended:
        attended = compute()
        # Detached: what autograd hangs on the output would hold the whole graph.
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
