"""The JSON of a checkpoint: the state of its run, its required files, and comparison with a configuration.

This module reads `state.json` and `index.json` but no tensors, so `--check` can check a checkpoint.
"""

import errno
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data.files import BrokenSeal, unseal
from model.config import ModelConfig
from model.layer_pattern import KindConfig, uses_model_chunk, uses_model_window
from model.position.methods import default_fields
from model.position.scales.methods import SCALES
from parallel.checkpoint.index import DamagedCheckpoint, Index, checked_index
from train.configuration.renamed_keys import renamed_model

FORMAT = 2
STATE = "state.json"
INDEX = "index.json"
# Errors of reading that mean a damaged checkpoint; others may be a fault of this host.
_DAMAGE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO}
# Fields that do not affect the trained model: a run may resume with other values.
_NOT_THE_MODEL = {"attention_backend", "init_std"}
# Scales with a parameter: a checkpoint of another scale does not have it.
_LEARNED = {name for name, scale in SCALES.items() if scale.learned}


@dataclass
class RunState:
    """The state of a run. Everything else is a pure function of this and the configuration."""

    step: int = 0
    tokens_seen: int = 0
    stage: str = ""
    # optimizer.name, and the steps it has applied; 0 steps: the checkpoint has weights only, for any optimizer.
    optimizer: str = "adamw"
    optimizer_steps: int = 0
    skipped_steps: int = 0
    # Base of the rotary layers by kind, as of the last step: {"window": ..., "full": ...}; see `bases_by_kind`.
    rope_base: dict[str, float] = field(default_factory=dict)
    # How documents of a row were kept apart in the last step: the fields of `DocumentRules`. Empty: not known.
    document_rules: dict[str, Any] = field(default_factory=dict)
    # Longest sequence length trained on so far in tokens, under PoSE that of positions; includes that of an imported
    # model.
    context_length: int = 0
    # The packer's place in the data: see data/packing/planner.py. Empty at the start.
    cursor: dict[str, Any] = field(default_factory=dict)
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
    found = []
    trained, wanted = _comparable(state.model, asdict(model))
    for name in wanted:
        if name == "window" and not uses_model_window(model):
            continue
        if name == "chunk" and not uses_model_chunk(model):
            continue
        change = _change_of(name, trained[name], wanted[name])
        if trained[name] == wanted[name] or change in allowed:
            continue
        way_out = f", or set checkpoint.allow_changes=[{change}]" if change else ""
        found.append(
            f"model.{name}={_said(wanted[name])}: the checkpoint's model has {_said(trained[name])}; "
            f"use that, or start a new run (another run_name){way_out}"
        )
    if state.optimizer_steps > 0 and state.optimizer != optimizer:
        found.append(
            f"optimizer.name={optimizer}: the checkpoint has the states of {state.optimizer}; use that, or start "
            "a new run (another run_name)"
        )
    if "rope_base" not in allowed and state.rope_base != rope_base:
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


def _change_of(name: str, trained: Any, wanted: Any) -> str:
    """Returns the value of `checkpoint.allow_changes` that allows another value of a field; empty if none does."""
    if ".rope." in name:
        return "rope_scaling"
    if name.endswith(".position_scale") and not _LEARNED & {trained["scale"], wanted["scale"]}:
        return "position_scale"
    return ""


def _said(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return "{" + ", ".join(f"{name}: {inner}" for name, inner in value.items()) + "}"


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
            "prepare the corpus anew (--bos), or set checkpoint.allow_changes=[tokenizer]"
        )
    return found


def _comparable(*models: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the fields of each model, flat and under the same keys, such as `kinds.NAME.window`.

    Fields that an older version did not have, or that one model does not set, have their defaults.
    """
    default = asdict(ModelConfig())
    named = sorted({name for model in models for name in model.get("kinds", {})})
    found = []
    for model in models:
        parts = default | model
        kinds = parts.pop("kinds")
        flat = {name: parts[name] for name in sorted(parts.keys() - _NOT_THE_MODEL)}
        for name in named:
            settings = asdict(KindConfig()) | kinds.get(name, {})
            rope = default_fields() | settings.pop("rope")
            settings["position_scale"].pop("initial", None)
            flat |= {f"kinds.{name}.{key}": value for key, value in settings.items()}
            flat |= {f"kinds.{name}.rope.{key}": value for key, value in rope.items()}
        found.append(flat)
    return found
