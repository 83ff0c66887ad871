"""Exports a checkpoint of any layout as the folder of a Hugging Face model.

    python -m train.export_huggingface --checkpoint DIR --output DIR [--family NAME] [--dtype NAME] [--tokenizer PATH]

    state.json                                   -> config.json, generation_config.json, README.md
    rank_NNNNN.safetensors, tensor by tensor     -> model.safetensors, or shards and their index
    tokenizer                                    -> tokenizer.json, tokenizer_config.json

A checkpoint holds whole parameters by name, so the layout that wrote it does not matter, and only the tensor being
converted is in memory. Every byte of the checkpoint is verified first.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.command_line import Parser
from data.files import write_durably
from data.printable import one_line
from model.config import ModelConfig
from model.huggingface.family import Family
from model.huggingface.readers import limits_of
from model.huggingface.refusal import CannotExpress
from model.huggingface.rope_export import obstacle_before_5
from parallel.checkpoint.index import Index
from parallel.checkpoint.tensor_files import map_tensors
from parallel.checkpoint.tensors import verify_alone
from train.checkpointing.locate import locate
from train.checkpointing.state import read_index, read_state
from train.configuration.typed_model import typed_model
from train.huggingface.config import (
    changed_keys,
    choose_family,
    write_config,
    write_generation_config,
)
from train.huggingface.conversion import converted, target_entries, to_theirs
from train.huggingface.folder import SHARD_BYTES, make_folder, refuse_output, write_model
from train.huggingface.folding import folding_read
from train.huggingface.import_model import parameter_shapes
from train.huggingface.model_card import model_card
from train.huggingface.tokenizer import find_tokenizer
from train.schedule.rope_base import scheduled_base

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export.

    family: a model_type; empty: that of the import, or the first that fits. dtype: of the weights; empty: that of
    the import, or float32. tokenizer: a SentencePiece model, a tokenizer.json, a folder with one, or "none"; empty:
    that of the run. context_length: max_position_embeddings in tokens; 0: the longest sequence length trained on.
    shard_bytes: largest size of a weight file.
    """

    family: str = ""
    dtype: str = ""
    tokenizer: str = ""
    context_length: int = 0
    shard_bytes: int = SHARD_BYTES

    def problems(self) -> list[str]:
        """Returns what is wrong with single options."""
        found = []
        if self.dtype and self.dtype not in DTYPES:
            found.append(f"dtype={self.dtype}: must be one of {', '.join(DTYPES)}")
        if not 0 <= self.context_length < 2**31:
            found.append(
                f"context-length={self.context_length}: must be from 1 to {2**31 - 1}, or 0 for the longest trained on"
            )
        if self.shard_bytes < 1:
            found.append(f"shard-bytes={self.shard_bytes}: must be at least 1")
        return found


def export_model(checkpoint: Path, output: Path, options: ExportOptions) -> tuple[str, list[str]]:
    """Converts `checkpoint` into the folder `output`; returns the name of the architecture, and notes for the user.

    checkpoint: any path that `train/checkpointing/locate.py` accepts.

    Raises:
        ValueError: why the export is not possible, one line per reason.
        OSError: a file cannot be read or written.
    """
    dtype = options.dtype
    if wrong := options.problems():
        raise ValueError("\n".join(wrong))
    refuse_output(output)
    try:
        checkpoint = locate(checkpoint)
    except ValueError as error:
        raise ValueError(f"checkpoint={error}") from None
    state, index = read_state(checkpoint), read_index(checkpoint)
    state.context_length = options.context_length or state.context_length
    if state.context_length < 1:
        raise ValueError(
            f"checkpoint {checkpoint}: does not say how long its sequences were; give --context-length N"
        )
    trained = typed_model(state.model)
    model = trained.without_static_gates()
    base = scheduled_base(model, state.rope_base)
    chosen = choose_family(model, base, state, options.family)
    others = limits_of(chosen.write(model, base, state.context_length))
    source = find_tokenizer(options.tokenizer, checkpoint, state, model.vocab_size)
    dtypes = {"": dtype} if dtype else state.origin.get("dtypes", {"": "float32"})
    config = write_config(chosen, model, state, dtype=dtypes[""], end_token=source.end_token)

    def fill(folder: Path) -> None:
        # Here, because the folder is made: reading a large checkpoint takes minutes.
        verify_alone(checkpoint, index)
        _write_weights(folder, checkpoint, index, chosen, trained, dtypes, options.shard_bytes)
        source.write(folder, state.context_length)
        write_durably(folder / "config.json", _text(config))
        write_durably(
            folder / "generation_config.json", _text(write_generation_config(config, state))
        )
        card = model_card(checkpoint, state, model, chosen.architecture, others, name=output.name)
        write_durably(folder / "README.md", card)

    make_folder(output, fill)
    notes = changed_keys(config, state)
    if (counted := config["max_position_embeddings"]) != state.context_length:
        notes.append(
            f"config.json: max_position_embeddings is {counted}, not {state.context_length}: transformers counts "
            "dynamic scaling from it, by the length of the input"
        )
    if model != trained:
        notes.append("the static gates are folded into o_proj; the model in this folder has none")
    missing = f"it has no {chosen.model_type}" if chosen.new_in_5 else ""
    if obstacle := missing or obstacle_before_5(config):
        notes.append(f"transformers 4 cannot read this model: {obstacle}; use transformers 5")
    notes += [f"{reader} {'; '.join(lines)}" for reader, lines in others.items()]
    if other_bos := source.other_bos(state.tokenizer):
        notes.append(f"{other_bos}; take care of it where prompts are built for this model")
    return chosen.architecture, notes


def _write_weights(
    folder: Path,
    checkpoint: Path,
    index: Index,
    family: Family,
    model: ModelConfig,
    dtypes: Mapping[str, str],
    shard_bytes: int,
) -> None:
    held = parameter_shapes(model)
    _refuse_differences(checkpoint, index, held)
    plain = model.without_static_gates()
    shapes = parameter_shapes(plain)
    conversions = to_theirs(family.links(plain, list(shapes)))

    def read(name: str) -> Tensor:
        key = f"weight/{name}"
        file = checkpoint / index["tensors"][key]["file"]
        return map_tensors(file, {key: torch.Size(held[name])})[key]

    def dtype_of(name: str) -> torch.dtype:
        return DTYPES[dtypes.get(name, dtypes[""])]

    entries = target_entries(conversions, shapes, dtype_of)
    write_model(
        folder, entries, converted(conversions, folding_read(model, read), dtype_of), shard_bytes
    )


def _refuse_differences(
    checkpoint: Path, index: Index, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    there = {key.removeprefix("weight/") for key in index["tensors"] if key.startswith("weight/")}
    if strange := sorted(there ^ set(shapes)):
        raise CannotExpress(
            [f"checkpoint {checkpoint}: {strange[0]}: its tensors are not those of its model"]
        )


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(dict(sorted(content.items())), indent=2) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns 0 when the model is written, 2 after printing every reason why it is not."""
    parser = Parser(
        prog="ropewalk export",
        description="Exports a checkpoint of any layout as the folder of a Hugging Face model.",
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        help="folder of a run (takes its newest checkpoint) or of a checkpoint, or the file latest",
    )
    parser.add_argument("--output", required=True, help="folder to write; must be new or empty")
    parser.add_argument(
        "--family",
        default="",
        help="model_type to write; default: that of the import, or the first that fits",
    )
    parser.add_argument(
        "--dtype",
        default="",
        help=f"dtype of the weights: {', '.join(DTYPES)}; default: that of the import, or float32",
    )
    parser.add_argument(
        "--tokenizer",
        default="",
        help="SentencePiece model, tokenizer.json, folder with one, or none; default: that of the run",
    )
    parser.add_argument(
        "--context-length",
        type=int,
        default=0,
        help="context length of the model in tokens; default: the longest sequence length trained on",
    )
    parser.add_argument(
        "--shard-bytes",
        type=int,
        default=SHARD_BYTES,
        help="largest size of a weight file in bytes",
    )
    given = vars(parser.parse_args(arguments))
    checkpoint, output = Path(given.pop("checkpoint")), Path(given.pop("output"))
    try:
        architecture, notes = export_model(checkpoint, output, ExportOptions(**given))
    except (ValueError, OSError) as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"train.export_huggingface: {one_line(line)}\n")
        return 2
    sys.stderr.write(f"{output}: {architecture}\n")
    for note in notes:
        sys.stderr.write(f"note: {note}\n")
    return 0
