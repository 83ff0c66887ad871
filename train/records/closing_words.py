"""The text printed at the end of a run: its results, the path of the report, commands to try next."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.huggingface.takers import refusal
from train.checkpointing.folder import latest
from train.checkpointing.state import RunState
from train.configuration.schema import RunConfig, run_folder
from train.configuration.typed_model import typed_model
from train.records.console import number
from train.records.evaluation_rows import HELD_OUT, read_evaluations, rows_of_task
from train.schedule.rope_base import scheduled_base


def closing_words(config: RunConfig, state: RunState, *, finished: bool) -> str:
    """Returns a short summary for the main rank's stdout. finished: False if a signal stopped the run early."""
    folder = run_folder(config)
    if not finished:
        lines = [
            "",
            f"{folder}: asked to stop; saved at step {state.step:,}, {state.tokens_seen:,} tokens (status 75).",
            "The same command goes on from there.",
        ]
        return "\n".join([*lines, *_wandb(folder, config), ""])
    lines = ["", f"{folder} is complete: {state.step:,} steps, {state.tokens_seen:,} tokens."]
    scheduled = sum(
        stage.num_steps * stage.batch_tokens for stage in config.schedule.stages.values()
    )
    if state.tokens_seen < scheduled:  # then train.max_steps has ended it
        lines.append(
            f"train.max_steps={config.train.max_steps} is reached, of {scheduled:,} tokens that the schedule has; with "
            "a larger one the same command goes on."
        )
    last = next(
        reversed(rows_of_task(read_evaluations(folder / "evaluation.jsonl"), HELD_OUT)), None
    )
    if last:
        lines += _held_out(last)
    lines += [f"Pipeline, one step drawn: {path}" for path in sorted(folder.glob("pipeline_*.svg"))]
    lines += [f"Report: {folder}/report.html", *_wandb(folder, config)]
    imported = bool(state.origin) or config.checkpoint.resume not in ("auto", "never")
    steps = _next_steps(folder, config, state, imported=imported)
    return "\n".join([*lines, *(["", "Next", *steps] if steps else []), ""])


def words_after_failure(config: RunConfig) -> str:
    """Returns what a failed run left, and how to resume it; for the main rank's stderr."""
    folder = run_folder(config)
    checkpoint = latest(folder / "checkpoints")
    goes_on = f"goes on from {checkpoint}" if checkpoint else "starts it anew: it has no checkpoint"
    lines = [f"{folder}: ended with status 1; log.txt there says more."]
    lines.append(f"Once the cause is mended, the same command {goes_on}.")
    return "\n".join([*lines, *_wandb(folder, config), ""])


def _wandb(folder: Path, config: RunConfig) -> list[str]:
    """Returns the folders of W&B and the command that syncs them; nothing unless W&B is offline."""
    if config.logging.wandb.mode != "offline" or not list((folder / "wandb").glob("offline-run-*")):
        return []
    runs = f"{shlex.quote(str(folder / 'wandb'))}/offline-run-*"
    return [f"W&B: {folder / 'wandb'}, offline; to sync it: wandb sync {runs}"]


def _next_steps(folder: Path, config: RunConfig, state: RunState, *, imported: bool) -> list[str]:
    """Returns commands to try next, for the data, model and schedule of this run."""
    steps = []
    # A run that began at another checkpoint keeps its layers: recipe=full_rope would be refused.
    if not imported and any(kind != "full_rope" for kind in config.model.layer_pattern):
        change = f"run_name={config.run_name}_full_rope recipe=full_rope"
        steps.append(f"  a baseline, full attention in every layer: the same command with {change}")
    # The model as of the last step; a state without one is of a run that has made no step.
    model = typed_model(state.model) if state.model else config.model
    if not refusal(model, scheduled_base(model, state.rope_base)):
        exported = folder / "exported"
        command = f"ropewalk export --checkpoint {shlex.quote(str(folder))} --output {shlex.quote(str(exported))}"
        steps.append(f"  a model for Hugging Face transformers: {command}")
    return steps


def _held_out(row: Mapping[str, Any]) -> list[str]:
    early, late = row["first_quarter_loss"], row["last_quarter_loss"]
    return [
        f"Held-out loss {number(row['loss'])} nats (bigram {number(row['bigram_loss'])}, unigram "
        f"{number(row['unigram_loss'])}) at length {row['sequence_length']:,};",
        f"first quarter of positions {number(early)}, last quarter {number(late)} (bigram "
        f"{number(row.get('first_quarter_bigram_loss'))} and "
        f"{number(row.get('last_quarter_bigram_loss'))}).",
    ]
