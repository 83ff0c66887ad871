"""Released models: their config.json is read as transformers reads it, and every tensor of theirs has a place here."""

import dataclasses

import pytest
import torch

from model.huggingface.catalogue import FAMILIES, family_of
from model.huggingface.family import Family
from model.huggingface.rope_unread import unread_keys
from model.position.llama3 import Llama3Rope
from model.position.longrope import LongRope
from model.position.scales.ministral3 import Ministral3Scale
from model.position.yarn import YarnRope
from tests.unit.huggingface_published import PUBLISHED as OTHERS
from tests.unit.huggingface_published_phi import LONG_OF_MINI_4, PHI_AND_MINISTRAL
from train.configuration.typed_model import typed_model
from train.huggingface.conversion import target_entries, to_theirs
from train.huggingface.import_model import parameter_shapes

PUBLISHED = OTHERS | PHI_AND_MINISTRAL


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_released_model_is_read_with_the_tensors_that_transformers_has(name: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    published = PUBLISHED[name]
    family = family_of(published.config)
    found = family.read(published.config)
    typed_model(dataclasses.asdict(found.model), "config.json")  # as the import does
    assert {key: getattr(found.model, key) for key in published.fields} == published.fields
    assert found.rope_base == published.base
    assert unread_keys(published.config, family.rope_rules) == []
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


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model_type)
def test_keys_that_a_config_json_leaves_out_have_the_values_of_transformers(family: Family) -> None:
    from transformers import AutoConfig

    required = {
        "model_type": family.model_type, "vocab_size": 96, "hidden_size": 640, "intermediate_size": 96,
        "num_hidden_layers": 4, "num_attention_heads": 64,
    }  # fmt: skip
    theirs = AutoConfig.for_model(**required)
    # None stands for no cap, and for the width of hidden_size / num_attention_heads.
    plain = {"final_logit_softcapping": 0.0, "head_dim": 10}
    known = [row for row in family.rows if hasattr(theirs, row.theirs)]
    assert len(known) >= 9
    for row in known:
        wanted = getattr(theirs, row.theirs)
        wanted = plain.get(row.theirs) if wanted is None else wanted
        assert row.value(required) == wanted, row.theirs
    (row,) = [row for row in known if row.theirs == "num_key_value_heads"]
    assert row.value(required | {"num_key_value_heads": None}) == 64  # as many as heads


@pytest.mark.parametrize("size", ["32B", "1.2B"])
def test_exaone_4_scales_its_rotation_by_16_as_llama_3(size: str) -> None:
    config = PUBLISHED[f"LGAI-EXAONE/EXAONE-4.0-{size}"].config
    kinds = family_of(config).read(config).model.kinds
    (kind,) = kinds.values()
    assert kind.rope == Llama3Rope(
        factor=16.0, original_length=8192, low_frequency=1.0, high_frequency=4.0
    )


def test_phi_4_mini_turns_three_quarters_of_a_head_by_longrope() -> None:
    config = PUBLISHED["microsoft/Phi-4-mini-instruct"].config
    (kind,) = family_of(config).read(config).model.kinds.values()
    assert kind.rope == LongRope(
        factor=32.0,
        original_length=4096,
        short_factors=[1.0] * 48,
        long_factors=[float(each) for each in LONG_OF_MINI_4],
        rotary_share=0.75,
    )
    # 96 of 128 dimensions turn; the attention factor of 32 times 4,096 tokens.
    found = kind.rope.frequencies(1e4, 128, length=8192)
    assert len(found.radians_P) == 48
    assert found.factor == pytest.approx(1.190238, abs=5e-7)
    assert found.radians_P[47] == pytest.approx(1e4 ** (-94 / 96) / 47.77, rel=1e-12)


def test_ministral_3_scales_queries_by_blocks_of_the_length_before_yarn() -> None:
    config = PUBLISHED["mistralai/Ministral-3-3B-Base-2512"].config
    (kind,) = family_of(config).read(config).model.kinds.values()
    assert kind.rope == YarnRope(factor=16.0, original_length=16384, attention_factor=1.0)
    assert kind.position_scale == Ministral3Scale(beta=0.1, original_length=16384)
