"""Records a step with a non-finite value or a loss spike: the micro-batches, ranks and documents involved.

A micro-batch is one stream of a data rank. The ranks of the last pipeline stage compute its loss: each sequence rank
a part of it, all tensor ranks the same.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.files import reason, write_durably
from data.loader import GlobalBatch
from parallel.mesh import Mesh
from train.checkpointing.state import RunState
from train.configuration.schema import TrainConfig
from train.step import StepResult


class NonFiniteStep(ValueError):
    """Loss or gradient was not finite in more steps than the configuration allows."""


class LossSpike(ValueError):
    """The loss spiked, and the configuration requires a stop or allows no more skipped steps or rollbacks."""


def is_spike(result: StepResult, limit: float) -> bool:
    """Whether a step's loss was finite and above the limit."""
    return limit < result.loss < math.inf


def note(
    mesh: Mesh,
    folder: Path,
    batch: GlobalBatch,
    result: StepResult,
    *,
    limit: float,
    state: RunState,
    config: TrainConfig,
) -> str:
    """Records the step after `state` in a file, and counts it if it was skipped. Collective.

    Returns a line for the console.

    Raises:
        NonFiniteStep, LossSpike: more steps were skipped than allowed.
    """
    step, spiked = state.step + 1, is_spike(result, limit)
    sources = [name for name, _ in state.data["sources"]]
    seen = bad_step_record(mesh, batch, result, step=step, limit=limit, sources=sources)
    path = folder / _file_name(step, spiked=spiked, rollbacks=state.rollbacks)
    found = mesh.broadcast_object(_write(path, seen) if mesh.is_main else "")
    what = f"loss {result.loss}, gradient norm {result.gradient_norm}: not finite"
    if spiked:
        what = f"loss {result.loss:.4f} is above {limit:.4f}, the limit of train.spikes"
    what = f"step {step}: {what}"
    if result.applied:
        return f"warning: {what}; {found}"
    state.skipped_steps += 1
    untouched = f"{what}; the weights were not touched; {found}"
    if spiked and config.spikes.action == "stop":
        raise LossSpike(
            f"{untouched}; go on with train.spikes.action=skip or rollback, or a higher threshold"
        )
    if state.skipped_steps > config.max_skipped_steps:
        kind = LossSpike if spiked else NonFiniteStep
        raise kind(
            f"{untouched}; skip up to N such steps with train.max_skipped_steps=N, or lower the "
            "learning rate"
        )
    return f"warning: {untouched}"


def _write(path: Path, seen: dict[str, Any]) -> str:
    """Writes the record and returns a sentence with its path; an OSError (full disk) does not end the run."""
    try:
        write_durably(path, json.dumps(seen, indent=1))
    except OSError as error:
        return f"{path}, which would name ranks and documents, cannot be written: {reason(error)}"
    return f"{path} names ranks and documents"


@dataclass(frozen=True)
class Held:
    """One rank's part of the record.

    losses: its sum for each micro-batch, empty outside the last pipeline stage. counts: whether these sums are
    counted (one of the tensor ranks). streams: contents of the micro-batches, from one of the ranks that share them.
    """

    rank: int
    data_rank: int
    losses: list[float]
    counts: bool
    streams: list[dict[str, Any]]


def bad_step_record(
    mesh: Mesh,
    batch: GlobalBatch,
    result: StepResult,
    *,
    step: int,
    limit: float,
    sources: Sequence[str],
) -> dict[str, Any]:
    """Returns the whole record as JSON. Collective. sources: names, in the order of `span.source`."""
    says = mesh.model.rank == 0 and mesh.sequence.rank == 0
    mine = Held(
        rank=mesh.rank,
        data_rank=mesh.dp_rank,
        losses=[float(total) for total in result.totals],
        counts=mesh.tensor.rank == 0,
        streams=_streams(batch, sources) if says else [],
    )
    offending, others = sort_out(mesh.gather_objects(mine), limit)
    return {
        "step": step,
        "loss": repr(result.loss),
        "limit": repr(limit),
        "gradient_norm": repr(result.gradient_norm),
        "valid_tokens": batch.valid_tokens,
        "offending": offending,
        "others": others,
    }


def sort_out(
    ranks: Sequence[Held], limit: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the offending micro-batches, and the others.

    Offending are those with a non-finite loss; if there are none, those with a loss per valid token above `limit`;
    if there are none either (only the gradient was not finite), all.
    """
    found = [_entry(ranks, held, number) for held in ranks for number in range(len(held.streams))]
    not_finite = [e for e in found if not all(math.isfinite(float(s)) for s in e["ranks"].values())]
    above = [e for e in found if float(e["loss"]) > limit]
    offending = not_finite or above or found
    named = {(e["data_rank"], e["micro_batch"]) for e in offending}
    return offending, [e for e in found if (e["data_rank"], e["micro_batch"]) not in named]


def _entry(ranks: Sequence[Held], said_by: Held, number: int) -> dict[str, Any]:
    stream = said_by.streams[number]
    made = [held for held in ranks if held.data_rank == said_by.data_rank and held.losses]
    total = sum(held.losses[number] for held in made if held.counts)
    return {
        "data_rank": said_by.data_rank,
        "micro_batch": number,
        "loss": repr(total / max(1, stream["valid_tokens"])),
        "ranks": {str(held.rank): repr(held.losses[number]) for held in made},
        **stream,
    }


def _streams(batch: GlobalBatch, sources: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "valid_tokens": packed.valid_tokens,
            "documents": [asdict(span) | {"source": sources[span.source]} for span in packed.spans],
        }
        for packed in batch.micro_batches
    ]


def _file_name(step: int, *, spiked: bool, rollbacks: int) -> str:
    """Returns the name of the record. After a rollback the same step number comes again, with other data."""
    again = f"_rollback_{rollbacks}" if rollbacks else ""
    return f"{'spike' if spiked else 'nonfinite'}_step_{step:08d}{again}.json"
