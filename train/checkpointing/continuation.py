"""Chooses the checkpoint to resume from, and compares configuration and corpus with its records.

Reads no tensors and no tokens, so `--check` makes the same comparison as the run.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.tokens.declared import Declared
from model.layer_pattern import layer_kinds
from train.checkpointing import folder as checkpoint_folder
from train.checkpointing.locate import locate
from train.checkpointing.state import RunState, differences
from train.configuration.schema import RunConfig, run_folder
from train.schedule.rope_base import bases_by_kind
from train.schedule.stages import Point, Schedule


def find_resume(config: RunConfig) -> Path | None:
    """Returns the checkpoint to resume from, if any: the run's own newest, else the one that is named.

    Raises:
        ValueError: `checkpoint.resume` is never, or an older checkpoint of the same run, and the run's folder
            holds results that would be overwritten; or all of the run's checkpoints are gone; or the named
            path is no checkpoint.
    """
    folder, wanted = run_folder(config), config.checkpoint.resume
    own = checkpoint_folder.latest(folder / "checkpoints")
    if own is None and checkpoint_folder.had_any(folder / "checkpoints"):
        raise ValueError(
            f"{folder}/checkpoints: no complete checkpoint is left there; put one back, start a new run "
            "from another with run_name=NAME checkpoint.resume=DIR, or remove that folder to start anew"
        )
    if wanted == "never" and (folder / "metrics.jsonl").exists():
        raise ValueError(
            f"checkpoint.resume=never: {folder} holds a run already; choose another run_name, go on "
            "with checkpoint.resume=auto, or remove the folder"
        )
    if wanted in ("auto", "never"):
        return own
    if own is None:
        try:
            return locate(Path(wanted))
        except ValueError as error:
            raise ValueError(f"checkpoint.resume={error}, or auto or never") from None
    newest = {path.resolve() for path in (own, own.parent, own.parent / checkpoint_folder.LATEST)}
    named = Path(wanted).resolve()
    if folder.resolve() in named.parents and named not in newest:
        raise ValueError(
            f"checkpoint.resume={wanted}: {config.run_name} has gone on to {own.name}; choose another "
            "run_name to branch off, or checkpoint.resume=auto to go on"
        )
    return own


def obstacles(
    config: RunConfig, schedule: Schedule, state: RunState, sources: Sequence[Declared]
) -> list[str]:
    """Returns why this run cannot resume from `state`, one line each.

    sources: the training files in order; empty: they do not exist yet, and are not compared.
    """
    point, allowed = last_point(schedule, state), config.checkpoint.allow_changes
    found = differences(
        state,
        point.model,
        optimizer=config.optimizer.name,
        rope_base=bases_by_kind(point.model, point.rope_base),
        data=data_identity(config, sources) if sources else state.data,
        tokenizer=tokenizer_identity(sources) if sources else _unknown_tokenizer(state),
        allowed=allowed,
    )
    return found + _other_lengths(state, point, allowed) + _other_rules(state, point, allowed)


def _other_rules(state: RunState, point: Point, allowed: Sequence[str]) -> list[str]:
    """Returns how the schedule keeps documents apart otherwise than at the last step before `state`."""
    rules = asdict(point.stage.shape.rules)
    if "document_rules" in allowed or state.document_rules in ({}, rules):
        return []
    return [
        f"schedule.stages.{point.stage.name}.{name}={_said(here)}: the checkpoint was trained with "
        f"{_said(state.document_rules.get(name))}; restore the schedule, or set "
        "checkpoint.allow_changes=[document_rules]"
        for name, here in rules.items()
        if state.document_rules.get(name) != here
    ]


def _said(value: Any) -> str:
    """Returns a setting as YAML has it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {inner}" for name, inner in value.items()) + "}"
    return json.dumps(value)


def _other_lengths(state: RunState, point: Point, allowed: Sequence[str]) -> list[str]:
    """Returns how the lengths that methods of positions read differ from those up to the last step before `state`."""
    lengths = list(point.lengths)
    if "sequence_length" in allowed or state.lengths in ([], lengths) or not _reads_length(point):
        return []
    return [
        f"sequence_length: this schedule has {_listed(lengths)} up to where the checkpoint stands, and its methods of "
        f"positions read {_listed(state.lengths)} in training; restore the schedule, or set "
        "checkpoint.allow_changes=[sequence_length]"
    ]


def _reads_length(point: Point) -> bool:
    """Whether a rotation or a scale of the model depends on the lengths trained at."""
    return any(
        (spec.rope is not None and (spec.rope.reads_length or spec.rope.fourier is not None))
        or (spec.position_scale is not None and spec.position_scale.reads_length)
        for spec in layer_kinds(point.model).values()
    )


def _listed(lengths: Sequence[int]) -> str:
    return ", ".join(map(str, lengths))


def last_point(schedule: Schedule, state: RunState) -> Point:
    """Returns what the schedule decides about the last step before `state`; about the first step if there is none."""
    stage = schedule.stage_at(max(0, state.tokens_seen - 1))
    last = state.tokens_seen - stage.shape.batch_tokens
    return schedule.at(max(stage.start, last))


def data_identity(config: RunConfig, sources: Sequence[Declared]) -> dict[str, Any]:
    """Returns the facts on which the meaning of a cursor depends: sources with their identities, and the seed."""
    return {
        # In order: the cursor names sources by number.
        "sources": [[source.name, source.identity] for source in sources],
        "seed": config.data.seed,
    }


def tokenizer_identity(sources: Sequence[Declared]) -> dict[str, Any]:
    """Returns the facts of the corpus's tokenizer; an empty SHA-256 if its manifest has none.

    generated: stands there if there are no files that could have a tokenizer.
    """
    source = sources[0]
    generated = all(one.is_generated and not one.tokenizer_sha256 for one in sources)
    return {
        **({"generated": True} if generated else {}),
        "sha256": source.tokenizer_sha256,
        "vocab_size": source.vocab_size,
        "eos_id": source.eos_id,
        "bos_id": source.bos_id,
    }


def _unknown_tokenizer(state: RunState) -> dict[str, Any]:
    """Stands for the tokenizer of a corpus that does not exist yet: equal to the one in `state`."""
    return {"sha256": "", "bos_id": state.tokenizer.get("bos_id")}
