"""When a checkpoint exists: JSON beside the tensors, atomic names, `latest`, retention.

    checkpoints/step_00000123.partial/   being written; never read
    checkpoints/step_00000123/           complete: tensors (parallel/checkpoint.py) and state.json
    checkpoints/latest                   names the newest complete one

A folder gets its final name only after every rank's tensors and the JSON are on the disk, so a kill at any
moment leaves the previous checkpoint as it was. Gathering blocks training; writing does not.
"""

import json
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from model.config import ModelConfig
from parallel import checkpoint as tensors
from parallel.deepspeed_engine import TrainingEngine
from parallel.mesh import Mesh

FORMAT = 1
STATE = "state.json"
# Not part of what a model is: another kernel may go on with the same weights.
_NOT_THE_MODEL = {"attention_backend", "init_std"}


@dataclass
class RunState:
    """Where a run stands. Everything else is a pure function of this and the configuration."""

    step: int = 0
    tokens_seen: int = 0
    stage: str = ""
    adam_steps: int = 0
    skipped_steps: int = 0
    # Base of the rotary layers by kind, as of the last step: {"window": ..., "full": ...}.
    rope_base: dict[str, float] = field(default_factory=dict)
    # The packer's place in the data: see data/packing.py. Empty at the start.
    cursor: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    # What the cursor counts in: sources with their checksums, in order, and the seed.
    data: dict[str, Any] = field(default_factory=dict)
    # For the record; a checkpoint loads under any layout.
    layout: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one run: at most one is being written at a time. Made on all ranks together."""

    def __init__(self, folder: Path, keep: int, mesh: Mesh) -> None:
        self._folder = folder
        self._keep = keep
        self._mesh = mesh
        on_gpu = mesh.device.type == "cuda"
        self._writer = ThreadPoolExecutor(
            max_workers=1,
            thread_name_prefix="checkpoint",
            # A new thread would open a context on the first GPU of the host.
            initializer=lambda: torch.cuda.set_device(mesh.device) if on_gpu else None,
        )
        self._pending: Future[None] | None = None
        mesh.together(lambda: self._sweep() if mesh.is_main else None)  # what a kill left

    def save(self, engine: TrainingEngine, state: RunState) -> None:
        """Gather and start writing a checkpoint; training may go on when this returns. Collective.

        Raises:
            OSError: the previous one could not be written.
        """
        self.wait()
        state.adam_steps = engine.adam_steps()
        owned = tensors.gather_owned(engine)
        text = json.dumps({"format": FORMAT, **asdict(state)}, indent=1)
        self._pending = self._writer.submit(self._write, owned, text, state.step)

    def wait(self) -> None:
        """Until the checkpoint being written is complete.

        Raises:
            OSError: on every rank, what stopped it on one of them.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Finish the checkpoint being written and end the thread."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def _write(self, owned: dict[str, Any], text: str, step: int) -> None:
        """All ranks write, then the main rank names; whoever fails, every rank's `wait` raises it."""
        final = self._folder / f"step_{step:08d}"
        partial = final.with_name(f"{final.name}.partial")
        group = self._mesh.checkpoint_group
        self._mesh.together(lambda: partial.mkdir(parents=True, exist_ok=True), group)
        try:
            self._mesh.together(lambda: tensors.write(owned, partial, self._mesh), group)
            self._mesh.together(lambda: self._name(partial, final, text), group)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)  # a full disk gets its room back
            raise

    def _name(self, partial: Path, final: Path, text: str) -> None:
        if not self._mesh.is_main:
            return
        write_durably(partial / STATE, text)
        if final.exists():  # an unreadable one of the same step: a readable one is resumed from
            final.rename(final.with_name(f"{final.name}.replaced.partial"))
        partial.rename(final)
        write_durably(self._folder / "latest", final.name)
        complete = sorted(self._folder.glob("step_????????"))
        for old in complete[: -self._keep]:
            if old != final:  # a name of its own first: half a folder must never count as complete
                old.rename(old.with_name(f"{old.name}.partial"))
        self._sweep()

    def _sweep(self) -> None:
        for partial in self._folder.glob("*.partial"):
            shutil.rmtree(partial)


def write_durably(path: Path, text: str) -> None:
    """Replace `path` by `text` so that a kill leaves either the old or the new content."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint under `folder`, if there is one."""
    named = folder / "latest"
    if named.is_file() and (folder / named.read_text().strip() / STATE).is_file():
        return folder / named.read_text().strip()
    complete = [path for path in sorted(folder.glob("step_????????")) if (path / STATE).is_file()]
    return complete[-1] if complete else None


def read_state(folder: Path) -> RunState:
    """The JSON of a checkpoint.

    Raises:
        ValueError: there is none, or another format's.
    """
    path = folder / STATE
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"checkpoint {folder}: {STATE} is not readable ({error})") from error
    if content.pop("format", None) != FORMAT:
        raise ValueError(f"checkpoint {folder}: written in another format than {FORMAT}")
    try:
        return RunState(**content)
    except TypeError as error:
        raise ValueError(f"checkpoint {folder}: {STATE} is of another version ({error})") from error


def differences(
    state: RunState,
    model: ModelConfig,
    *,
    rope_base: dict[str, float],
    data: dict[str, Any],
    allowed: list[str],
) -> list[str]:
    """Why `state` may not go on under this configuration, one line each; empty if it may."""
    found = []
    wanted = asdict(model)
    for name in sorted(wanted.keys() - _NOT_THE_MODEL):
        if state.model.get(name) != wanted[name]:
            found.append(
                f"model.{name}={wanted[name]}: the checkpoint's model has {state.model.get(name)}; "
                "use that, or start a new run (another run_name)"
            )
    if "rope_base" not in allowed and state.rope_base != rope_base:
        found.append(
            f"rope_base: this schedule has {rope_base} where the checkpoint stands, it was trained with "
            f"{state.rope_base}; restore the schedule, or set checkpoint.allow_changes=[rope_base]"
        )
    if "data" not in allowed and state.data != data:
        keys = [key for key in data if state.data.get(key) != data[key]]
        found.append(
            f"data: {', '.join(keys)} differ from the checkpoint's, so its place in the data means "
            "nothing here; restore them, or set checkpoint.allow_changes=[data] to begin the data anew"
        )
    return found
