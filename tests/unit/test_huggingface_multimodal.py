"""The language model of a multimodal model: imported alone, it computes what the whole model computes on text."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.huggingface.catalogue import family_of
from model.huggingface.wrappers import TEXT_DEFAULTS, WRAPPERS, text_config, text_name
from tests.unit.huggingface_cases import SIZES, SLIDING, WINDOW, fill
from tests.unit.huggingface_folders import written_model
from tests.unit.test_huggingface_families import our_logits, our_model, texts, their_logits
from train.checkpointing.state import read_state
from train.configuration.typed_model import typed_model
from train.huggingface.conversion import target_entries, to_theirs
from train.huggingface.export_model import ExportOptions, export_model
from train.huggingface.import_model import import_model, main, parameter_shapes

_TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}
_MISTRAL = {**SIZES, "model_type": "mistral", "sliding_window": WINDOW}
CASES: dict[str, dict[str, Any]] = {
    "gemma3": {
        "text_config": {
            **SIZES,
            "model_type": "gemma3_text",
            "sliding_window": WINDOW,
            "layer_types": SLIDING,
        },
        "vision_config": {**_TOWER, "model_type": "siglip_vision_model"},
        "mm_tokens_per_image": 4,
        "image_token_index": 100,
    },
    "mistral3": {
        "text_config": {**_MISTRAL, "tie_word_embeddings": False},
        "vision_config": {**_TOWER, "model_type": "pixtral", "head_dim": 8},
        "tie_word_embeddings": False,
        "image_token_index": 100,
    },
    "mistral3 of ministral3": {
        "text_config": {**SIZES, "model_type": "ministral3", "tie_word_embeddings": False},
        "vision_config": {**_TOWER, "model_type": "pixtral", "head_dim": 8},
        "tie_word_embeddings": False,
        "image_token_index": 100,
    },
    "llava": {
        "text_config": _MISTRAL,
        "vision_config": {**_TOWER, "model_type": "clip_vision_model"},
        "image_token_index": 100,
    },
    "llava_next": {
        "text_config": {**SIZES, "model_type": "llama"},
        "vision_config": {**_TOWER, "model_type": "clip_vision_model"},
        "image_token_index": 100,
    },
}


def multimodal_model(case: str) -> Any:
    """A random multimodal model of transformers; the first word of a case is its model_type."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = AutoConfig.for_model(case.split()[0], **CASES[case])
    model = AutoModelForImageTextToText.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    )
    fill(model, config.text_config.model_type, tied=bool(config.tie_word_embeddings))
    if case == "gemma3":  # tied, and the logits have no scale
        model.get_input_embeddings().weight.data.mul_(0.2)
    return model


def renamed(folder: Path, form: str) -> None:
    """Names the tensors as released files do, or as the modules of transformers do."""
    file = folder / "model.safetensors"
    names = {}
    for name, tensor in load_file(file).items():
        plain = text_name(name)
        if form == "released":
            new = f"language_model.{plain}" if plain else name.removeprefix("model.")
        elif plain:
            new = plain if plain.startswith("lm_head") else f"model.language_model.{plain[6:]}"
        else:
            new = f"model.{name.removeprefix('model.')}"
        names[new] = tensor
    save_file(names, file)


@pytest.mark.parametrize(
    ("case", "form"),
    [
        ("gemma3", "released"),
        ("gemma3", "modules"),
        ("mistral3", "released"),
        ("mistral3", "modules"),
        ("mistral3 of ministral3", "released"),
        ("llava", "modules"),
        ("llava_next", "released"),
    ],
)
def test_on_text_it_is_the_multimodal_model_and_it_is_exported_alone(
    case: str, form: str, tmp_path: Path
) -> None:
    theirs, kind = multimodal_model(case), case.split()[0]
    theirs.save_pretrained(tmp_path / "theirs")
    renamed(tmp_path / "theirs", form)
    said: list[str] = []
    import_model(tmp_path / "theirs", tmp_path / "ours", text_only=True, tell=said.append)
    (line,) = said
    for part in WRAPPERS[kind].others:
        assert re.search(
            rf"left out: .*{part} \(\d+ tensors?, [\d,]+ bytes\).* of this {kind}", line
        )

    model, base = our_model(tmp_path / "ours")
    for text, logits in zip(texts(), our_logits(model, base, texts()), strict=True):
        wanted = their_logits(theirs, text)
        assert float(wanted.std()) > 0.5
        # float32 logits of a size of a few, sums in another order.
        torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=0)

    export_model(tmp_path / "ours", tmp_path / "back", ExportOptions(tokenizer="none"))
    was, now = (load_file(tmp_path / f / "model.safetensors") for f in ("theirs", "back"))
    was = {text_name(name): tensor for name, tensor in was.items() if text_name(name)}
    assert was.keys() == now.keys()
    assert all(torch.equal(tensor, now[name]) for name, tensor in was.items())
    assert (
        read_state(tmp_path / "ours").origin["left_out"]
        in (tmp_path / "back/README.md").read_text()
    )

    from transformers import AutoModelForCausalLM

    again = AutoModelForCausalLM.from_pretrained(tmp_path / "back", attn_implementation="eager")
    text = texts()[-1]
    torch.testing.assert_close(
        their_logits(again.eval(), text), their_logits(theirs, text), atol=1e-6, rtol=0
    )


def multimodal_folder(folder: Path, *, strange: str = "", **keys: Any) -> Path:
    """A folder as a released Gemma 3, without transformers. strange: a tensor more. keys: of text_config."""
    text = {**SIZES, "sliding_window": WINDOW, **keys}
    written_model(folder, "gemma3_text", **text)
    tensors = load_file(folder / "model.safetensors")
    whole = {f"language_model.{name}": tensor for name, tensor in tensors.items()}
    whole["vision_tower.vision_model.post_layernorm.weight"] = torch.ones(7)
    whole["multi_modal_projector.mm_soft_emb_norm.weight"] = torch.ones(5, dtype=torch.bfloat16)
    whole |= {strange: torch.ones(2)} if strange else {}
    save_file(whole, folder / "model.safetensors")
    outer = {"model_type": "gemma3", "text_config": text, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(outer))
    return folder


def test_without_the_option_the_command_says_what_it_would_leave_out(tmp_path, capsys) -> None:
    folder = multimodal_folder(tmp_path / "theirs")
    command = ["--model", str(folder), "--output", str(tmp_path / "out")]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for says in (
        "gemma3 is a multimodal model; --text-only imports its language model alone and leaves out",
        "vision_tower (1 tensor, 28 bytes), multi_modal_projector (1 tensor, 10 bytes)",
    ):
        assert says in line
    assert not (tmp_path / "out").exists()
    assert main([*command, "--text-only"]) == 0
    assert "note: only the language model is imported; left out: vision" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [["gemma3"], {"gemma3": 1}, None, 3])
def test_a_model_type_of_another_type_is_refused_in_one_line(tmp_path, capsys, kind: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    status = main(["--model", str(tmp_path), "--output", str(tmp_path / "out"), "--text-only"])
    (line,) = capsys.readouterr().err.splitlines()
    assert status == 2
    assert "has a model of" in line


def test_the_option_is_refused_where_it_has_no_effect_or_would_drop_what_is_unknown(
    tmp_path: Path,
) -> None:
    plain = written_model(tmp_path / "llama", "llama")
    with pytest.raises(ValueError, match=r"text-only: has no effect: .* a model of llama"):
        import_model(plain, tmp_path / "out", text_only=True)
    strange = multimodal_folder(tmp_path / "theirs", strange="audio_tower.conv.weight")
    with pytest.raises(ValueError, match=r"audio_tower\.conv\.weight: is neither of the language"):
        import_model(strange, tmp_path / "out", text_only=True)
    capped = multimodal_folder(tmp_path / "capped", final_logit_softcapping=30.0)
    with pytest.raises(ValueError, match=r"logit_softcap=30\.0: the multimodal models of transf"):
        import_model(capped, tmp_path / "out", text_only=True)
    (strange / "config.json").write_text('{"model_type": "gemma3", "text_config": 3}')
    save_file({"language_model.x": torch.ones(2)}, strange / "model.safetensors")
    with pytest.raises(ValueError, match="text_config=3: must be an object"):
        import_model(strange, tmp_path / "out", text_only=True)


@pytest.mark.parametrize(
    ("outer", "inner", "has_head", "tied"),
    [
        (True, True, True, True),  # the import compares both
        (True, False, True, False),  # Mistral Small 3.1 in transformers 5
        (True, False, False, True),  # saved by transformers 5, tied by the outer key
        (False, True, False, True),
        (False, False, False, False),  # the import misses the head
        (False, None, False, False),  # a Mistral's default
    ],
)
def test_where_two_keys_disagree_the_files_say_whether_the_head_is_tied(
    outer: bool, inner: bool | None, has_head: bool, tied: bool
) -> None:
    text = {} if inner is None else {"tie_word_embeddings": inner}
    config = {"model_type": "mistral3", "tie_word_embeddings": outer, "text_config": text}
    assert text_config(config, has_head=has_head)["tie_word_embeddings"] is tied


@pytest.mark.parametrize("kind", TEXT_DEFAULTS)
def test_keys_that_a_text_config_leaves_out_have_the_values_of_transformers(kind: str) -> None:
    from transformers import AutoConfig

    theirs = AutoConfig.for_model(kind)
    assert {key: getattr(theirs, key) for key in TEXT_DEFAULTS[kind]} == TEXT_DEFAULTS[kind]


# google/gemma-3-4b-it, as quoted in public tests of programs that read it (larql-models, `gemma3` with text_config),
# with the scaling of its full layers from Gemma 3's report (arXiv 2503.19786). mistralai/Mistral-Small-3.1-24B: quoted
# in a public loader of the text encoder of FLUX.2 (class Mistral3Embedder).
PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
    "gemma-3-4b": (
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "boi_token_index": 255999,
            "eoi_token_index": 256000,
            "eos_token_id": [1, 106],
            "image_token_index": 262144,
            "mm_tokens_per_image": 256,
            "model_type": "gemma3",
            "text_config": {
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "model_type": "gemma3_text",
                "num_hidden_layers": 34,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 1024,
            },
            "torch_dtype": "bfloat16",
            "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model", "num_hidden_layers": 2},
        },
        {
            "num_heads": 8,
            "num_kv_heads": 4,
            "head_dim": 256,
            "vocab_size": 262208,
            "window": 1024,
            "tie_embeddings": True,
            "layer_pattern": ["window_rope"] * 5 + ["full_rope"],
        },
        1e6,
    ),
    "Mistral-Small-3.1-24B": (
        {
            "architectures": ["Mistral3ForConditionalGeneration"],
            "dtype": "bfloat16",
            "image_token_index": 10,
            "model_type": "mistral3",
            "multimodal_projector_bias": False,
            "projector_hidden_act": "gelu",
            "spatial_merge_size": 2,
            "text_config": {
                "head_dim": 128,
                "hidden_act": "silu",
                "hidden_size": 5120,
                "intermediate_size": 32768,
                "max_position_embeddings": 131072,
                "model_type": "mistral",
                "num_attention_heads": 32,
                "num_hidden_layers": 40,
                "num_key_value_heads": 8,
                "rms_norm_eps": 1e-05,
                "rope_theta": 1000000000.0,
                "sliding_window": None,
                "vocab_size": 131072,
            },
            "vision_config": {"head_dim": 64, "hidden_size": 1024, "model_type": "pixtral", "num_hidden_layers": 2},
            "vision_feature_layer": -1,
        },
        {"layer_pattern": ["full_rope"], "head_dim": 128, "tie_embeddings": False},
        1e9,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_language_model_of_a_released_model_has_the_tensors_that_transformers_has(
    name: str,
) -> None:
    from transformers import AutoConfig, AutoModelForImageTextToText

    config, fields, base = PUBLISHED[name]
    text = text_config(config, has_head=not fields["tie_embeddings"])
    family = family_of(text)
    found = family.read(text)
    typed_model(dataclasses.asdict(found.model), "config.json")
    assert {key: getattr(found.model, key) for key in fields} == fields
    assert (found.rope_base, found.context_length) == (base, 131072)
    with torch.device("meta"):
        theirs = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**config))
    wanted = {text_name(key): tuple(tensor.shape) for key, tensor in theirs.state_dict().items()}
    wanted.pop("")
    if found.model.tie_embeddings:
        del wanted["lm_head.weight"]
    shapes = parameter_shapes(found.model)
    links = to_theirs(family.links(found.model, list(shapes)))
    entries = target_entries(links, shapes, lambda _: torch.bfloat16)
    assert {key: tuple(entry.shape) for key, entry in entries.items()} == wanted
