"""Returns a run to a checkpoint from before loss spikes, and skips the data of the steps since then.

    steps   10 (checkpoint)  11  12  13  [14  15  16: spikes]      the run goes on from 10
    data    |------------------ stepped over ----------------|     and from where 16 left the data

Weights, moments, step and tokens seen return to those of the checkpoint; the cursor in the data stays. So the tokens
that contribute to the weights are seen as often as in a run without spikes, and the skipped tokens are not used.

A kill at any moment leads to the same result. The checkpoint's state is replaced by renaming one file; until then a
restart finds the old state, or a later checkpoint of the abandoned steps, and repeats the same steps and the same
rollback.
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
from train.run import Run

Tell = Callable[[str], None]


def roll_back(run: Run, corpus: Corpus, tell: Tell) -> None:
    """Returns the run to before its spikes; its next batches come from `build.build_loader`. Collective.

    Raises:
        LossSpike: on every rank, why no rollback is possible.
        DamagedCheckpoint, OSError: on every rank: the checkpoint cannot be read, or not rewritten.
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
    """Returns the newest undamaged checkpoint from before step `first`, the first that spiked."""
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
    """Writes one line per rollback; an interrupted rollback overwrites its line."""
    path = folder / "stepped_over.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    lines = [*lines[: stepped_over["rollback"] - 1], json.dumps(stepped_over)]
    write_durably(path, "".join(f"{line}\n" for line in lines))


def _rewind_logs(run: Run) -> None:
    if run.log is not None:
        run.log.rewind(run.state.step)
    if run.wandb is not None:
        run.wandb.abandoned_steps = run.state.abandoned_steps
