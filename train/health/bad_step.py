"""The record of a step that was not finite or spiked: which micro-batches did it, on which ranks, with what text.

A micro-batch is one stream of a data rank. Its loss is made by the ranks of the last pipeline stage: a part of it
on each sequence rank, the same on each tensor rank.
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
    """Loss or gradient was not finite more often than the configuration allows."""


class LossSpike(ValueError):
    """The loss spiked, and the configuration says to stop, or does not allow to go on once more."""


def is_spike(result: StepResult, limit: float) -> bool:
    """Whether a step's loss was above the limit, and a number."""
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
    """Write down what the step after `state` had in hand, and count it if it was skipped. Collective.

    Returns a line for the console.

    Raises:
        NonFiniteStep, LossSpike: it was one too many.
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
    """Where the record is, in words; a full disk is no reason to end the run here."""
    try:
        write_durably(path, json.dumps(seen, indent=1))
    except OSError as error:
        return f"{path}, which would name ranks and documents, cannot be written: {reason(error)}"
    return f"{path} names ranks and documents"


@dataclass(frozen=True)
class Held:
    """What one rank knows of its micro-batches.

    losses: the sums it made, empty outside the last pipeline stage. counts: whether they are counted (once
    over tensor ranks). streams: what the micro-batches hold, said by one rank of those that share them.
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
    """The whole record, as JSON. Collective. sources: names, in the order spans count them."""
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
    """The micro-batches that did it, and the others.

    They are those whose loss is not finite; where all are, those whose loss per valid token is above `limit`;
    where none is (the gradient alone was not finite), all.
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
    """Of the record. After a rollback the same step comes again, with other data."""
    again = f"_rollback_{rollbacks}" if rollbacks else ""
    return f"{'spike' if spiked else 'nonfinite'}_step_{step:08d}{again}.json"
