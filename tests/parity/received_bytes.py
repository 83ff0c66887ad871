"""Counts what collectives and messages bring to this rank, whoever starts them."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class ReceivedBytes(TorchDispatchMode):
    """Bytes that arrive from other ranks while it is entered, by operation.

    A gather or an exchange brings what others hold; an all-reduce and a reduce-scatter are counted as a ring
    does them: 2 (n - 1) / n and (n - 1) / n of the whole.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_operation: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """Of all operations."""
        return sum(self.by_operation.values())

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "namespace", "") == "c10d":
            name = func.__name__.split(".")[0]
            self.by_operation[name] += _RECEIVED[name](*args)
        return func(*args, **(kwargs or {}))


def _gathered(whole: Tensor, part: Tensor, *_: Any) -> int:
    return whole.nbytes - part.nbytes


def _exchanged(received: Tensor, _: Tensor, group: Any, splits: list[int], *__: Any) -> int:
    ranks = dist.ProcessGroup.unbox(group)
    if not splits:
        return received.nbytes * (ranks.size() - 1) // ranks.size()
    row = received.nbytes // max(1, sum(splits))
    return row * (sum(splits) - splits[ranks.rank()])


def _all_reduced(tensors: list[Tensor], group: Any, *_: Any) -> int:
    size = dist.ProcessGroup.unbox(group).size()
    return sum(2 * tensor.nbytes * (size - 1) // size for tensor in tensors)


def _scattered(part: Tensor, whole: Tensor, *_: Any) -> int:
    return whole.nbytes - part.nbytes


def _received(tensors: list[Tensor], *_: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _nothing(*_: Any) -> int:
    return 0


_RECEIVED: dict[str, Callable[..., int]] = {
    "_allgather_base_": _gathered,
    "alltoall_base_": _exchanged,
    "allreduce_": _all_reduced,
    "_reduce_scatter_base_": _scattered,
    "recv_": _received,
    "broadcast_": _received,
    "send": _nothing,
    "barrier": _nothing,
}


class KeptTensors:
    """Bytes of the different storages that autograd saves while `hooks` are active, parameters left out."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._own = {p.untyped_storage().data_ptr() for p in module.parameters()}
        self._kept: dict[int, Any] = {}
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    @property
    def storages(self) -> dict[int, int]:
        """Bytes by address."""
        return {address: storage.nbytes() for address, storage in self._kept.items()}

    @property
    def bytes(self) -> int:
        """All of them."""
        return sum(self.storages.values())

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._own:
            self._kept[storage.data_ptr()] = storage
        return tensor
