"""The formulas of docs/parallelism.md against the bytes that real runs hold.

What autograd keeps is counted by its saved tensors; what the engine holds, by the storages that exist. What ZeRO
receives stands here too, since it is counted in the same steps.
"""

import gc
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from model import products
from model.at_step import AtStep
from model.attention.core import choose_core
from model.config import ModelConfig
from model.flops import parameter_count
from model.kind_at_step import KindAtStep, make_kinds
from model.layer_pattern import expand_pattern
from model.position.positioning import Positioning
from model.transformer import Transformer
from parallel.config import OptimizerConfig, ParallelConfig
from parallel.costs.held import (
    BYTES_OF_ROW,
    head_memory,
    head_workspace,
    layer_activations,
    model_memory,
    stage_activations,
)
from parallel.costs.received import (
    whole_model,
    zero_received,
)
from parallel.engine.engine import TrainingEngine
from parallel.engine.materialise import materialise
from parallel.engine.optimizers import OPTIMIZERS
from parallel.engine.settings import DTYPES, zero_settings
from parallel.mesh import Mesh, start
from parallel.parameters import NamedParameters
from parallel.sequence.layout import ShardedLayout
from parallel.tensor.apply import initialise_cut
from ranks import run_on_ranks
from tests.parity.cost_cases import BASE, CPU, MODEL, MODELS, NAMES, TOKENS, built, micro_batch
from tests.parity.received_bytes import KeptTensors, ReceivedBytes
from tests.parity.test_sequence_memory import LiveBytes
from train.objective import MicroBatch, NextTokenLoss

BYTES = {torch.bfloat16: 2, torch.float32: 4, torch.float64: 8}


@pytest.mark.parametrize(
    "parallel",
    [
        ParallelConfig(),
        ParallelConfig(tensor=2),
        ParallelConfig(tensor=4),
        ParallelConfig(sequence=2),
        ParallelConfig(tensor=2, sequence=2),
    ],
    ids=["alone", "tensor 2", "tensor 4", "sequence 2", "tensor 2 x sequence 2"],
)
@pytest.mark.parametrize("name", NAMES)
def test_layers_keep_what_the_formula_says(name: str, parallel: ParallelConfig) -> None:
    """To the byte, in three precisions: what autograd saves of one layer, parameters, rotation and factors left out."""
    config = MODELS[name]

    def work(rank: int, world_size: int) -> list[tuple[int, int]]:
        mesh = start(CPU, 60, parallel.topology(world_size))
        return [kept_and_expected(config, mesh, parallel, dtype) for dtype in BYTES]

    for found in run_on_ranks(work, parallel.tensor * parallel.sequence):
        assert [kept for kept, _ in found] == [expected for _, expected in found]


def kept_and_expected(
    config: ModelConfig, mesh: Mesh, parallel: ParallelConfig, dtype: torch.dtype
) -> tuple[int, int]:
    """Bytes that a windowed layer and a full or a chunked one keep together."""
    model = built(config, mesh, parallel, dtype).stages[0]
    stage = whole_model(config, tensor=mesh.tensor.size, element=BYTES[dtype])
    batch = micro_batch(config, mesh, parallel)
    tokens = TOKENS // mesh.sequence.size
    kinds = kinds_of(model, batch, dtype)
    kept = expected = 0
    for index in ("0", "1"):
        x_TD = model.embedding(batch.tokens_T).detach().requires_grad_()
        keeping = KeptTensors(model)
        with keeping.hooks:
            model.run_layer(model.layers[index], x_TD, batch.layout, kinds[index])
        kept += keeping.bytes - shared_bytes(keeping, kinds[index].positioning)
        spec = expand_pattern(config)[int(index)]
        received = brought(batch, spec.kind)
        expected += layer_activations(stage, spec, tokens, received_keys=received)
    return kept, expected


def shared_bytes(keeping: KeptTensors, positioning: Positioning) -> int:
    """Bytes among the kept ones that all layers of a kind share: the rotation, and the factors of queries."""
    rotation, factors_T = positioning.rotation, positioning.query_factors_T
    shared = [x for x in (rotation and rotation.turns_TP2, factors_T) if x is not None]
    return sum(keeping.storages.get(x.untyped_storage().data_ptr(), 0) for x in shared)


def kinds_of(model: Transformer, batch: MicroBatch, dtype: torch.dtype) -> dict[str, KindAtStep]:
    """What every layer of the model is given, by its index."""
    config, at = model.config, AtStep.of(model.config, BASE)
    found = make_kinds(at, list(at.specs), batch.layout, config, dtype)
    return {index: found[model.specs[int(index)].kind] for index in model.layers}


def brought(batch: MicroBatch, kind: str) -> int:
    """Keys that an exchange brings to layers of this kind."""
    if not isinstance(batch.layout, ShardedLayout):
        return 0
    exchange = batch.layout.routes[kind].exchange
    return sum(exchange.receive_rows) if exchange else 0


@pytest.mark.parametrize("widens", [False, True])
def test_recomputed_layers_keep_their_input_and_the_head_its_gradients(
    widens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Per layer one (T, D); the loss keeps d hidden and, in float32, d weight.

    widens: on a CPU without fast products of half precision, whatever this one has.
    """
    mesh_of_one = ParallelConfig()
    monkeypatch.setattr(products, "MULTIPLIES_HALF", not widens)

    def work(rank: int, world_size: int) -> tuple[int, int, int]:
        mesh = start(CPU, 60, mesh_of_one.topology(world_size))
        model = built(MODEL, mesh, mesh_of_one, torch.bfloat16).stages[0]
        model.keep_for_backward("input")
        batch = micro_batch(MODEL, mesh, mesh_of_one)
        layers, head = KeptTensors(model), KeptTensors(model)
        x_TD = model.embedding(batch.tokens_T)
        kinds = kinds_of(model, batch, x_TD.dtype)
        with layers.hooks:
            for index, layer in model.layers.items():
                x_TD = model.run_layer(layer, x_TD, batch.layout, kinds[index])
        with head.hooks, LiveBytes() as live:
            model.loss(x_TD, batch.targets_T)
        return layers.bytes, head.bytes, live.peak

    ((layers, head, peak),) = run_on_ranks(work, 1)
    stage = whole_model(MODEL, element=2)
    assert layers == stage_activations(stage, TOKENS, keep_for_backward="input")
    assert head == head_memory(stage, TOKENS)
    most = head + head_workspace(stage, rows=TOKENS, widens=widens)  # fewer than a chunk's 256 rows
    assert most - BYTES_OF_ROW * TOKENS <= peak <= most


def test_kept_attention_costs_its_output_and_log_sum_exp() -> None:
    """Beyond what layers hold that keep their input only."""
    mesh_of_one = ParallelConfig()

    def work(rank: int, world_size: int) -> list[int]:
        mesh = start(CPU, 60, mesh_of_one.topology(world_size))
        model = built(MODEL, mesh, mesh_of_one, torch.bfloat16).stages[0]
        batch = micro_batch(MODEL, mesh, mesh_of_one)
        held = []
        for keep in ("input", "input", "attention"):  # the first makes the layout's plans
            model.keep_for_backward(keep)
            with LiveBytes() as live:
                hidden_TD = model(batch.tokens_T, batch.layout, BASE)
                held.append(live.now)
                del hidden_TD
        return held[1:]

    ((with_input, with_attention),) = run_on_ranks(work, 1)
    input_only, and_attention = (
        stage_activations(whole_model(MODEL, element=2), TOKENS, keep_for_backward=keep)
        for keep in ("input", "attention")
    )
    assert with_attention - with_input == and_attention - input_only > 0


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_zero_holds_and_receives_what_the_formulas_say(zero_stage: int, precision: str) -> None:
    """Two steps of two micro-batches. Held: to the padding of ZeRO's parts. Received: besides, a few scalars.

    The bucket is there in some stages at this moment and not in others: it is the width of the interval.
    """
    parallel = ParallelConfig(zero_stage=zero_stage)

    def work(rank: int, world_size: int) -> tuple[int, int, int]:
        mesh = start(CPU, 60, parallel.topology(world_size))
        before = live_storages()  # kept, so that no new storage gets the address of one of these
        engine = engine_of(mesh, parallel, precision)
        batch = micro_batch(MODEL, mesh, parallel)
        for _ in range(2):
            with ReceivedBytes() as received:
                for last in (False, True):
                    engine.forward_backward(lambda module: module(batch, BASE)[0], last=last)
                    if not last:
                        let_go_of_transfers(mesh)
                        held = live_storages()
                        alive = sum(held[key].nbytes() for key in held.keys() - before.keys())
                        del held
                engine.step(1e-3)
        in_batch = batch.tokens_T.nbytes + batch.targets_T.nbytes + batch.layout.cu_seqlens.nbytes
        in_batch += batch.layout.positions_T.nbytes
        return alive - in_batch, received.total, parameter_count(MODEL)

    for alive, received, number in run_on_ranks(work, 2):
        element = BYTES[DTYPES[precision]]
        memory = model_memory(
            (number, number),
            optimizer=OPTIMIZERS["adamw"],
            ranks=2,
            zero_stage=zero_stage,
            element=element,
            bucket_elements=number,
        )
        assert memory.total - memory.buffer <= alive <= memory.total + 2048
        expected = zero_received(
            number, ranks=2, zero_stage=zero_stage, element=element, micro_batches=2
        )
        assert 0 <= received - expected.gradients - expected.weights <= 256


def engine_of(mesh: Mesh, parallel: ParallelConfig, precision: str) -> TrainingEngine:
    """A whole model under ZeRO, as a run makes it."""
    with torch.device("meta"):
        model = Transformer(MODEL, choose_core("banded", CPU, DTYPES[precision]))
    number = parameter_count(MODEL)
    optimizer = OptimizerConfig()
    settings = zero_settings(
        parallel, optimizer, precision=precision, num_parameters=number, device=CPU
    )
    materialise(
        model,
        lambda name, tensor: initialise_cut(name, tensor, MODEL, 0, mesh.tensor),
        device=CPU,
        dtype=DTYPES[precision],
        zero3_settings=settings if parallel.zero_stage == 3 else None,
        mesh=mesh,
    )
    objective = NextTokenLoss(model, 0.0)
    return TrainingEngine(
        NamedParameters(dict(model.named_parameters()), MODEL),
        objective,
        mesh,
        optimizer,
        settings,
    )


def let_go_of_transfers(mesh: Mesh) -> None:
    """Return when the threads of gloo hold no buffer of a finished transfer.

    Each of its threads keeps its last transfer until it has ended the next; there are two a group.
    """
    for _ in range(4):
        dist.barrier(group=mesh.zero.group)


def live_storages() -> dict[int, torch.UntypedStorage]:
    """Every tensor's storage that Python still reaches, by an address that is its own while it is kept."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # looking at an object may call what it deprecates
        tensors = [thing for thing in gc.get_objects() if isinstance(thing, Tensor)]
    storages = [tensor.untyped_storage() for tensor in tensors if tensor.device.type == "cpu"]
    return {storage._cdata: storage for storage in storages}
