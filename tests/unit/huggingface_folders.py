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
    """A model of this family with random tensors, and these keys in its config.json; returns its folder."""
    config = {**SIZES, "model_type": model_type, "dtype": "float32", **keys}
    family = family_of(config)
    model = family.read(config).model
    shapes = parameter_shapes(model)
    links = to_theirs(family.links(model, list(shapes)))
    entries = target_entries(links, shapes, lambda name: torch.float32)  # noqa: ARG005
    generator = torch.Generator().manual_seed(7)
    tensors = {
        name: torch.randn(entry.shape, generator=generator) for name, entry in entries.items()
    }
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder
