"""The change of layout in mid-run: signals that arrive then, damage found then, and memory."""

import gc
import json
import os
import signal
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ranks import run_on_ranks
from train import build
from train.configuration.compose import compose_run
from train.evaluation import held_out
from train.health.exit_status import STOPPED
from train.job import run_job
from train.run import Run

Arguments = Callable[..., list[str]]
SWITCH = 10
# One micro-batch a rank.
OVERLAY = {
    "schedule.stages.first.micro_batch_tokens": "256",
    "schedule.stages.second.micro_batch_tokens": "512",
    "schedule.stages.second.parallel": "{tensor:2,zero_stage:3}",
}


def job(arguments: list[str], before: Callable[[pytest.MonkeyPatch, int], None]) -> list[int]:
    """Exit statuses of a run on two ranks; `before(patch, rank)` plants what goes wrong."""

    config = compose_run(arguments)

    def work(rank: int, world_size: int) -> int:
        with pytest.MonkeyPatch.context() as patch:
            before(patch, rank)
            return run_job(config)

    return run_on_ranks(work, 2)


def steps(outputs: Path) -> list[int]:
    lines = (outputs / "small/metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


@pytest.mark.parametrize("when", ["evaluation", "reform"])
def test_a_signal_at_the_switch_saves_and_ends_the_run(
    when: str, small_run: Arguments, tmp_path: Path
) -> None:
    arguments = small_run(tmp_path, **OVERLAY)

    def plant(patch: pytest.MonkeyPatch, rank: int) -> None:
        module, name = (held_out, "evaluate") if when == "evaluation" else (build, "arrange")
        original = getattr(module, name)

        def and_signal(*given: Any) -> Any:
            if rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(*given)

        patch.setattr(module, name, and_signal)

    assert job(arguments, plant) == [STOPPED, STOPPED]
    # In the evaluation before the switch nothing is left to do; in the switch one step carries the vote.
    stopped = SWITCH if when == "evaluation" else SWITCH + 1
    assert steps(tmp_path) == list(range(1, stopped + 1))
    assert job(arguments, lambda *_: None) == [0, 0]
    assert steps(tmp_path) == list(range(1, 21))


def test_damage_that_one_rank_finds_ends_all_of_them(
    small_run: Arguments, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def plant(patch: pytest.MonkeyPatch, rank: int) -> None:
        original = build.rebuild

        def damaged(run: Run, corpus: Any, folder: Path) -> None:
            if rank == 1:
                path = folder / "rank_00001.safetensors"
                content = bytearray(path.read_bytes())
                content[-1] ^= 1
                path.write_bytes(content)
            run.mesh.gather_objects(None)
            original(run, corpus, folder)

        patch.setattr(build, "rebuild", damaged)

    assert job(small_run(tmp_path, **OVERLAY), plant) == [1, 1]
    assert steps(tmp_path) == list(range(1, SWITCH + 1))
    said = capfd.readouterr().err
    assert said.count("rank_00001.safetensors is damaged: expected sha256") == 1
    assert "Traceback" not in said


def test_the_old_engine_is_gone_before_the_new_one_is_built(
    small_run: Arguments, tmp_path: Path
) -> None:
    def plant(patch: pytest.MonkeyPatch, rank: int) -> None:
        original = build.build_trainer
        old: list[weakref.ref[Any]] = []

        def watched(*given: Any, **named: Any) -> Any:
            assert not any(reference() is not None for reference in old)
            trainer = original(*given, **named)
            engine = trainer.engine
            states = [
                s[key] for s in engine._inner.state.values() for key in ("exp_avg", "exp_avg_sq")
            ]
            old[:] = [weakref.ref(t) for t in (*engine.parameters.named.values(), *states)]
            return trainer

        patch.setattr(build, "build_trainer", watched)
        gc.collect()

    assert job(small_run(tmp_path, **OVERLAY), plant) == [0, 0]
