"""Back to a checkpoint from before the spikes, and past the data that came with them.

    steps   10 (checkpoint)  11  12  13  [14  15  16: spikes]      the run goes on from 10
    data    |------------------ stepped over ----------------|     and from where 16 left the data

Weights, moments, step and tokens seen are the checkpoint's; the place in the data stays where it is. So the tokens
behind the surviving weights were seen as often as in a run without spikes, and those stepped over never.

A kill at any moment leads to the same place. The checkpoint's state is replaced by renaming one file; until then a
restart finds the old one, or a later checkpoint of the steps given up, and comes through the same steps to the
same rollback.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.files import write_durably
from data.sources import Corpus
from train import build
from train.checkpointing import folder as checkpoint_folder
from train.checkpointing.resume import sound_checkpoint
from train.checkpointing.state import RunState
from train.health.bad_step import LossSpike
from train.loop import Run

Tell = Callable[[str], None]


def roll_back(run: Run, corpus: Corpus, tell: Tell) -> None:
    """Take the run back to before its spikes; its next batches come from `build.build_loader`. Collective.

    Raises:
        LossSpike: on every rank, why it cannot go back.
        DamagedCheckpoint, OSError: on every rank; what it goes back to cannot be read, or not written.
    """
    left = run.state
    first = left.step - left.spiking_steps + 1
    folder = _checkpoint_before(run, first, tell)

    def look() -> RunState:
        return build.load_state(run.config, run.schedule, corpus, folder)

    state: RunState = run.mesh.broadcast_object(
        run.mesh.together(lambda: look() if run.mesh.is_main else left)
    )
    stepped_over = {
        "rollback": left.rollbacks + 1,
        "from_step": state.step,
        "first_spiking_step": first,
        "to_step": left.step,
        "tokens": left.tokens_seen - state.tokens_seen,
        "from_cursor": state.cursor,
        "to_cursor": left.cursor,
    }
    state.cursor = left.cursor
    state.rollbacks = left.rollbacks + 1
    state.abandoned_steps = left.abandoned_steps + left.step - state.step
    run.state = state
    build.rebuild(run, corpus, folder)
    run.mesh.together(lambda: _note(run.folder, stepped_over) if run.mesh.is_main else None)
    run.checkpoints.forget_after(state.step)
    run.checkpoints.restate(state)
    run.mesh.together(lambda: _rewind_logs(run))
    tell(
        f"steps {first} to {left.step} spiked: back at step {state.step} with {stepped_over['tokens']:,} "
        f"tokens of data stepped over, rollback {state.rollbacks} of "
        f"{run.config.train.spikes.max_rollbacks}"
    )


def _checkpoint_before(run: Run, first: int, tell: Tell) -> Path:
    """The newest sound checkpoint from before step `first`, the first that spiked."""
    spiked = f"steps {first} to {run.state.step} spiked"
    most = run.config.train.spikes.max_rollbacks
    if run.state.rollbacks >= most:
        raise LossSpike(
            f"{spiked} and train.spikes.max_rollbacks={most} are used up; lower the learning rate, look at "
            f"what {run.folder}/spike_step_*.json name, or allow more"
        )
    own = run.folder / "checkpoints"

    def find() -> Path:
        found = checkpoint_folder.find_before(own, first)
        if found is None:
            raise ValueError(
                f"{spiked} and {own} has no checkpoint from before; raise checkpoint.keep, or lower "
                "checkpoint.every_steps"
            )
        return found

    run.checkpoints.wait()
    try:
        folder = sound_checkpoint(find, own, run.mesh, tell)
    except ValueError as error:
        raise LossSpike(str(error)) from None
    assert folder is not None, "`find` raises where there is none"
    return folder


def _note(folder: Path, stepped_over: dict[str, Any]) -> None:
    """One line a rollback; one that a kill interrupted is written again."""
    path = folder / "stepped_over.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    lines = [*lines[: stepped_over["rollback"] - 1], json.dumps(stepped_over)]
    write_durably(path, "".join(f"{line}\n" for line in lines))


def _rewind_logs(run: Run) -> None:
    if run.log is not None:
        run.log.rewind(run.state.step)
    if run.wandb is not None:
        run.wandb.abandoned_steps = run.state.abandoned_steps
