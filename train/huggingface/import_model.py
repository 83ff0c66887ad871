"""Imports the folder of a Hugging Face model as a checkpoint to start from.

    python -m train.import_huggingface --model DIR --output DIR
    python -m train model=from_huggingface checkpoint.resume=DIR ...

    config.json                      -> state.json: the model, its base, and a copy of config.json
    *.safetensors, tensor by tensor  -> part_NNNNN.safetensors in float32, index.json
    tokenizer, licence               -> huggingface/, unchanged

The files must have exactly the tensors of the model. Only the tensor being converted is in memory. The checkpoint
is like any other: every layout and ZeRO stage can start from it.
"""

import dataclasses
import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.command_line import Parser
from data.files import seal, write_durably
from data.printable import one_line
from model.config import ModelConfig
from model.huggingface.catalogue import family_of
from model.huggingface.family import Family
from model.huggingface.foreign_keys import carried_unread
from model.huggingface.links import Link
from model.huggingface.refusal import CannotExpress
from model.huggingface.rope_unread import unread_keys
from model.huggingface.wrappers import WRAPPERS, head_obstacle
from model.parameters import parameter_names, shape_of
from model.position.settings import inverse_frequencies
from parallel.checkpoint.index import Index
from train.checkpointing.state import FORMAT, INDEX, STATE, RunState
from train.configuration.typed_model import typed_model
from train.huggingface.conversion import converted, target_entries, to_ours
from train.huggingface.folder import (
    SHARD_BYTES,
    ModelFolder,
    make_folder,
    refuse_output,
    refuse_pointer,
    write_shards,
)
from train.huggingface.kept_files import exported_files, keep
from train.huggingface.tokenizer import tokenizer_facts, unopened_tokenizers
from train.schedule.rope_base import bases_by_kind

_FREQUENCIES = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")
_TIED = ("lm_head.weight", "model.embed_tokens.weight")
_HEADLESS = "; save the model with AutoModelForCausalLM, which has the head"


@dataclasses.dataclass(frozen=True)
class OpenedModel:
    """A Hugging Face model's folder whose tensors are those of the model that its config.json describes.

    links: between its tensors and ours. state: that of the checkpoint which an import makes.
    """

    source: ModelFolder
    family: Family
    links: Sequence[Link]
    state: RunState


def open_model(model: Path, *, text_only: bool = False) -> OpenedModel:
    """Opens the folder `model` without reading a tensor. text_only: only the language model of a multimodal one.

    Raises:
        ValueError: why the model cannot be read, one line per reason.
        OSError: a file cannot be read.
    """
    source = ModelFolder(model, text_only=text_only)
    for file in exported_files(model):
        refuse_pointer(file)
    family = family_of(source.config)
    imported = family.read(source.config)
    typed_model(dataclasses.asdict(imported.model), "config.json")
    if source.left_out and (obstacle := head_obstacle(imported.model)):
        raise CannotExpress([obstacle])
    shapes = parameter_shapes(imported.model)
    links = family.links(imported.model, list(shapes))
    _refuse_differences(
        source,
        links,
        shapes,
        tied=imported.model.tie_embeddings,
        plain=torch.from_numpy(inverse_frequencies(imported.rope_base, imported.model.head_dim)),
    )
    state = RunState(
        stage="imported",
        rope_base=bases_by_kind(imported.model, imported.rope_base),
        context_length=imported.context_length,
        model=dataclasses.asdict(imported.model),
        origin=_origin(source),
        tokenizer=tokenizer_facts(model),
    )
    return OpenedModel(source, family, links, state)


def import_model(
    model: Path,
    output: Path,
    *,
    text_only: bool = False,
    shard_bytes: int = SHARD_BYTES,
    tell: Callable[[str], None] = lambda line: None,  # noqa: ARG005
) -> RunState:
    """Converts the model in folder `model` into the checkpoint `output`; returns its state.

    text_only: import the language model of a multimodal model, without the rest. tell: receives notes for the user on
    how the model was read, one line each.

    Raises:
        ValueError: why the import is not possible, one line per reason.
        OSError: a file cannot be read or written.
    """
    refuse_output(output)
    opened = open_model(model, text_only=text_only)
    source, state = opened.source, opened.state

    def fill(folder: Path) -> None:
        index = _write_weights(folder, source, opened.links, shard_bytes)
        keep(model, folder)
        write_durably(folder / INDEX, seal({"format": FORMAT, **index}))
        write_durably(folder / STATE, seal({"format": FORMAT, **dataclasses.asdict(state)}))

    make_folder(output, fill)
    left_out = f"only the language model is imported; left out: {source.left_out}"
    said = [source.renamed] if source.renamed else [left_out] if source.left_out else []
    said += carried_unread(source.config, opened.family.layer_keys)
    said += unread_keys(source.config, opened.family.rope_rules) + unopened_tokenizers(model)
    for line in said:
        tell(line)
    return state


def _origin(source: ModelFolder) -> dict[str, Any]:
    found = {
        "config": source.config,
        "generation_config": source.json("generation_config.json"),
        "dtypes": _dtypes(source),
    }
    return found | ({"left_out": source.left_out} if source.left_out else {})


def parameter_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter of the whole model."""
    names = parameter_names(model, range(model.num_layers))
    return {name: shape_of(name, model) for name in names}


def _write_weights(
    folder: Path, source: ModelFolder, links: Sequence[Link], shard_bytes: int
) -> Index:
    def dtype_of(_: str) -> torch.dtype:
        return torch.float32

    conversions = to_ours(links)
    there = {name: entry.shape for name, entry in source.entries.items()}
    entries = target_entries(conversions, there, dtype_of)
    keys = {f"weight/{name}": entry for name, entry in entries.items()}
    tensors = converted(conversions, source.read, dtype_of)
    files = write_shards(
        folder,
        keys,
        ((f"weight/{name}", tensor) for name, tensor in tensors),
        shard_bytes=shard_bytes,
        named=lambda number, _: f"part_{number:05}.safetensors",
    )
    index: Index = {"files": {file.name: file.record for file in files}, "tensors": {}}
    for file in files:
        for key in file.tensors:
            shape = list(keys[key].shape)
            index["tensors"][key] = {"file": file.name, "shape": shape, "dtype": "float32"}
    return index


def _refuse_differences(
    source: ModelFolder,
    links: Sequence[Link],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    tied: bool,
    plain: Tensor,
) -> None:
    """Raises CannotExpress unless the files have exactly the tensors of the model, in the right shapes.

    plain: unscaled frequencies of the base, (P,).
    """
    expected = {name for link in links for name in link.theirs}
    assert {name for link in links for name in link.ours} == set(shapes)
    there = set(source.entries)
    derived = {name for name in there if _FREQUENCIES.fullmatch(name)}
    wrong = [line for name in sorted(derived) for line in _other_frequencies(source, name, plain)]
    there -= derived
    if tied and _TIED[0] in there:
        if not torch.equal(*(source.read(name) for name in _TIED)):
            raise CannotExpress(
                [f"{_TIED[0]}: differs from {_TIED[1]}, but config.json says tie_word_embeddings"]
            )
        there.discard(_TIED[0])
    wrong += [
        f"{name}: is missing in {source.folder}{_HEADLESS if name == _TIED[0] else ''}"
        for name in sorted(expected - there)
    ]
    wrong += [f"{name}: has no place in this model" for name in sorted(there - expected)]
    for link in links:
        if set(link.theirs) <= there:
            wrong += _other_shapes(source, link, shapes)
    if wrong:
        raise CannotExpress(wrong[:5] + ([f"and {len(wrong) - 5} more"] if len(wrong) > 5 else []))


def _other_frequencies(source: ModelFolder, name: str, plain_P: Tensor) -> list[str]:
    """Returns a line if stored rotary frequencies, which old models have, differ from those of the base."""
    found_P = source.read(name)
    # The stored ones may be rounded to 16 bits like the weights.
    if found_P.shape == plain_P.shape and torch.allclose(found_P.to(plain_P), plain_P, rtol=1e-2):
        return []
    return [f"{name}: is not what config.json's rope_theta gives"]


def _other_shapes(
    source: ModelFolder, link: Link, shapes: Mapping[str, tuple[int, ...]]
) -> list[str]:
    entries = [source.entries[name] for name in link.theirs]
    blank = [torch.empty(entry.shape, dtype=entry.dtype, device="meta") for entry in entries]
    try:
        found = [tuple(tensor.shape) for tensor in link.to_ours(blank)]
    except (RuntimeError, ValueError, IndexError):
        found = []
    if found == [shapes[name] for name in link.ours]:
        return []
    there = ", ".join(str(tuple(entry.shape)) for entry in entries)
    wanted = ", ".join(str(shapes[name]) for name in link.ours)
    return [f"{' and '.join(link.theirs)}: of shape {there}, config.json requires {wanted}"]


def _dtypes(source: ModelFolder) -> dict[str, str]:
    """Returns the most frequent dtype under "", and other dtypes under the names of their tensors."""
    names = {
        name: str(entry.dtype).removeprefix("torch.") for name, entry in source.entries.items()
    }
    usual = Counter(names.values()).most_common(1)[0][0]
    return {"": usual} | {name: dtype for name, dtype in names.items() if dtype != usual}


def _note(line: str) -> None:
    sys.stderr.write(f"note: {one_line(line)}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line. Returns 0 when the checkpoint is written, 2 after printing every reason why it is not."""
    parser = Parser(
        prog="ropewalk import",
        description="Imports the folder of a Hugging Face model as a checkpoint to start from.",
    )
    parser.add_argument("--model", required=True, help="folder with config.json and safetensors")
    parser.add_argument(
        "--output", required=True, help="folder of the checkpoint to write; must be new or empty"
    )
    parser.add_argument(
        "--text-only",
        action="store_true",
        help=f"import the language model of a multimodal model ({', '.join(WRAPPERS)}), and leave out the rest",
    )
    parser.add_argument(
        "--shard-bytes",
        type=int,
        default=SHARD_BYTES,
        help="largest size of a weight file in bytes",
    )
    options = parser.parse_args(arguments)
    try:
        state = import_model(
            Path(options.model),
            Path(options.output),
            text_only=options.text_only,
            shard_bytes=options.shard_bytes,
            tell=_note,
        )
    except (ValueError, OSError) as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"train.import_huggingface: {one_line(line)}\n")
        return 2
    tokens, rows = state.tokenizer.get("vocab_size", 0), state.model["vocab_size"]
    if tokens > rows:
        _note(
            f"the tokenizer has {tokens} tokens, the model {rows}: it has no embedding for ids from {rows} up"
        )
    says = json.dumps({"rope_base": state.rope_base, "context_length": state.context_length})
    resume = shlex.quote(f"checkpoint.resume={options.output}")
    sys.stderr.write(
        f"{options.output}: a checkpoint to start from, {says}; go on with\n"
        f"  ropewalk train model=from_huggingface {resume} ...\n"
    )
    return 0
