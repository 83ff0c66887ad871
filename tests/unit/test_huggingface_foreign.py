"""What comes from outside as it is published: keys that only other programs read, names and files that differ."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from data.files import seal
from model.config import ModelConfig
from model.huggingface.catalogue import BY_TYPE, family_of
from model.huggingface.families.cohere2 import COHERE2
from model.huggingface.readers import VERSIONS
from model.huggingface.refusal import CannotExpress
from model.huggingface.rope_unread import unread_keys
from tests.unit.huggingface_cases import SIZES, SLIDING, WINDOW
from tests.unit.huggingface_folders import written_model
from train.checkpointing.state import FORMAT, read_state
from train.huggingface.export_model import ExportOptions, export_model
from train.huggingface.import_model import import_model

DUAL_CHUNKS = {
    "chunk_size": 262_144,
    "local_size": 8192,
    "original_max_position_embeddings": 262_144,
}
# As in the config.json of Command R7B, which llama.cpp's converter reads.
PUBLISHED = {
    "rotary_pct": 1.0,
    "use_parallel_block": True,
    "use_gated_activation": True,
    "position_embedding_type": "rope_gptj",
    "order_of_interleaved_layers": "local_attn_first",
    "layer_switch": 4,
    "sliding_window_pattern": 4,
}


def longer(checkpoint: Path, context_length: int) -> None:
    """Make a checkpoint that of a run which went on from it to this length."""
    state = dataclasses.replace(read_state(checkpoint), context_length=context_length)
    content = {"format": FORMAT, **dataclasses.asdict(state)}
    (checkpoint / "state.json").write_bytes(seal(content))


def exported(checkpoint: Path, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The exported config.json, and what the export says but for other programs."""
    _, notes = export_model(checkpoint, folder, ExportOptions(tokenizer="none"))
    own = [note for note in notes if not note.startswith(tuple(VERSIONS))]
    return json.loads((folder / "config.json").read_text()), own


def test_a_cohere2_has_the_published_keys_that_other_programs_read(tmp_path: Path) -> None:
    model = ModelConfig(**COHERE2.recipe, num_layers=8)
    assert PUBLISHED.items() <= COHERE2.write(model, 1e4, 64).items()
    uneven = dataclasses.replace(model, layer_pattern=["window_rope", "full_nope", "full_nope"])
    assert "layer_switch" not in COHERE2.write(uneven, 1e4, 64)
    # Also where transformers saved the model without them.
    source = written_model(
        tmp_path / "theirs", "cohere2", sliding_window=WINDOW, layer_types=SLIDING
    )
    import_model(source, tmp_path / "ours")
    config, notes = exported(tmp_path / "ours", tmp_path / "back")
    assert PUBLISHED.items() <= config.items()
    assert notes == []


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("cohere2", "rotary_pct", 0.5),
        ("cohere2", "use_parallel_block", False),
        ("llama", "rope_pct", 0.25),
        ("cohere2", "position_embedding_type", "rope"),
        ("cohere2", "layer_switch", 3),
        ("cohere2", "order_of_interleaved_layers", "global_attn_first"),
        ("llama", "layer_types", SLIDING),
        ("qwen3", "quantization_config", {"quant_method": "fp8"}),
    ],
)
def test_what_other_programs_would_read_as_another_model_is_refused(
    kind: str, key: str, value: Any
) -> None:
    config = {**SIZES, "model_type": kind, key: value}
    with pytest.raises(CannotExpress, match=f"config.json: {key}"):
        family_of(config).read(config)


def test_the_released_ministral_is_imported_with_its_windows_and_exported_as_one(
    tmp_path: Path,
) -> None:
    types = ["full_attention", *SLIDING[:3]]
    source = written_model(
        tmp_path / "theirs",
        "mistral",
        sliding_window=32_768,
        layer_types=types,
        max_position_embeddings=131_072,
        num_attention_heads=6,
        initializer_range=0.02,
    )
    state = import_model(source, tmp_path / "ours")
    assert state.model["layer_pattern"] == ["full_rope"] + ["window_rope"] * 3
    assert state.model["window"] == 32_768
    config, notes = exported(tmp_path / "ours", tmp_path / "back")
    # transformers reads the windows of this model_type, and of no mistral.
    assert (config["model_type"], config["architectures"]) == (
        "ministral",
        ["MinistralForCausalLM"],
    )
    assert (config["layer_types"], config["sliding_window"]) == (types, 32_768)
    assert (config["initializer_range"], config["eos_token_id"]) == (0.02, 2)
    assert any("a ministral now" in note for note in notes)
    with pytest.raises(CannotExpress, match="ministral has windows in some"):
        export_model(tmp_path / "ours", tmp_path / "x", ExportOptions("mistral", tokenizer="none"))
    # The same file again, in its own name.
    import_model(tmp_path / "back", tmp_path / "again")
    assert exported(tmp_path / "again", tmp_path / "third") == (config, [])


def test_a_mistral_whose_layer_types_are_all_full_has_no_window_where_transformers_reads_it(
    tmp_path: Path,
) -> None:
    source = written_model(
        tmp_path / "theirs", "mistral", sliding_window=8, layer_types=["full_attention"] * 4
    )
    import_model(source, tmp_path / "ours")
    config, _ = exported(tmp_path / "ours", tmp_path / "back")
    assert (config["sliding_window"], "layer_types" in config) == (None, False)


def test_keys_that_became_false_are_left_out_or_raised_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    lengths = {"model_max_length": 64, "max_sequence_length": 64}
    source = written_model(
        tmp_path / "theirs",
        "qwen2",
        dual_chunk_attention_config=DUAL_CHUNKS,
        auto_map={"AutoConfig": "a.B"},
        **lengths,
    )
    (source / "generation_config.json").write_text('{"max_length": 64, "top_p": 0.8}')
    import_model(source, tmp_path / "ours", tell=said.append)
    assert ["dual_chunk_attention_config" in line for line in said] == [True]

    config, notes = exported(tmp_path / "ours", tmp_path / "unchanged")
    assert config["dual_chunk_attention_config"] == DUAL_CHUNKS
    assert lengths.items() <= config.items()
    assert ["auto_map is left out" in line for line in notes] == [True]

    longer(tmp_path / "ours", 4096)
    config, notes = exported(tmp_path / "ours", tmp_path / "back")
    assert not {"dual_chunk_attention_config", "auto_map"} & config.keys()
    names = ("max_position_embeddings", "model_max_length", "max_sequence_length")
    assert [config[name] for name in names] == [4096] * 3
    for key in (
        "dual_chunk_attention_config",
        "model_max_length is 4096 now, was 64",
        " max_length is 4096 now",
    ):
        assert any(key in note for note in notes), key
    generation = json.loads((tmp_path / "back/generation_config.json").read_text())
    assert generation == {"max_length": 4096, "top_p": 0.8}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_git_lfs_pointer_is_named_with_the_command_that_fetches_it(
    name: str, tmp_path: Path
) -> None:
    source = written_model(tmp_path / "theirs", "llama")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 5\n"
    (source / name).write_text(pointer)
    with pytest.raises(ValueError, match=re.escape(f"{name}: is a git-lfs pointer")) as caught:
        import_model(source, tmp_path / "ours")
    assert f"run `git lfs pull` in {source}" in str(caught.value)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "-model."])
def test_tensors_under_other_prefixes_are_read_and_said(prefix: str, tmp_path: Path) -> None:
    said: list[str] = []
    source = written_model(tmp_path / "theirs", "llama")
    import_model(source, tmp_path / "plain")
    tensors = load_file(source / "model.safetensors")
    renamed = {
        name.removeprefix("model.") if prefix[0] == "-" else prefix + name: tensor
        for name, tensor in tensors.items()
    }
    save_file(renamed, source / "model.safetensors")
    state = import_model(source, tmp_path / "ours", tell=said.append)
    assert ["is read as" in line for line in said] == [True]
    assert state == read_state(tmp_path / "plain")
    files = [
        (tmp_path / name / "part_00000.safetensors").read_bytes() for name in ("plain", "ours")
    ]
    assert files[0] == files[1]


def test_a_model_without_its_head_is_told_how_to_be_saved(tmp_path: Path) -> None:
    source = written_model(tmp_path / "theirs", "llama")
    tensors = load_file(source / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(
        {name.removeprefix("model."): tensor for name, tensor in tensors.items()},
        source / "model.safetensors",
    )
    with pytest.raises(ValueError, match="save the model with AutoModelForCausalLM"):
        import_model(source, tmp_path / "ours")


def test_fp8_tensors_are_refused_with_the_way_to_dequantise_them(tmp_path: Path) -> None:
    source = written_model(tmp_path / "theirs", "llama")
    tensors = load_file(source / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(ValueError, match=r"F8_E4M3.*dequantise it first.*FineGrainedFP8Config"):
        import_model(source, tmp_path / "ours")


@pytest.mark.parametrize(
    "given", [{}, {"model_type": None}, {"model_type": ["llama"]}, {"model_type": 1}]
)
def test_a_model_type_that_is_no_text_is_refused(given: dict[str, Any]) -> None:
    says = f"config.json: model_type={given.get('model_type')!r}: must be a text, the name of the family"
    with pytest.raises(CannotExpress) as refused:
        family_of(SIZES | given)
    assert refused.value.reasons == [says]


def test_families_name_the_family_they_take_over_from() -> None:
    assert {family.heir_of for family in BY_TYPE.values()} == {"", "mistral"}


def test_a_cap_of_gemma_2_that_is_absent_is_the_familys_and_null_is_none() -> None:
    config = {**SIZES, "model_type": "gemma2"}
    for key, field, default in (
        ("attn_logit_softcapping", "attention_softcap", 50.0),
        ("final_logit_softcapping", "logit_softcap", 30.0),
    ):
        for given, cap in (({}, default), ({key: None}, 0.0), ({key: 7.0}, 7.0)):
            found = family_of(config).read({**config, **given}).model
            assert getattr(found, field) == cap
            assert BY_TYPE["gemma2"].write(found, 1e4, 64)[key] == (cap or None)


@pytest.mark.parametrize(
    ("kind", "key", "given", "unread"),
    [
        (
            "phi3",
            "rope_scaling",
            {
                "type": "su", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "long_mscale": 1.24,
                "short_mscale": 1.24,
            },
            ["long_mscale", "short_mscale"],
        ),
        ("llama", "rope_parameters", {"rope_type": "default", "rope_theta": 1e4, "factor": 8.0}, ["factor"]),
        (
            "gemma3_text",
            "rope_parameters.full_attention",
            {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0, "attention_factor": 2.0},
            ["attention_factor"],
        ),
        (
            "ministral3",
            "rope_parameters",
            {
                "rope_type": "yarn", "rope_theta": 1e6, "factor": 2.0, "original_max_position_embeddings": 32,
                "llama_4_scaling_beta": 0.1, "max_position_embeddings": 64, "mscale": None,
            },
            [],
        ),
    ],
)  # fmt: skip
def test_keys_of_the_rotation_that_its_type_does_not_read_are_named(
    kind: str, key: str, given: dict[str, Any], unread: list[str]
) -> None:
    outer, _, inner = key.partition(".")
    config = {
        **SIZES, "model_type": kind, "max_position_embeddings": 64, outer: {inner: given} if inner else given,
    }  # fmt: skip
    said = unread_keys(config, family_of(config).rope_rules)
    assert [line.split("=")[0] for line in said] == [
        f"config.json: {key}.{name}" for name in unread
    ]
    assert all("other programs may read it" in line for line in said)


def test_an_import_names_them_and_an_export_of_a_model_without_a_family_has_one_line(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    rotation = {"rope_type": "default", "rope_theta": 1e4, "factor": 8.0}
    source = written_model(tmp_path / "theirs", "llama", rope_parameters=rotation)
    import_model(source, tmp_path / "ours", tell=said.append)
    assert ["rope_parameters.factor=8.0" in line for line in said] == [True]

    state = read_state(tmp_path / "ours")
    state.model["gate"] = "sigmoid"
    content = {"format": FORMAT, **dataclasses.asdict(state)}
    (tmp_path / "ours/state.json").write_bytes(seal(content))
    with pytest.raises(CannotExpress) as refused:
        export_model(tmp_path / "ours", tmp_path / "back", ExportOptions(tokenizer="none"))
    (line,) = refused.value.reasons
    assert line == (
        "no Hugging Face family takes sigmoid gate over heads (model.gate=sigmoid model.gate_over=head); --family NAME "
        "says what one family lacks"
    )
