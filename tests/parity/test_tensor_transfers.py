"""What tensor ranks send each other: how many bytes, what is kept of it, and what is waited for."""

import time
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode

from model import logits
from model.attention.core import choose_core
from model.config import ModelConfig
from model.packed_layout import PackedLayout
from model.transformer import Transformer
from parallel.collectives import start_gather, start_scatter_sum
from parallel.mesh import AxisGroup, start
from parallel.tensor.apply import cut_model, initialise_cut
from parallel.topology import Topology
from parallel.transfer import Transfer
from ranks import run_on_ranks

CPU = torch.device("cpu")
TOKENS, SIZE = 96, 2
# Bytes of a stream of hidden states in float64, of which a rank receives what others hold.
MODEL = ModelConfig(
    num_layers=2,
    hidden_size=16,
    intermediate_size=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    vocab_size=64,
    window=8,
    layer_pattern=["window_rope", "full_nope"],
)
STREAM = TOKENS * MODEL.hidden_size * 8 * (SIZE - 1) // SIZE


class Transfers:
    """Sees every collective of the tensor axis in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.received: list[tuple[int, ...]] = []
        self.num_bytes = 0
        self.buffers: list[StorageWeakRef] = []
        monkeypatch.setattr(Transfer, "__init__", self._started(Transfer.__init__))

    def _started(self, original: Any) -> Any:
        def started(transfer: Transfer, works: Any, received: Tensor) -> None:
            original(transfer, works, received)
            self.received.append(tuple(received.shape))
            self.num_bytes += received.numel() * received.element_size() * (SIZE - 1) // SIZE
            self.buffers.append(StorageWeakRef(received.untyped_storage()))

        return started

    def alive(self, expected: int) -> int:
        """Buffers of transfers that somebody still holds, once it is no more than expected.

        The transport's own thread may let go of a finished transfer a moment after we do.
        """
        deadline = time.monotonic() + 10.0
        while (found := self._held()) > expected and time.monotonic() < deadline:
            time.sleep(0.01)
        return found

    def _held(self) -> int:
        return len({b.cdata for b in self.buffers if not b.expired()})


def axis() -> AxisGroup:
    return start(CPU, 60, Topology(tensor=SIZE)).tensor


def cut_transformer(config: ModelConfig, group: AxisGroup, **parts: Any) -> Transformer:
    model = Transformer(config, choose_core("dense", CPU, torch.float64), **parts).double()
    cut_model(model, group)
    for name, parameter in model.named_parameters():
        initialise_cut(name, parameter, config, 0, group)
    return model


def layers_only(group: AxisGroup, block: str, **changes: Any) -> tuple[Transformer, Tensor]:
    config = ModelConfig(**{**vars(MODEL), "block": block, **changes})
    model = cut_transformer(config, group, has_embedding=False, has_head=False)
    x_TD = torch.randn(TOKENS // SIZE, config.hidden_size).double().requires_grad_()
    return model, x_TD


LAYOUT = PackedLayout.from_lengths((90, 6))


def test_gather_and_scatter_sum_are_each_others_gradient() -> None:
    x = torch.randn(SIZE, 6, 3, dtype=torch.float64)
    weight = torch.randn(SIZE, 12, 3, dtype=torch.float64)

    def work(rank: int, world_size: int) -> Any:
        group = axis()
        part, summand = x[rank].clone().requires_grad_(), weight[rank].clone().requires_grad_()
        gathered, summed = start_gather(part, group), start_scatter_sum(summand, group)
        a, b = summed.finish(), gathered.finish()
        ((a * x[rank]).sum() + (b * weight[rank]).sum()).backward()
        return b.detach(), a.detach(), part.grad, summand.grad

    total = weight.sum(0)
    for rank, found in enumerate(run_on_ranks(work, SIZE)):
        own = slice(6 * rank, 6 * rank + 6)
        for one, expected in zip(
            found, (x.flatten(0, 1), total[own], total[own], x.flatten(0, 1)), strict=True
        ):
            assert torch.equal(one, expected)


@pytest.mark.parametrize(("block", "streams"), [("parallel", 2), ("sequential", 4)])
def test_a_layer_receives_as_many_bytes_as_documented(block, streams, monkeypatch) -> None:
    """Forward as many as backward; a recomputation repeats the forward but for the sums that end the block."""

    def work(rank: int, world_size: int) -> list[int]:
        group = axis()
        transfers = Transfers(monkeypatch)
        seen = []
        for kept in ("everything", "input"):
            model, x_TD = layers_only(group, block)
            model.keep_for_backward(kept)
            y_TD = model(x_TD, LAYOUT, 1e4)
            seen.append(transfers.num_bytes)
            y_TD.sum().backward()
            seen.append(transfers.num_bytes - seen[-1])
            transfers.num_bytes = 0
        return seen

    forward = streams * MODEL.num_layers * STREAM
    again = forward - MODEL.num_layers * STREAM
    for seen in run_on_ranks(work, SIZE):
        assert seen == [forward, forward, forward, forward + again]


def test_the_loss_brings_together_one_chunk_at_a_time(monkeypatch) -> None:
    """Embedding and head: five streams of hidden states, and two numbers a token; never a whole one at once."""
    monkeypatch.setattr(logits, "_CPU_ROWS", 24)

    def work(rank: int, world_size: int) -> Any:
        model = cut_transformer(MODEL, axis())
        transfers = Transfers(monkeypatch)
        tokens_T = torch.randint(0, MODEL.vocab_size, (TOKENS,))
        x_TD = model.embedding(tokens_T)
        before = len(transfers.received)
        model.loss(x_TD, tokens_T, 1e-3).total.backward()
        with torch.no_grad():
            model.token_losses(x_TD, tokens_T)
        return transfers.num_bytes, transfers.received[before:], transfers.alive(0)

    for num_bytes, received, alive in run_on_ranks(work, SIZE):
        statistics = 2 * 2 * TOKENS * 8 * (SIZE - 1)
        assert num_bytes == 5 * STREAM + statistics
        in_loss = received[: 3 * TOKENS // 24]
        assert max(shape[0] for shape in in_loss) == 24
        assert alive == 0


@pytest.mark.parametrize("kept", ["everything", "input"])
def test_no_buffer_outlives_its_use(kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all transfers, layers keep what their matrices read, and not even that under recomputation."""

    def work(rank: int, world_size: int) -> tuple[int, int]:
        model, x_TD = layers_only(axis(), "parallel")
        model.keep_for_backward(kept)
        transfers = Transfers(monkeypatch)
        y_TD = model(x_TD, LAYOUT, 1e4)
        between = transfers.alive(expected)
        y_TD.sum().backward()
        return between, transfers.alive(0)

    expected = MODEL.num_layers if kept == "everything" else 0
    assert run_on_ranks(work, SIZE) == [(expected, 0)] * SIZE


class Wire:
    """One transfer after the other on a wire of its own; the clock counts products and waiting.

    A transfer of one byte takes as long as `products_per_byte` multiplications.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, products_per_byte: float) -> None:
        self.counter = FlopCounterMode(display=False)
        self.waited = self.busy = self.free_at = 0.0
        due: dict[int, float] = {}
        begin, wait = Transfer.__init__, Transfer.wait

        def started(transfer: Transfer, works: Any, received: Tensor) -> None:
            begin(transfer, works, received)
            duration = received.numel() * received.element_size() * products_per_byte
            self.busy += duration
            self.free_at = max(self.free_at, self.now()) + duration
            due[id(transfer)] = self.free_at

        def waited(transfer: Transfer) -> Tensor:
            self.waited += max(0.0, due.pop(id(transfer)) - self.now())
            return wait(transfer)

        monkeypatch.setattr(Transfer, "__init__", started)
        monkeypatch.setattr(Transfer, "wait", waited)

    def now(self) -> float:
        return self.counter.get_total_flops() + self.waited


# The first piece of a gather and the last of a sum have nothing to hide behind; and in this model attention's
# projections are shorter than a transfer, which the sequential block has around them too.
@pytest.mark.parametrize(("block", "share"), [("parallel", 0.25), ("sequential", 0.375)])
def test_transfers_hide_behind_products(block, share, monkeypatch) -> None:
    """On a simulated wire on which a transfer takes half as long as the products of its piece."""

    def work(rank: int, world_size: int) -> tuple[float, float]:
        model, x_TD = layers_only(axis(), block)
        products = 2 * 3 * MODEL.hidden_size * MODEL.intermediate_size // SIZE
        wire = Wire(monkeypatch, 0.5 * products / (MODEL.hidden_size * 8))
        with wire.counter:
            y_TD = model(x_TD, LAYOUT, 1e4)
            y_TD.backward(torch.ones_like(y_TD))
        return wire.waited, wire.busy

    for waited, busy in run_on_ranks(work, SIZE):
        assert waited <= share * busy * 1.001, waited / busy


def test_transfers_of_the_loss_hide_behind_its_products(monkeypatch) -> None:
    """But for the first chunk's hidden states, the last one's gradients, and two numbers a token."""
    monkeypatch.setattr(logits, "_CPU_ROWS", 12)

    def work(rank: int, world_size: int) -> tuple[float, float]:
        model = cut_transformer(MODEL, axis())
        targets_T = torch.randint(0, MODEL.vocab_size, (TOKENS,))
        hidden_TD = torch.randn(TOKENS // SIZE, MODEL.hidden_size).double().requires_grad_()
        products = 2 * MODEL.hidden_size * MODEL.vocab_size // SIZE
        wire = Wire(monkeypatch, 0.5 * products / (MODEL.hidden_size * 8))
        with wire.counter:
            model.loss(hidden_TD, targets_T).total.backward()
        return wire.waited, wire.busy

    for waited, busy in run_on_ranks(work, SIZE):
        assert waited <= 0.35 * busy, waited / busy
