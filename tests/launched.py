"""`python -m train` on forked ranks: what torchrun does, without importing torch once a rank.

The process that forks has imported the whole program. A rank gets the launcher's environment variables, its own
standard output and error, and calls the command's `main`. The ranks meet at a store of the forking process, as they
meet at the store of torchrun's agent. tests/smoke proves the same command under torchrun.
"""

import gc
import multiprocessing
import os
import sys
import tempfile
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

# Imported here, so that no rank does: what DeepSpeed imports when it builds an engine.
import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
import torch
import torch._dynamo
from torch._C._distributed_c10d import TCPStore

import train.job  # noqa: F401
from train.__main__ import main


class Finished(NamedTuple):
    """Of all ranks together: the highest exit status, and what they wrote, rank by rank."""

    returncode: int
    stdout: str
    stderr: str


class Launch:
    """Ranks of one command. As a context it leaves no process behind."""

    def __init__(self, ranks: int, arguments: list[str]) -> None:
        self._output = tempfile.TemporaryDirectory()
        self._store = TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
        context = multiprocessing.get_context("fork")
        self.ranks = [
            context.Process(target=self._run, args=(rank, ranks, arguments))
            for rank in range(ranks)
        ]
        for process in self.ranks:
            process.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        self._output.cleanup()

    def pid(self, rank: int) -> int:
        """The process of a rank."""
        pid = self.ranks[rank].pid
        assert pid is not None
        return pid

    def until_steps(self, metrics: Path, steps: int) -> None:
        """Wait until so many rows are in the metrics.

        Raises:
            AssertionError: a rank ended before.
        """
        while not metrics.exists() or metrics.read_text().count("\n") < steps:
            ended = wait([process.sentinel for process in self.ranks], timeout=0.01)
            assert not ended, f"a rank ended before step {steps}:\n{self._said('err')}"

    def kill(self) -> None:
        """SIGKILL to every rank."""
        for process in self.ranks:
            process.kill()
            process.join()

    def finish(self) -> Finished:
        """Wait until no rank runs. Ranks that wait for each other for ever are ended by the run's own watch."""
        for process in self.ranks:
            process.join()
        return self._finished()

    def finish_without(self, stopped: int) -> Finished:
        """Wait for all ranks but one that cannot end, and kill that, as a launcher does."""
        for rank, process in enumerate(self.ranks):
            if rank != stopped:
                process.join()
        self.kill()
        return self._finished()

    def _finished(self) -> Finished:
        statuses = [process.exitcode or 0 for process in self.ranks]
        return Finished(max(statuses, key=abs), self._said("out"), self._said("err"))

    def _said(self, stream: str) -> str:
        files = [Path(self._output.name) / f"{stream}-{rank}" for rank in range(len(self.ranks))]
        return "".join(file.read_text() for file in files if file.exists())

    def _run(self, rank: int, ranks: int, arguments: list[str]) -> None:
        """What runs in the rank."""
        for number, stream in ((1, "out"), (2, "err")):
            with (Path(self._output.name) / f"{stream}-{rank}").open("wb") as file:
                os.dup2(file.fileno(), number)
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "LOCAL_WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self._store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        torch.set_num_threads(1)
        # What the parent imported is not looked through again by every collection of every rank.
        gc.freeze()
        sys.exit(main(arguments))


def run(ranks: int, arguments: list[str]) -> Finished:
    """The command from its start to its end."""
    with Launch(ranks, arguments) as launch:
        return launch.finish()
