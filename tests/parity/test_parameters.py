"""The table of parameters: each of its readers refuses a weight without a row, and a row is all that a weight needs."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import parameters as table
from model.attention.core import choose_core
from model.block import build_block
from model.config import ModelConfig
from model.feed_forward.dense import FeedForward
from model.flops import parameter_count, products_per_token, training_flops
from model.huggingface.families.cohere2 import COHERE2
from model.huggingface.families.llama import LLAMA
from model.huggingface.refusal import CannotExpress
from model.initialization import initialize
from model.packed_layout import PackedLayout
from model.parameters import Role, parameter_names, shape_of
from model.products import Linear
from model.transformer import Transformer
from parallel.checkpoint import tensors
from parallel.config import OptimizerConfig, ParallelConfig
from parallel.costs.held import parameter_elements, stage_parameters
from parallel.costs.received import replica_sum, whole_model
from parallel.engine.engine import TrainingEngine
from parallel.engine.materialise import materialise
from parallel.engine.optimizers import OPTIMIZERS
from parallel.engine.settings import zero_settings
from parallel.engine.training import Training
from parallel.mesh import AxisGroup, Mesh, start
from parallel.parallelize import build_local, finish
from parallel.parameters import NamedParameters
from parallel.sequence.traffic import TrafficMeter
from parallel.tensor.apply import cut_model, initialise_cut
from parallel.tensor.cut import cut_of, tensor_problems
from parallel.tensor.gradients import mark_owners, sum_replicated_gradients
from parallel.topology import Topology
from ranks import run_on_ranks
from train.objective import NextTokenLoss

CPU = torch.device("cpu")
CONFIG = ModelConfig(
    num_layers=2,
    hidden_size=16,
    intermediate_size=24,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    vocab_size=32,
    window=4,
    layer_pattern=["window_rope", "full_nope"],
)
PAIR = AxisGroup(0, (0, 1), None)
UNKNOWN = "layers.0.extra.gain.weight"
LENGTHS = (3, 5)


class Gain(nn.Module):
    """A module that somebody adds: one number for every dimension of the residual stream."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gain = Linear(size, 1)


def built(config: ModelConfig = CONFIG, dtype: torch.dtype = torch.float64) -> Transformer:
    """A model without values."""
    return Transformer(config, choose_core("dense", CPU, dtype))


def with_unknown_weight() -> Transformer:
    """The same with a module that the table does not know."""
    model = built()
    model.layers["0"].extra = Gain(CONFIG.hidden_size)
    return model


def build_with_unknown_weight(model: Transformer) -> None:
    """As a constructor that has one more module would."""

    def build(*arguments: Any) -> nn.Module:
        block = build_block(*arguments)
        block.extra = Gain(CONFIG.hidden_size)
        return block

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.transformer.build_block", build)
        built()


def store(model: Transformer) -> None:
    """What a checkpoint asks of an engine before it gathers."""
    named = NamedParameters(dict(model.named_parameters()), CONFIG)
    tensors.gather_owned(SimpleNamespace(parameters=named, mesh=SimpleNamespace(holders=(0, 1))))  # type: ignore[arg-type]


def each_name(read: Callable[[str], Any]) -> Callable[[Transformer], None]:
    def reader(model: Transformer) -> None:
        for name, _ in model.named_parameters():
            read(name)

    return reader


def decayed(names: list[str]) -> set[str]:
    """Those that AdamW decays."""
    return {name for name in names if OPTIMIZERS["adamw"].key(name, Training()).decays}


STAGE = whole_model(CONFIG, tensor=2)
READERS: Mapping[str, Callable[[Transformer], Any]] = {
    "building": build_with_unknown_weight,
    "initialising": lambda model: initialize(model, CONFIG, 0),
    "cutting": lambda model: cut_model(model, PAIR),
    "summing gradients": lambda model: sum_replicated_gradients(model, PAIR),
    "counting in the norm": lambda model: mark_owners(model, PAIR),
    "decay": lambda model: decayed(list(dict(model.named_parameters()))),
    "FLOPs": each_name(lambda name: products_per_token(name, CONFIG)),
    "bytes held": each_name(lambda name: parameter_elements(STAGE, name)),
    "bytes received": each_name(lambda name: replica_sum(STAGE, name)),
    "checkpoints": store,
    "Hugging Face, turned": lambda model: LLAMA.links(CONFIG, list(dict(model.named_parameters()))),
    "Hugging Face": lambda model: COHERE2.links(CONFIG, list(dict(model.named_parameters()))),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_weight_without_a_row_is_refused_by_name(reader: str) -> None:
    with pytest.raises(LookupError, match=f"{UNKNOWN}: the table of parameters has no such row"):
        READERS[reader](with_unknown_weight())


def test_a_module_and_its_row_must_agree() -> None:
    def build(*arguments: Any) -> nn.Module:
        block = build_block(*arguments)
        block.attention.v_proj = Linear(16, 4)
        return block

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.transformer.build_block", build)
        with pytest.raises(
            ValueError, match=r"v_proj\.weight: the model has \(4, 16\), .* \(8, 16\)"
        ):
            built()
    rows = {**table.LAYER, "extra.weight": Role("D D", "rows", False)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "LAYER", rows)
        with pytest.raises(ValueError, match=r"extra\.weight: the model has none, .* \(16, 16\)"):
            built()


def test_a_name_is_not_judged_by_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """`unbiased` is no bias, `normal` no norm."""
    names = ["unbiased_proj.weight", "normal_proj.weight"]
    monkeypatch.setattr(table, "LAYER", dict.fromkeys(names, Role("D D", "rows", False)))
    assert decayed([f"layers.0.{name}" for name in names]) == {f"layers.0.{name}" for name in names}
    for name in names:
        assert cut_of(f"layers.0.{name}", CONFIG, 1, 2).parts == 2


class ThreeProducts(FeedForward):
    """A feed-forward with one more matrix beside `up_proj`."""

    def __init__(self, hidden_size: int, intermediate_size: int, **options: Any) -> None:
        super().__init__(hidden_size, intermediate_size, **options)
        self.side_proj = Linear(hidden_size, intermediate_size)

    def forward(self, x_TD: Tensor) -> Tensor:
        gate_TF, up_TF = F.silu(self.gate_proj(x_TD)), self.up_proj(x_TD) + self.side_proj(x_TD)
        y_TD: Tensor = self.down_proj(gate_TF * up_TF)
        return y_TD


SIDE = "layers.{}.feed_forward.side_proj.weight"


@pytest.fixture
def side_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The new matrix: one class, and one row."""
    monkeypatch.setattr("model.block.FeedForward", ThreeProducts)
    rows = {**table.LAYER, "feed_forward.side_proj.weight": Role("F D", "rows", False)}
    monkeypatch.setattr(table, "LAYER", rows)


@pytest.mark.usefixtures("side_row")
def test_a_new_matrix_with_a_row_is_counted() -> None:
    before = {name for name in parameter_names(CONFIG, [0, 1]) if "side" not in name}
    model, per_layer = built(), 24 * 16
    assert {name for name, _ in model.named_parameters()} - before == {
        SIDE.format(0),
        SIDE.format(1),
    }
    assert parameter_count(CONFIG) == sum(p.numel() for p in model.parameters())
    sizes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert sizes == {name: shape_of(name, CONFIG) for name in parameter_names(CONFIG, [0, 1])}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "LAYER", {n: r for n, r in table.LAYER.items() if "side" not in n})
        without = training_flops(CONFIG, [8])
    assert training_flops(CONFIG, [8]) - without == 6 * 2 * per_layer * 8
    assert tensor_problems(CONFIG, 2) == []
    with torch.device("meta"):
        part = built()
    cut_model(part, PAIR)
    assert sum(p.numel() for p in part.parameters()) == stage_parameters(STAGE)
    with pytest.raises(CannotExpress, match=r"side_proj\.weight: cohere2 has no such tensor"):
        COHERE2.links(CONFIG, parameter_names(CONFIG, [0, 1]))


def stream() -> tuple[Tensor, Tensor, PackedLayout]:
    tokens_T = torch.arange(sum(LENGTHS)) * 7 % CONFIG.vocab_size
    return tokens_T, tokens_T.roll(-1), PackedLayout.from_lengths(LENGTHS)


def gradients(model: Transformer, total: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    tokens_T, targets_T, layout = stream()
    total(model.loss(model(tokens_T, layout, 1e4), targets_T).total).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def cut_in_two(model: Transformer, group: AxisGroup) -> Transformer:
    """This rank's half of a model, with its initial values, in float64."""
    cut_model(model, group)
    model.double()
    for name, parameter in model.named_parameters():
        initialise_cut(name, parameter.data, CONFIG, 0, group)
    sum_replicated_gradients(model, group)
    return model


@pytest.mark.usefixtures("side_row")
def test_a_new_matrix_with_a_row_is_initialised_cut_decayed_and_stored(tmp_path: Path) -> None:
    """On two tensor ranks, against one process; stored whole."""
    whole = built().double()
    initialize(whole, CONFIG, 0)
    truth = gradients(whole, lambda total: total)

    def work(rank: int, world_size: int) -> Any:
        mesh = start(CPU, 60, Topology(tensor=world_size))
        found = gradients(cut_in_two(built(), mesh.tensor), lambda total: total)
        index = tensors.write(tensors.gather_owned(engine_of(mesh)), tmp_path, mesh)
        return found, index["tensors"]

    (first, index), (second, _) = run_on_ranks(work, 2)
    for layer in range(CONFIG.num_layers):
        name = SIDE.format(layer)
        both = torch.cat([first[name], second[name]])
        torch.testing.assert_close(both, truth[name], rtol=0, atol=1e-12)
        assert decayed([name]) == {name}
        for kind in OPTIMIZERS["adamw"].kinds:
            assert index[f"{kind}/{name}"]["shape"] == [24, 16]
    record = index[f"weight/{SIDE.format(1)}"]
    stored = tensors.map_tensors(
        tmp_path / record["file"], {f"weight/{SIDE.format(1)}": torch.Size([24, 16])}
    )
    assert torch.equal(
        stored[f"weight/{SIDE.format(1)}"], whole.state_dict()[SIDE.format(1)].float()
    )


def engine_of(mesh: Mesh) -> TrainingEngine:
    """This rank's part of the model under ZeRO-1, as a run makes it."""
    parallel, optimizer = ParallelConfig(tensor=mesh.tensor.size), OptimizerConfig()
    core = choose_core("dense", CPU, torch.float32)
    local = build_local(CONFIG, core, mesh, parallel, sequence_length=8, traffic=TrafficMeter())
    materialise(
        local.stages[0],
        lambda name, tensor: initialise_cut(name, tensor, CONFIG, 0, mesh.tensor),
        device=CPU,
        dtype=torch.float32,
    )
    settings = zero_settings(
        parallel,
        optimizer,
        precision="float32",
        num_parameters=parameter_count(CONFIG),
        device=CPU,
    )
    parameters, _ = finish(local, mesh)
    objective = NextTokenLoss(local.stages[0], 0.0)
    return TrainingEngine(parameters, objective, mesh, optimizer, settings)


def test_a_gradient_that_every_rank_has_whole_is_not_doubled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A weight that all tensor ranks use alike: without a row refused, with one its gradient is that of one process."""

    def scaled() -> tuple[Transformer, Callable[[Tensor], Tensor]]:
        model = built()
        model.scale = nn.Linear(16, 1, bias=False)
        return model, lambda total: total * model.scale.weight.sum()

    with pytest.raises(
        LookupError, match=r"scale\.weight: the table of parameters has no such row"
    ):
        cut_model(scaled()[0], PAIR)
    row = Role("D", "whole", summed=False, multiplies_tokens=False)
    monkeypatch.setattr(table, "HEAD", {**table.HEAD, "scale.weight": row})
    monkeypatch.setattr("model.transformer.check_parameters", lambda *_: None)
    model, total = scaled()
    model.double()
    initialize(model, CONFIG, 0)
    truth = gradients(model, total)["scale.weight"]

    def work(rank: int, world_size: int) -> list[Tensor]:
        group = start(CPU, 60, Topology(tensor=world_size)).tensor
        found = []
        for summed in (False, True):
            with pytest.MonkeyPatch.context() as patch:
                rows = {**table.HEAD, "scale.weight": replace(row, summed=summed)}
                patch.setattr(table, "HEAD", rows)
                model, total = scaled()
                found.append(gradients(cut_in_two(model, group), total)["scale.weight"])
        return found

    for right, doubled in run_on_ranks(work, 2):
        torch.testing.assert_close(right, truth, rtol=0, atol=1e-12)
        torch.testing.assert_close(doubled, 2 * truth, rtol=0, atol=1e-12)
