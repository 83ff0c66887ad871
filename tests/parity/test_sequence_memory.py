"""What a sequence rank holds shrinks with the number of ranks: no keys, no logits, no hidden states gathered.

Every storage that an operation of forward or backward allocates is counted while it lives; parameters were
there before. So the peak is exact and the same on every machine.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from data.batch import PackedBatch
from data.packing.spans import starts_of
from model.attention.core import choose_core
from model.config import ModelConfig
from parallel.config import ParallelConfig
from parallel.mesh import start
from parallel.parallelize import build_local, finish
from parallel.sequence.traffic import TrafficMeter
from parallel.tensor.apply import initialise_cut
from ranks import run_on_ranks
from tests.parity.streams import part_of_rank
from train.objective import to_device

TOKENS = 8192
MODEL = ModelConfig(
    num_layers=4,
    hidden_size=64,
    intermediate_size=96,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    vocab_size=256,
    window=128,
)


class LiveBytes(TorchDispatchMode):
    """Bytes of all storages that operations made and that still live; the most so far; the largest one."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.largest = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if _real(leaf)
        }
        for leaf in tree_leaves(out):
            if _real(leaf):
                storage = leaf.untyped_storage()
                if storage._cdata not in given | self._known:
                    self._add(storage, storage._cdata, storage.nbytes())
        return out

    def _add(self, storage: Any, key: int, size: int) -> None:
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        self.largest = max(self.largest, size)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _real(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.device.type == "cpu"


def measure(
    config: ModelConfig,
    lengths: tuple[int, ...],
    sequence: int,
    layout: str,
    *,
    count_weight_gradients: bool = True,
) -> list[tuple[int, int]]:
    """(peak, largest) bytes of one forward and backward on every rank."""
    parallel = ParallelConfig(sequence=sequence, sequence_layout=layout)

    def work(rank: int, world_size: int) -> tuple[int, int]:
        mesh = start(torch.device("cpu"), 300, parallel.topology(world_size))
        core = choose_core("banded", "cpu", torch.float32)
        local = build_local(
            config, core, mesh, parallel, sequence_length=TOKENS, traffic=TrafficMeter()
        )
        (model,) = local.stages
        model.to_empty(device="cpu")
        for name, parameter in model.named_parameters():
            initialise_cut(name, parameter.data, config, 0, mesh.tensor)
            if not count_weight_gradients:
                parameter.grad = torch.zeros_like(parameter)
        finish(local, mesh)
        tokens_T = torch.arange(TOKENS) * 7919 % config.vocab_size
        stream = PackedBatch(
            tokens_T, tokens_T.roll(-1), lengths, starts_of(lengths), TOKENS, 0, ()
        )
        batch = to_device(part_of_rank(stream, config, mesh, parallel), mesh.device)
        with LiveBytes() as live:
            hidden_TD = model(batch.tokens_T, batch.layout, 1e4)
            model.loss(hidden_TD, batch.targets_T).total.backward()
        return live.peak, live.largest

    return run_on_ranks(work, sequence)


def test_four_ranks_hold_at_most_three_tenths_each() -> None:
    for lengths in ((TOKENS,), (5000, 192, 1000, 2000)):
        ((alone, _),) = measure(MODEL, lengths, 1, "zigzag")
        for layout in ("zigzag", "balanced", "contiguous"):
            for peak, _ in measure(MODEL, lengths, 4, layout):
                assert peak <= 0.30 * alone, (layout, lengths, peak / alone)


def test_nothing_of_the_whole_stream_is_ever_one_tensor() -> None:
    """The smallest thing worth gathering is the keys of one layer: T x G x K floats."""
    whole_keys = TOKENS * MODEL.num_kv_heads * MODEL.head_dim * 4
    for layout in ("zigzag", "balanced"):
        for _, largest in measure(MODEL, (TOKENS,), 4, layout):
            assert largest < whole_keys, layout
