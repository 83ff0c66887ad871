"""Starting a world, and failing together in it."""

import pytest
import torch

from parallel.mesh import start
from ranks import run_on_ranks

CPU = torch.device("cpu")


def test_several_processes_without_a_meeting_place_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ValueError, match="start with torchrun, or unset WORLD_SIZE"):
        start(CPU, 60)


def test_one_rank_that_refuses_is_heard_on_every_rank() -> None:
    def work(rank: int, world_size: int) -> str:
        mesh = start(CPU, 60)

        def refuse_on_the_last() -> int:
            if rank == world_size - 1:
                raise ValueError(f"rank {rank} has no corpus")
            return rank

        with pytest.raises(ValueError, match="has no corpus") as caught:
            mesh.together(refuse_on_the_last)
        assert mesh.together(lambda: rank) == rank
        return str(caught.value)

    assert run_on_ranks(work, 3) == ["rank 2 has no corpus"] * 3
