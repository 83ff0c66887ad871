"""Run a function on N gloo ranks from an ordinary test.

Ranks are forked, so the function may be a closure of the test and importing torch is paid once.
"""

import gc
import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# Ends a test that would never end; nothing that is proved depends on it.
_HUNG = 1800.0
# Ranks that wait for a dead one are given so long to say why.
_LAST_WORDS = 5.0


def run_on_ranks(function: Callable[[int, int], Any], world_size: int) -> list[Any]:
    """Call `function(rank, world_size)` on every rank inside a gloo world.

    Returns what each rank returned (picklable; tensors on the CPU), in rank order.

    Raises:
        RuntimeError: a rank raised or hung; carries the first traceback.
    """
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            context.Process(target=_worker, args=(function, rank, world_size, folder))
            for rank in range(world_size)
        ]
        for worker in workers:
            worker.start()
        deadline = time.monotonic() + _HUNG
        running = {worker.sentinel: worker for worker in workers}
        while running and time.monotonic() < deadline:
            for sentinel in wait(list(running), timeout=deadline - time.monotonic()):
                ended = running.pop(sentinel)
                ended.join()  # the sentinel may come a moment before the exit status
                if ended.exitcode:
                    deadline = min(deadline, time.monotonic() + _LAST_WORDS)
        died = {rank: worker.exitcode for rank, worker in enumerate(workers) if worker.exitcode}
        hung = [rank for rank, worker in enumerate(workers) if worker.is_alive()]
        for worker in workers:
            worker.kill()
            worker.join()
        errors = sorted(Path(folder).glob("error-*"))
        if errors:
            raise RuntimeError(f"{errors[0].name}:\n{errors[0].read_text()}")
        if died:
            raise RuntimeError(f"ranks died: {died} (rank: exit status)")
        if hung:
            raise RuntimeError(f"ranks {hung} did not finish")
        return [
            torch.load(Path(folder) / f"result-{rank}", weights_only=False)
            for rank in range(world_size)
        ]


def _worker(function: Callable[[int, int], Any], rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    # What the parent imported is not looked through again by every collection of every rank.
    gc.freeze()
    # What a launcher would say, so that code under test reads the same environment.
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    try:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
        )
        result = function(rank, world_size)
        torch.save(result, Path(folder) / f"result-{rank}")
        if dist.is_initialized():  # not if the function ended the world itself
            dist.barrier()
            dist.destroy_process_group()
    except BaseException:
        (Path(folder) / f"error-{rank}").write_text(traceback.format_exc())
        raise
