"""Folders of small models of Hugging Face, made without transformers: what tests of files and keys begin with."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from model.huggingface.catalogue import family_of
from tests.unit.huggingface_cases import SIZES
from train.huggingface.conversion import target_entries, to_theirs
from train.huggingface.import_model import parameter_shapes


def written_model(folder: Path, model_type: str, **keys: Any) -> Path:
    """A model of this family with random tensors, and these keys in its config.json; returns its folder.

    Vectors (norms, biases) are around 1, or around 0 where the name says bias; logits are of a size of a few.
    """
    config = {**SIZES, "model_type": model_type, "dtype": "float32", **keys}
    family = family_of(config)
    model = family.read(config).model
    shapes = parameter_shapes(model)
    links = to_theirs(family.links(model, list(shapes)))
    entries = target_entries(links, shapes, lambda name: torch.float32)  # noqa: ARG005
    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for name, entry in entries.items():
        noise = 0.2 * torch.randn(entry.shape, generator=generator)
        is_norm = len(entry.shape) == 1 and name.endswith("norm.weight")
        tensors[name] = noise + 1.0 if is_norm else noise
        if "router" in name:  # of one expert: nothing
            tensors[name] = torch.zeros(entry.shape)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder
