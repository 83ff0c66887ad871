"""A checkpoint written under one layout goes on under any other, and is whole or not there."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model.config import ModelConfig
from parallel.checkpoint import tensors
from parallel.checkpoint.index import DamagedCheckpoint, Index
from parallel.config import OptimizerConfig, ParallelConfig
from parallel.engine.engine import TrainingEngine
from parallel.engine.materialise import materialise
from parallel.engine.settings import DTYPES, zero_settings
from parallel.engine.training import StepCounts
from parallel.mesh import Mesh, start
from parallel.parameters import NamedParameters
from ranks import run_on_ranks
from train.checkpointing.checkpoint import Checkpoints, verify
from train.checkpointing.folder import latest
from train.checkpointing.state import RunState, differences, read_index, read_state

CPU = torch.device("cpu")


class Small(torch.nn.Module):
    """Sizes that no number of ranks divides, under names of the table of parameters."""

    def __init__(self, width: int = 33) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(50, 31)
        inner = torch.nn.Linear(31, width, bias=False)
        outer = torch.nn.Linear(width, 31, bias=False)
        feed_forward = torch.nn.ModuleDict({"up_proj": inner, "down_proj": outer})
        self.layers = torch.nn.ModuleList([torch.nn.ModuleDict({"feed_forward": feed_forward})])
        self.norm = torch.nn.LayerNorm(width, bias=False)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        h = self.embedding(x)
        feed_forward = self.layers[0]["feed_forward"]
        h = h + feed_forward["down_proj"](self.norm(torch.relu(feed_forward["up_proj"](h))))
        logits = (h @ self.embedding.weight.t()).float()
        return torch.nn.functional.cross_entropy(logits, y, reduction="sum")


def build(mesh: Mesh, zero_stage: int, precision: str, width: int = 33) -> TrainingEngine:
    parallel, optimizer = ParallelConfig(zero_stage=zero_stage), OptimizerConfig(epsilon=1e-6)
    with torch.device("meta"):
        module = Small(width)
    settings = zero_settings(
        parallel, optimizer, precision=precision, num_parameters=4000, device=mesh.device
    )

    def fill(name: str, tensor: torch.Tensor) -> None:
        generator = torch.Generator().manual_seed(sum(map(ord, name)))
        tensor.copy_(
            torch.ones(())
            if "norm" in name
            else torch.randn(tensor.shape, generator=generator) * 0.3
        )

    materialise(
        module,
        fill,
        device=mesh.device,
        dtype=DTYPES[precision],
        zero3_settings=settings if zero_stage == 3 else None,
        mesh=mesh,
    )
    parameters = NamedParameters(dict(module.named_parameters()), ModelConfig())
    return TrainingEngine(parameters, module, mesh, optimizer, settings)


def train(engine: TrainingEngine, mesh: Mesh, steps: range) -> list[float]:
    losses = []
    for step in steps:
        x = torch.randint(0, 50, (12,), generator=torch.Generator().manual_seed(step))
        mine = x[mesh.rank :: mesh.world_size]
        total = torch.zeros(())

        def run(module: Any, mine: Any = mine, total: Any = total) -> torch.Tensor:
            loss: torch.Tensor = module(mine, (mine * 7 + 3) % 50)
            total += loss.detach()
            return loss / 12 * mesh.world_size

        engine.forward_backward(run, last=True)
        losses.append(float(mesh.sum_over_world(total)) / 12)
        engine.step(1e-2)
    return losses


def stages(precision: str) -> tuple[int, ...]:
    """ZeRO stages that are sound in this precision."""
    return (0, 1, 2, 3) if precision == "float32" else (1, 2, 3)


def keep(engine: TrainingEngine, folder: Path) -> Index:
    """Write the engine's tensors and, beside them, their index."""
    if engine.mesh.is_main:
        folder.mkdir()
    engine.mesh.gather_objects(None)
    index = tensors.write(tensors.gather_owned(engine), folder, engine.mesh)
    if engine.mesh.is_main:
        (folder / "index").write_text(json.dumps(index))
    return index


def write_and_go_on(folder: Path, precision: str) -> dict[int, list[float]]:
    """On two ranks, for each ZeRO stage: eight steps straight; three steps, saved, and five more."""

    def work(rank: int, world_size: int) -> dict[int, list[float]]:
        mesh = start(CPU, 60)
        straight = {}
        for zero_stage in stages(precision):
            straight[zero_stage] = train(build(mesh, zero_stage, precision), mesh, range(8))
            engine = build(mesh, zero_stage, precision)
            train(engine, mesh, range(3))
            keep(engine, folder / str(zero_stage))
        return straight

    return run_on_ranks(work, 2)[0]


def go_on(folder: Path, precision: str, ranks: int, zero_stage: int) -> dict[int, list[float]]:
    """Steps 3 to 8 from the checkpoint that each ZeRO stage wrote."""

    def work(rank: int, world_size: int) -> dict[int, list[float]]:
        mesh = start(CPU, 60)
        losses = {}
        for wrote in stages(precision):
            engine = build(mesh, zero_stage, precision)
            index = json.loads((folder / str(wrote) / "index").read_text())
            tensors.verify(folder / str(wrote), index, mesh, print)
            tensors.read(engine, folder / str(wrote), index, steps=StepCounts(3))
            losses[wrote] = train(engine, mesh, range(3, 8))
        return losses

    return run_on_ranks(work, ranks)[0]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_any_layout_goes_on_where_another_stopped(tmp_path: Path, precision: str) -> None:
    straight = write_and_go_on(tmp_path, precision)
    for zero_stage in stages(precision):
        found = go_on(tmp_path, precision, 2, zero_stage)
        assert found[zero_stage] == straight[zero_stage][3:], "the same layout goes on bit by bit"
    # 3 ranks: no parameter's size is divisible by them. bfloat16 rounds sums over ranks differently.
    tolerance = 1e-5 if precision == "float32" else 4e-3
    for ranks, zero_stage in ((1, 1), (3, 3), (3, 2)):
        found = go_on(tmp_path, precision, ranks, zero_stage)
        for wrote in stages(precision):
            assert found[wrote] == pytest.approx(straight[wrote][3:], rel=tolerance), (ranks, wrote)


def test_tensors_of_another_model_are_refused_by_name(tmp_path: Path) -> None:
    def work(rank: int, world_size: int) -> str:
        mesh = start(CPU, 60)
        engine = build(mesh, 1, "float32")
        index = keep(engine, tmp_path / "saved")
        engine = build(mesh, 1, "float32", width=34)
        with pytest.raises(ValueError, match="is of another model") as caught:
            tensors.read(engine, tmp_path / "saved", index, steps=StepCounts(1))
        return str(caught.value)

    (message,) = run_on_ranks(work, 1)
    assert "layers.0.feed_forward.up_proj.weight has shape (33, 31), this model (34, 31)" in message


def test_only_complete_checkpoints_count_and_old_ones_go(tmp_path: Path) -> None:
    def work(rank: int, world_size: int) -> None:
        mesh = start(CPU, 60)
        engine = build(mesh, 1, "float32")
        checkpoints = Checkpoints(tmp_path, keep=2, mesh=mesh)
        (tmp_path / "step_00000001.partial").mkdir(exist_ok=True)  # what a kill leaves
        for step in range(2, 6):
            train(engine, mesh, range(1))
            checkpoints.save(engine, RunState(step=step))
        checkpoints.close()

    run_on_ranks(work, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "latest",
        "step_00000004",
        "step_00000005",
    ]
    assert latest(tmp_path) == tmp_path / "step_00000005"
    assert read_state(tmp_path / "step_00000005").optimizer_steps == 4
    index = read_index(tmp_path / "step_00000005")
    # Each rank wrote what it owns, and every tensor is in one file.
    assert sorted(index["files"]) == ["rank_00000.safetensors", "rank_00001.safetensors"]
    for name in index["files"]:
        found = load_file(tmp_path / "step_00000005" / name)
        listed = {key for key, record in index["tensors"].items() if record["file"] == name}
        assert found.keys() == listed
        for key, tensor in found.items():
            assert list(tensor.shape) == index["tensors"][key]["shape"]


def test_damage_that_one_rank_finds_is_known_to_all(tmp_path: Path) -> None:
    def work(rank: int, world_size: int) -> str:
        mesh = start(CPU, 60)
        engine = build(mesh, 1, "float32")
        checkpoints = Checkpoints(tmp_path, keep=2, mesh=mesh)
        checkpoints.save(engine, RunState(step=1))
        checkpoints.close()
        folder = tmp_path / "step_00000001"
        if rank == 1:
            path = folder / "rank_00001.safetensors"
            content = bytearray(path.read_bytes())
            content[-5] ^= 1
            path.write_bytes(content)
        mesh.gather_objects(None)
        with pytest.raises(DamagedCheckpoint) as caught:
            verify(folder, mesh, print)
        return str(caught.value)

    first, second = run_on_ranks(work, 2)
    assert first == second
    assert "rank_00001.safetensors is damaged: expected sha256" in first


def test_one_rank_that_cannot_write_fails_the_save_on_all(tmp_path: Path) -> None:
    def work(rank: int, world_size: int) -> tuple[int, str]:
        mesh = start(CPU, 60)
        engine = build(mesh, 1, "float32")
        checkpoints = Checkpoints(tmp_path, keep=2, mesh=mesh)
        checkpoints.save(engine, RunState(step=1))

        def plant() -> None:
            if rank == 1:  # a device that is always full, where its file would be
                partial = tmp_path / "step_00000002.partial"
                partial.mkdir()
                (partial / "rank_00001.safetensors").symlink_to("/dev/full")

        checkpoints.save(engine, RunState(step=2), before=plant)
        checkpoints.wait()
        checkpoints.save(engine, RunState(step=3))
        checkpoints.require()
        (line,) = checkpoints.news()
        return checkpoints.failures, line

    first, second = run_on_ranks(work, 2)
    assert first == second
    assert first[0] == 1
    assert "step 2 could not be written: rank 1: rank_00001.safetensors: No space left" in first[1]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["latest", "step_00000001", "step_00000003"]


def test_owners_spread_bytes_evenly() -> None:
    sizes = [100, 90, 80, 10, 10, 10]
    owner = tensors.owners(sizes, 3)
    loads = [sum(s for s, o in zip(sizes, owner, strict=True) if o == rank) for rank in range(3)]
    assert max(loads) == 100
    assert tensors.owners(sizes, 1) == [0] * 6


def test_differences_are_errors_unless_allowed_by_name() -> None:
    model = ModelConfig()
    state = RunState(
        model={**asdict(model), "window": 64, "attention_backend": "dense"},
        optimizer="another",
        optimizer_steps=3,
        rope_base={"window": 1e4},
        data={"seed": 0, "sources": {"a": "x"}},
    )
    data = {"seed": 1, "sources": {"a": "x"}}
    unknown = {"sha256": "", "bos_id": None}
    here = {"optimizer": "adamw", "rope_base": {"window": 5e5}, "data": data, "tokenizer": unknown}
    found = differences(state, model, **here, allowed=[])
    assert [line.split("=")[0].split(":")[0] for line in found] == [
        "model.window",
        "optimizer.name",
        "rope_base",
        "data",
    ]
    assert "the checkpoint has the states of another; use that" in found[1]
    assert "seed differ" in found[3]
    allowed = ["rope_base", "data"]
    assert len(differences(state, model, **here, allowed=allowed)) == 2
    weights_alone = replace(state, optimizer_steps=0)
    assert len(differences(weights_alone, model, **here, allowed=allowed)) == 1
