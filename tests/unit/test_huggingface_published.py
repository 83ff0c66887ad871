"""Released models: their config.json is read as transformers reads it, and every tensor of theirs has a place here."""

import dataclasses

import pytest
import torch

from model.huggingface.catalogue import family_of
from model.position.llama3 import Llama3Rope
from tests.unit.huggingface_published import PUBLISHED
from train.configuration.typed_model import typed_model
from train.huggingface.conversion import target_entries, to_theirs
from train.huggingface.import_model import parameter_shapes


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_released_model_is_read_with_the_tensors_that_transformers_has(name: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    published = PUBLISHED[name]
    family = family_of(published.config)
    found = family.read(published.config)
    typed_model(dataclasses.asdict(found.model), "config.json")  # as the import does
    assert {key: getattr(found.model, key) for key in published.fields} == published.fields
    assert found.rope_base == published.base
    assert found.context_length == published.config["max_position_embeddings"]
    # Written from our fields alone it is the same model.
    written = family.write(found.model, found.rope_base, found.context_length)
    assert family.read(written) == found

    with torch.device("meta"):
        theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**published.config))
    wanted = {key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items()}
    if found.model.tie_embeddings:
        del wanted["lm_head.weight"]
    shapes = parameter_shapes(found.model)
    links = to_theirs(family.links(found.model, list(shapes)))
    entries = target_entries(links, shapes, lambda _: torch.bfloat16)
    assert {key: tuple(entry.shape) for key, entry in entries.items()} == wanted


@pytest.mark.parametrize("size", ["32B", "1.2B"])
def test_exaone_4_scales_its_rotation_by_16_as_llama_3(size: str) -> None:
    config = PUBLISHED[f"LGAI-EXAONE/EXAONE-4.0-{size}"].config
    kinds = family_of(config).read(config).model.kinds
    (kind,) = kinds.values()
    assert kind.rope == Llama3Rope(
        factor=16.0, original_length=8192, low_frequency=1.0, high_frequency=4.0
    )
