"""Writes checkpoints: JSON beside the tensors, atomic renaming, `latest`, retention.

    step_00000123.partial/   tensors (parallel/checkpoint/tensors.py), index.json, state.json: being written
    step_00000123/           the same, complete: see train/checkpointing/folder.py
                             with huggingface/ where the run has one: train/huggingface/kept_files.py

A folder gets its final name only after every rank's tensors and the JSON are on the disk, so a kill at any
moment leaves the previous checkpoint as it was. Gathering blocks training; writing does not. A save that fails
with an OSError leaves nothing behind and does not end the run; training goes on until the next save.
"""

import shutil
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from data.files import reason, seal, sync_folder, write_durably
from parallel.checkpoint import tensors
from parallel.checkpoint.index import Index
from parallel.engine.engine import TrainingEngine
from parallel.mesh import Mesh
from train.checkpointing import folder as checkpoint_folder
from train.checkpointing.state import FORMAT, INDEX, STATE, RunState, read_index, read_state
from train.huggingface.kept_files import carry

T = TypeVar("T")


class CheckpointFailed(OSError):
    """A checkpoint that the run needs could not be written."""


class Checkpoints:
    """The checkpoints of one run; at most one is being written at a time. Constructed on all ranks together.

    failures: failed saves since this start, the same number on every rank.
    """

    def __init__(self, folder: Path, keep: int, mesh: Mesh) -> None:
        self.failures = 0
        self._folder = folder
        self._keep = keep
        self._mesh = mesh
        on_gpu = mesh.device.type == "cuda"
        self._writer = ThreadPoolExecutor(
            max_workers=1,
            thread_name_prefix="checkpoint",
            # Otherwise the new thread would open a context on the first GPU of the host.
            initializer=lambda: torch.cuda.set_device(mesh.device) if on_gpu else None,
        )
        self._pending: Future[str] | None = None
        # Why the newest save failed; empty if it did not.
        self._failure = ""
        self._news: deque[str] = deque()
        mesh.together(lambda: self._sweep() if mesh.is_main else None)  # left by a kill

    def save(
        self, engine: TrainingEngine, state: RunState, before: Callable[[], None] | None = None
    ) -> None:
        """Gathers a checkpoint and starts writing it; training may go on when this returns. Collective.

        before: called first in the background; an OSError from it fails the save.
        """
        self.wait()
        steps = engine.optimizer_steps()
        state.optimizer_steps, state.other_optimizer_steps = steps.most, dict(steps.others)
        owned = tensors.gather_owned(engine)
        text = seal({"format": FORMAT, **asdict(state)})
        self._pending = self._writer.submit(self._write, owned, text, state.step, before)

    def wait(self) -> None:
        """Waits until the checkpoint being written is complete or has failed, the same on every rank."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._failure = pending.result()

    def require(self) -> None:
        """Waits like `wait`, and raises if the newest checkpoint could not be written.

        Raises:
            CheckpointFailed: on every rank, with the reason.
        """
        self.wait()
        if self._failure:
            # Drop the warning: the same failure is raised as an error below.
            self._news = deque(line for line in self._news if self._failure not in line)
            raise CheckpointFailed(
                f"{self._failure}; mend that and start the same command again: it goes on from the last "
                "complete checkpoint"
            )

    def news(self) -> list[str]:
        """Returns the warnings since the last call, one line each; the main rank prints them."""
        return [self._news.popleft() for _ in range(len(self._news))]

    def forget_after(self, step: int) -> None:
        """Removes the checkpoints of later steps, after a return to an earlier one. Collective.

        Otherwise a restart would resume from them.
        """
        self.wait()

        def forget() -> None:
            for later in checkpoint_folder.complete(self._folder):
                if checkpoint_folder.step_of(later) > step:
                    later.rename(later.with_name(f"{later.name}.partial"))
            newest = checkpoint_folder.latest(self._folder)
            if newest is not None:
                write_durably(self._folder / checkpoint_folder.LATEST, newest.name)
            self._sweep()

        self._mesh.together(lambda: forget() if self._mesh.is_main else None)

    def restate(self, state: RunState) -> None:
        """Replaces the state in the complete checkpoint of `state.step`, whose tensors stay. Collective.

        The file is replaced atomically, so a kill leaves the old state or the new one.
        """
        self.wait()
        path = self._folder / checkpoint_folder.named(state.step) / STATE
        text = seal({"format": FORMAT, **asdict(state)})
        self._mesh.together(lambda: write_durably(path, text) if self._mesh.is_main else None)

    def close(self) -> None:
        """Waits for the checkpoint being written and ends the thread."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def _write(
        self,
        owned: dict[str, Tensor],
        text: bytes,
        step: int,
        before: Callable[[], None] | None,
    ) -> str:
        """All ranks write, then the main rank renames the folder; returns the failure or "", the same on every rank."""
        final = self._folder / checkpoint_folder.named(step)
        partial = final.with_name(f"{final.name}.partial")
        try:
            # Collective even without `before`: the main rank may still be removing folders of the previous save.
            self._together(before or (lambda: None))
            self._together(lambda: partial.mkdir(parents=True, exist_ok=True))
            index = tensors.write(owned, partial, self._mesh)
            self._together(
                lambda: self._name(partial, final, text, index) if self._mesh.is_main else None
            )
        except OSError as error:
            self.failures += 1
            failure = f"the checkpoint of step {step:,} could not be written: {error}"
            self._news.append(f"warning: {failure}; training goes on, the next save tries again")
            if self._mesh.is_main:
                shutil.rmtree(partial, ignore_errors=True)  # free the space on a full disk
            return failure
        if self._mesh.is_main:
            self._tidy(final)
        return ""

    def _together(self, work: Callable[[], T]) -> T:
        """Runs `work` on every rank, on the writers' group; raises OSError on all ranks if one fails, and names it."""

        def on_this_rank() -> T:
            try:
                return work()
            except OSError as error:
                raise OSError(f"rank {self._mesh.rank}: {reason(error)}") from error
            except Exception as error:  # out of memory, say: the other ranks must not wait
                raise OSError(f"rank {self._mesh.rank}: {error!r}") from error

        return self._mesh.together(on_this_rank, self._mesh.checkpoint_group)

    def _name(self, partial: Path, final: Path, text: bytes, index: Index) -> None:
        write_durably(partial / INDEX, seal({"format": FORMAT, **index}))
        write_durably(partial / STATE, text)
        carry(self._folder.parent, partial)
        if final.exists():  # the run returned to an earlier step and reached this one again
            final.rename(final.with_name(f"{final.name}.replaced.partial"))
        partial.rename(final)
        sync_folder(self._folder)

    def _tidy(self, newest: Path) -> None:
        """Updates `latest` and removes old checkpoints; a failure here only gives a warning."""
        try:
            write_durably(self._folder / checkpoint_folder.LATEST, newest.name)
            for old in checkpoint_folder.complete(self._folder)[self._keep :]:
                if old != newest:  # rename first: a half-removed folder must not count as complete
                    old.rename(old.with_name(f"{old.name}.partial"))
            self._sweep()
        except OSError as error:
            self._news.append(
                f"warning: {newest} is complete, but old ones beside it remain: {reason(error)}"
            )

    def _sweep(self) -> None:
        for partial in self._folder.glob("*.partial"):
            shutil.rmtree(partial)


def verify(folder: Path, mesh: Mesh, tell: Callable[[str], None]) -> Index:
    """Verifies every byte of a checkpoint and returns its index. Collective.

    Raises:
        DamagedCheckpoint, ValueError: on every rank, with the file and what is wrong with it.
    """

    def look() -> Index | None:
        if not mesh.is_main:
            return None
        read_state(folder)
        return read_index(folder)

    index: Index = mesh.broadcast_object(mesh.together(look))
    tensors.verify(folder, index, mesh, tell)
    return index
