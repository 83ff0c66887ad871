"""The handle that every asynchronous communication returns."""

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor

from parallel.watch.waiting import waiting


class Transfer:
    """Messages that have been started, and the buffers they use.

    works: torch's handles of the messages. received: the receive buffer; not to be touched before `wait`. sent: the
    send buffer, kept alive until then. group, operation: what the watch reports while `wait` blocks, for messages
    that are not in torch's flight recorder; empty: nothing.
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
        """Returns a transfer without messages, whose `wait` returns zero rows at once."""
        return cls([], like[:0])

    def wait(self) -> Tensor:
        """Waits and returns the received tensor. On a GPU only the current stream waits, not the host."""
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
