"""Tensors under way between ranks: what every asynchronous communication returns."""

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor

from parallel.watch.waiting import waiting


class Transfer:
    """Messages that have been started, and the buffers they use.

    works: torch's handles of them. received: the buffer that fills; it must not be touched before `wait`. sent: the
    buffer that is read, held until then. group, operation: what the watch reports while this rank blocks here, for
    messages that torch's own record does not name; empty: nothing.
    """

    def __init__(
        self,
        works: Sequence[dist.Work],
        received: Tensor,
        sent: Tensor | None = None,
        *,
        group: str = "",
        operation: str = "",
    ) -> None:
        self.received = received
        self._works, self._sent = works, sent
        self._group, self._operation = group, operation

    @classmethod
    def nothing(cls, like: Tensor) -> "Transfer":
        """No message: `wait` returns no rows, at once."""
        return cls([], like[:0])

    def wait(self) -> Tensor:
        """What was received. On a GPU only the current stream waits, not the host."""
        if self._operation:
            with waiting(self._group, self._operation):
                self._wait()
        else:
            self._wait()
        return self.received

    def _wait(self) -> None:
        for work in self._works:
            work.wait()
        self._works, self._sent = [], None
