"""The JSON of a checkpoint: the state of its run, its required files, and comparison with a configuration.

This module reads `state.json` and `index.json` but no tensors, so `--check` can check a checkpoint.
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.files import BrokenSeal, unseal
from model.config import ModelConfig
from parallel.checkpoint.index import DamagedCheckpoint, Index, checked_index
from train.checkpointing.model_differences import model_differences
from train.configuration.renamed_keys import renamed_model

FORMAT = 2
STATE = "state.json"
INDEX = "index.json"
# Errors of reading that mean a damaged checkpoint; others may be a fault of this host.
_DAMAGE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO}


@dataclass
class RunState:
    """The state of a run. Everything else is a pure function of this and the configuration."""

    step: int = 0
    tokens_seen: int = 0
    stage: str = ""
    # optimizer.name, and the steps it has applied; 0 steps: the checkpoint has weights only, for any optimizer.
    optimizer: str = "adamw"
    optimizer_steps: int = 0
    # Parameters to which it has applied another number of steps, by name; 0: frozen, the checkpoint has no states.
    other_optimizer_steps: dict[str, int] = field(default_factory=dict)
    skipped_steps: int = 0
    # Base of the rotary layers by kind, as of the last step: {"window": ..., "full": ...}; see `bases_by_kind`.
    rope_base: dict[str, float] = field(default_factory=dict)
    # How documents of a row were kept apart in the last step: the fields of `DocumentRules`. Empty: not known.
    document_rules: dict[str, Any] = field(default_factory=dict)
    # Longest sequence length trained on so far in tokens, under PoSE that of positions; includes that of an imported
    # model.
    context_length: int = 0
    # Sequence lengths trained at up to that of the last step, ascending, see `Point.lengths`: methods of positions that
    # need a length used the last one. Empty: unknown.
    lengths: list[int] = field(default_factory=list)
    # The packer's place in the data: see data/packing/planner.py. Empty at the start.
    cursor: dict[str, Any] = field(default_factory=dict)
    # The model with the settings of its kinds of layers as of the last step: windows, rotations, scales.
    model: dict[str, Any] = field(default_factory=dict)
    # Sources with their checksums, in order, and the seed, on which the cursor depends.
    data: dict[str, Any] = field(default_factory=dict)
    # Losses of the last steps of this stage without spikes, for the limit of the next step; and the number of steps in
    # a row that spiked, up to here. Empty and 0 with train.spikes.action=ignore.
    recent_losses: list[float] = field(default_factory=list)
    spiking_steps: int = 0
    # Number of rollbacks because of spikes, and of the steps that they gave up.
    rollbacks: int = 0
    abandoned_steps: int = 0
    # Tasks of evaluation that were due at this step and had not run when this was saved; see train/evaluating.py.
    due_evaluations: list[str] = field(default_factory=list)
    # Tokenizer of the tokens seen: SHA-256, vocabulary, end and BOS token; for an imported model, its own.
    tokenizer: dict[str, Any] = field(default_factory=dict)
    # config.json, generation_config.json and dtypes of an imported model, for its export.
    origin: dict[str, Any] = field(default_factory=dict)
    # For information only; a checkpoint loads under any layout.
    layout: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def read_state(folder: Path) -> RunState:
    """Reads state.json of a checkpoint.

    Raises:
        DamagedCheckpoint: the file is missing or damaged.
        ValueError: the file has another format.
    """
    content = _unsealed(folder, STATE)
    if "adam_steps" in content:  # key of earlier versions
        content["optimizer_steps"] = content.pop("adam_steps")
    try:
        state = RunState(**content)
    except TypeError as error:
        raise ValueError(f"checkpoint {folder}: {STATE} is of another version ({error})") from error
    for name, value in vars(RunState()).items():
        if type(getattr(state, name)) is not type(value):
            raise ValueError(
                f"checkpoint {folder}: {STATE}: {name} must be a {type(value).__name__}"
            )
    state.model = renamed_model(state.model)
    return state


def read_index(folder: Path) -> Index:
    """Reads index.json: the files and tensors that a checkpoint must have.

    Raises:
        DamagedCheckpoint: the index is missing or damaged.
        ValueError: the index has another format, or names files outside the folder.
    """
    try:
        return checked_index(_unsealed(folder, INDEX))
    except DamagedCheckpoint:
        raise
    except ValueError as error:
        raise ValueError(f"checkpoint {folder}: {INDEX}: {error}") from error


def _unsealed(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        raw = path.read_bytes()
    except OSError as error:
        kind = DamagedCheckpoint if error.errno in _DAMAGE else ValueError
        raise kind(f"checkpoint {folder}: {name} is not readable ({error.strerror})") from error
    try:
        content = unseal(raw)
    except BrokenSeal as error:
        if raw.startswith(b'{\n "format": 1,'):
            content = {"format": 1}
        else:
            raise DamagedCheckpoint(f"checkpoint {folder}: {name} is damaged: {error}") from error
    found = content.pop("format", None)
    if found != FORMAT:
        raise ValueError(
            f"checkpoint {folder}: written in format {found}, this version reads format {FORMAT}; go on "
            "with the version that wrote it, or start a new run (another run_name)"
        )
    return content


def differences(
    state: RunState,
    model: ModelConfig,
    *,
    optimizer: str,
    rope_base: dict[str, float],
    data: dict[str, Any],
    tokenizer: dict[str, Any],
    allowed: Sequence[str],
) -> list[str]:
    """Returns why a run with this configuration cannot resume from `state`, one line each; empty if it can."""
    found = model_differences(state.model, model, allowed)
    if state.optimizer_steps > 0 and state.optimizer != optimizer:
        found.append(
            f"optimizer.name={optimizer}: the checkpoint has the states of {state.optimizer}; use that, or start "
            "a new run (another run_name)"
        )
    # Kinds that rotate on one side only differ in their position too, which is reported there.
    shared = state.rope_base.keys() & rope_base.keys()
    if "rope_base" not in allowed and any(state.rope_base[k] != rope_base[k] for k in shared):
        found.append(
            f"rope_base: this schedule has {rope_base} where the checkpoint stands, it was trained with "
            f"{state.rope_base}; restore the schedule, or set checkpoint.allow_changes=[rope_base]"
        )
    if "data" not in allowed and state.data and state.data != data:
        keys = [key for key in data if state.data.get(key) != data[key]]
        found.append(
            f"data: {', '.join(keys)} differ from the checkpoint's, so its place in the data means "
            "nothing here; restore them, or set checkpoint.allow_changes=[data] to begin the data anew"
        )
    if "tokenizer" not in allowed:
        found += _other_tokenizer(state.tokenizer, tokenizer)
    return found


def _other_tokenizer(learned: dict[str, Any], corpus: dict[str, Any]) -> list[str]:
    """Returns how a corpus's tokenizer differs from the one in the checkpoint; unknown facts are not compared."""
    found = []
    forms = [learned.get("sha256"), *learned.get("alike", [])]
    if learned.get("sha256") and corpus["sha256"] and corpus["sha256"] not in forms:
        found.append(
            f"data: made with another tokenizer ({corpus['sha256'][:12]}) than the model was trained with "
            f"({forms[0][:12]}); prepare the corpus with that one (an imported checkpoint has it in huggingface/), or "
            "set checkpoint.allow_changes=[tokenizer]"
        )
    elif learned.get("bos_id", corpus["bos_id"]) != corpus["bos_id"]:
        learned_bos, bos = (
            "no BOS token" if facts["bos_id"] is None else f"the BOS token {facts['bos_id']}"
            for facts in (learned, corpus)
        )
        found.append(
            f"data: its documents begin with {bos}, those that the model was trained with begin with {learned_bos}; "
            "prepare the corpus anew (--bos; without token files: data.bos_id), or set "
            "checkpoint.allow_changes=[tokenizer]"
        )
    elif corpus.get("generated") and learned.get("eos_id", corpus["eos_id"]) != corpus["eos_id"]:
        found.append(
            f"data.end_id={corpus['eos_id']}: the model was trained with the end token {learned['eos_id']}; give "
            "that, or set checkpoint.allow_changes=[tokenizer]"
        )
    return found
