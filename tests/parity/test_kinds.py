"""Several reaches and rotations in one pattern, over sequence ranks: what travels by kind, and a run that goes on."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from model.attention.core import choose_core
from model.attention.dense import visible_TS
from model.layer_pattern import KindConfig, expand_pattern, layer_kinds
from model.packed_layout import PackedLayout
from model.reach import Reach
from parallel.config import ParallelConfig
from parallel.mesh import arrange, start
from parallel.parallelize import build_local
from parallel.sequence.traffic import TrafficMeter
from ranks import run_on_ranks
from tests.parity.layout_cases import MODELS, TOKENS, Case
from tests.parity.streams import BASE, part_of_rank, streams
from tests.parity.test_loop import Arguments
from train import job
from train.checkpointing.state import read_state
from train.configuration.compose import compose_run
from train.objective import to_device

# near, full_nope, wide and part; and a kind that is the same as near but for its name.
MODEL = replace(
    MODELS["cohere"],
    layer_pattern=["near", "full_nope", "wide", "part", "twin"],
    kinds=MODELS["cohere"].kinds | {"twin": KindConfig(like="window_nope", window=5)},
)
LAYERS = Counter(spec.kind for spec in expand_pattern(MODEL))
CASE = Case(1, 1, 2, 1, "-", "zigzag", 3, "cohere", "everything")
TOKEN_BYTES = 2 * MODEL.num_kv_heads * MODEL.head_dim * torch.float64.itemsize


def foreign_keys(lengths: tuple[int, ...], held: tuple[range, ...], reach: Reach) -> int:
    """Tokens of other ranks that a query of this rank attends, from the dense mask."""
    own = torch.zeros(sum(lengths), dtype=torch.bool)
    for piece in held:
        own[piece.start : piece.stop] = True
    seen = visible_TS(PackedLayout.from_lengths(lengths), reach)
    return int((seen[own].any(dim=0) & ~own).sum())


def test_bytes_are_counted_by_kind_and_are_those_of_the_dense_mask() -> None:
    def work(rank: int, world_size: int) -> list[Any]:
        mesh = arrange(start(torch.device("cpu"), 60).world, CASE.parallel().topology(world_size))
        core, meter = choose_core("dense", "cpu", torch.float64), TrafficMeter()
        (model,) = build_local(
            MODEL, core, mesh, ParallelConfig(sequence=2), sequence_length=TOKENS, traffic=meter
        ).stages
        model.to_empty(device="cpu").double()
        found = []
        for stream in streams(CASE):
            batch = to_device(part_of_rank(stream, MODEL, mesh, CASE.parallel()), mesh.device)
            meter.reset()
            with torch.no_grad():
                model(batch.tokens_T, batch.layout, BASE)
            routes = batch.layout.routes
            assert routes["near"] is routes["twin"] is not routes["wide"]
            found.append((stream.lengths, batch.layout.dealing.ranges(rank), meter.bytes))
        return found

    for rank_found in run_on_ranks(work, 2):
        for lengths, held, received in rank_found:
            for kind, spec in layer_kinds(MODEL).items():
                keys = foreign_keys(lengths, held, spec.reach)
                assert received[kind, "forward"] == LAYERS[kind] * TOKEN_BYTES * keys
        assert any(received["near", "forward"] for _, _, received in rank_found)


def rows(folder: Path) -> list[dict[str, Any]]:
    """The steps of a run, without what depends on the clock."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = ("step", "loss", "gradient_norm", "tokens_seen", "rope_base", "sequence_bytes_received")
    return [{key: row[key] for key in kept} for row in found]


def test_a_run_of_declared_kinds_goes_on_from_its_checkpoint_bit_by_bit(
    small_run: Arguments, tmp_path: Path
) -> None:
    def run(name: str, **changes: str) -> list[int]:
        kinds = (
            "{near: {like: window_rope, window: 5}, "
            "wide: {like: window_rope, window: 40, rope: {base: 500.0}}}"
        )
        settings = {
            "model.layer_pattern": "[near,chunk_rope,wide,window_rope]",
            "model.kinds": kinds,
            "model.chunk": "12",
            "parallel.sequence": "2",
            "train.max_steps": "6",
            "checkpoint.every_steps": "3",
            "checkpoint.keep": "3",
            "evaluation.enabled": "false",
        }
        arguments = small_run(tmp_path, run_name=name, **settings | changes)
        return run_on_ranks(lambda *_: job.run_job(compose_run(arguments)), 2)

    assert run("straight") == [0, 0]
    checkpoint = tmp_path / "straight/checkpoints/step_00000003"
    assert read_state(checkpoint).rope_base == {
        "near": 10_000.0, "wide": 500.0, "window": 10_000.0, "chunk": 10_000.0,
    }  # fmt: skip
    shutil.copytree(checkpoint, tmp_path / "branched/checkpoints" / checkpoint.name)
    assert run("branched") == [0, 0]
    straight = rows(tmp_path / "straight")
    assert rows(tmp_path / "branched") == straight[3:]
    assert set(straight[0]["sequence_bytes_received"]) == {
        "full",
        "window",
        "near",
        "wide",
        "chunk",
    }
    assert run("branched", **{"model.kinds.near.window": "6"}) == [2, 2]
    assert run("branched", **{"model.chunk": "13"}) == [2, 2]
