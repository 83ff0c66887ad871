"""Every family against transformers: the same logits, the same tensors and configuration on the way back.

Models are random and small, and made hard: heads are wider than width / heads, 6 query heads share 2, the vocabulary
is odd, norms and biases are far from their initial values, and texts end before, at and long after the window.
"""

import copy
import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from data.files import seal
from model.at_step import AtStep
from model.attention.core import choose_core
from model.config import ModelConfig
from model.huggingface import rope_fields
from model.huggingface.catalogue import BY_TYPE, family_for, family_of
from model.huggingface.links import split_halves
from model.huggingface.refusal import CannotExpress
from model.layer_pattern import KindConfig, layer_kinds
from model.packed_layout import PackedLayout
from model.parameters import role_of
from model.position.ntk import NtkRope
from model.position.rope import Rope
from model.position.settings import inverse_frequencies
from model.transformer import Transformer
from parallel.checkpoint.tensor_files import map_tensors
from tests.unit.huggingface_cases import CASES, LENGTHS, SIZES, WINDOW, their_model
from train.checkpointing.state import FORMAT, read_index, read_state
from train.configuration.compose import compose_run
from train.configuration.groups import groups
from train.configuration.typed_model import typed_model
from train.huggingface.export_model import ExportOptions, export_model
from train.huggingface.import_model import import_model, main
from train.schedule.rope_base import scheduled_base


def our_model(checkpoint: Path, **changes: Any) -> tuple[Transformer, float]:
    """The model of a checkpoint and its base."""
    state, index = read_state(checkpoint), read_index(checkpoint)
    config = dataclasses.replace(typed_model(state.model), **changes)
    core = choose_core("auto", "cpu", torch.float32, config.head_dim, config.attention_softcap)
    model = Transformer(config, core)
    weights = {}
    for key, record in index["tensors"].items():
        found = map_tensors(checkpoint / record["file"], {key: torch.Size(record["shape"])})
        weights[key.removeprefix("weight/")] = found[key]
    model.load_state_dict(weights)
    return model, scheduled_base(config, state.rope_base)


@torch.no_grad()
def our_logits(
    model: Transformer, base: float | AtStep, texts: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Of all texts in one packed stream."""
    layout = PackedLayout.from_lengths([len(text) for text in texts])
    logits = model.logits(model(torch.cat(texts), layout, base))
    return list(logits.split([len(text) for text in texts]))


def texts(seed: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 101, (length,), generator=generator) for length in LENGTHS]


@torch.no_grad()
def their_logits(model: Any, text: torch.Tensor) -> torch.Tensor:
    return model(text[None]).logits[0]


def ours_at_their_length(model: Transformer, base: float) -> list[torch.Tensor]:
    """Our logits of every text, with its length as the length in force, which is what transformers takes."""
    steps = (AtStep.of(model.config, base, (len(text),)) for text in texts())
    return [our_logits(model, step, [text])[0] for step, text in zip(steps, texts(), strict=True)]


def largest_difference(model: Transformer, base: float, theirs: Any) -> float:
    kinds = layer_kinds(model.config).values()
    by_length = any(spec.rope is not None and spec.rope.reads_length for spec in kinds)
    ours = ours_at_their_length(model, base) if by_length else our_logits(model, base, texts())
    found = zip(texts(), ours, strict=True)
    return max(float((ours - their_logits(theirs, text)).abs().max()) for text, ours in found)


@pytest.mark.parametrize("case", CASES)
def test_logits_agree_and_the_way_back_changes_nothing(case: str, tmp_path: Path) -> None:
    kind, settings = CASES[case]
    theirs = their_model(kind, settings)
    theirs.save_pretrained(tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "ours")
    model, base = our_model(tmp_path / "ours")
    assert float(their_logits(theirs, texts()[-1]).std()) >= 1.0
    # float32 logits of a size of a few, sums in another order.
    assert largest_difference(model, base, theirs) < 1e-5

    export_model(tmp_path / "ours", tmp_path / "back", ExportOptions(tokenizer="none"))
    was, now = (load_file(tmp_path / f / "model.safetensors") for f in ("theirs", "back"))
    assert was.keys() == now.keys()
    for name, tensor in was.items():
        assert torch.equal(tensor, now[name]), name
    was, now = (json.loads((tmp_path / f / "config.json").read_text()) for f in ("theirs", "back"))
    # transformers 5 saved it; the keys of transformers 4 come to it.
    assert {"rope_theta", "rope_scaling"} <= now.keys() - was.keys()
    family = family_of(was)
    added = {*rope_fields.OLD, *family.published}
    assert was == {key: value for key, value in now.items() if key not in added - was.keys()}

    # Written anew, from our fields alone, it is the same model too.
    from transformers import AutoConfig, AutoModelForCausalLM

    context = theirs.config.max_position_embeddings
    written = family.write(model.config, base, context)
    assert family.read(written) == family.read(was)
    again = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**(written | {"pad_token_id": None})), attn_implementation="eager"
    )
    again.load_state_dict(theirs.state_dict())
    text = texts()[-1]
    torch.testing.assert_close(
        their_logits(again.eval(), text), their_logits(theirs, text), atol=1e-6, rtol=0
    )


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A windowed model whose heads are rotated half-split, and its checkpoint."""
    kind, settings = CASES["smollm3 as rnope-swa"]
    folder = tmp_path_factory.mktemp("imported")
    theirs = their_model(kind, settings)
    theirs.save_pretrained(folder / "theirs")
    import_model(folder / "theirs", folder / "ours")
    return theirs, folder


def test_a_window_off_by_one_and_a_swapped_rotary_layout_are_noticed(imported) -> None:
    theirs, folder = imported
    model, base = our_model(folder / "ours")
    assert largest_difference(model, base, theirs) < 1e-5
    for window in (WINDOW - 1, WINDOW + 1):
        model, base = our_model(folder / "ours", window=window)
        found = zip(texts(), our_logits(model, base, texts()), strict=True)
        errors = [float((ours - their_logits(theirs, text)).abs().max()) for text, ours in found]
        reaches = min(window, WINDOW)
        for length, error in zip(LENGTHS, errors, strict=True):
            assert (error > 1e-2) == (length > reaches), (window, length)
    model, base = our_model(folder / "ours")
    for name, parameter in model.named_parameters():
        if role_of(name).turned:
            parameter.data = split_halves(
                parameter.data, model.config.head_dim, model.config.head_dim
            )
    assert largest_difference(model, base, theirs) > 1e-2


# Models of families whose windows are beside what no other family has (a cap of scores, ...).
WINDOWED = ("gemma2",)


@pytest.mark.parametrize("case", WINDOWED)
def test_a_window_off_by_one_is_noticed_in_other_families(case: str, tmp_path: Path) -> None:
    kind, settings = CASES[case]
    theirs = their_model(kind, settings)
    theirs.save_pretrained(tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "ours")
    for window in (WINDOW - 1, WINDOW + 1):
        model, base = our_model(tmp_path / "ours", window=window)
        assert largest_difference(model, base, theirs) > 1e-2


def test_weights_of_16_bits_in_shards_come_back_bit_by_bit(imported, tmp_path: Path) -> None:
    theirs, _ = imported
    theirs = copy.deepcopy(theirs).to(torch.bfloat16)
    theirs.model.norm.float()  # one of another dtype than the rest
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="30KB")
    import_model(tmp_path / "theirs", tmp_path / "ours", shard_bytes=40_000)
    assert len(list((tmp_path / "ours").glob("part_*.safetensors"))) > 3
    export_model(
        tmp_path / "ours", tmp_path / "back", ExportOptions(tokenizer="none", shard_bytes=30_000)
    )
    was, now = (all_tensors(tmp_path / folder) for folder in ("theirs", "back"))
    assert was.keys() == now.keys()
    for name, tensor in was.items():
        assert tensor.dtype == now[name].dtype, name
        assert torch.equal(tensor, now[name]), name
    was, now = (json.loads((tmp_path / f / "config.json").read_text()) for f in ("theirs", "back"))
    assert was == {key: value for key, value in now.items() if key not in rope_fields.OLD}


def all_tensors(folder: Path) -> dict[str, torch.Tensor]:
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    parts = {file: load_file(folder / file) for file in set(index.values())}
    return {name: parts[file][name] for name, file in index.items()}


def test_a_model_that_changed_keeps_what_is_not_about_it(imported, tmp_path: Path) -> None:
    _, folder = imported
    shutil.copytree(folder / "ours", tmp_path / "ours")
    state = read_state(tmp_path / "ours")
    longer = dataclasses.replace(state, rope_base={"window": 9e6}, context_length=4096)
    (tmp_path / "ours/state.json").write_bytes(
        seal({"format": FORMAT, **dataclasses.asdict(longer)})
    )
    export_model(
        tmp_path / "ours", tmp_path / "back", ExportOptions(tokenizer="none", dtype="bfloat16")
    )
    was = json.loads((folder / "theirs/config.json").read_text())
    now = json.loads((tmp_path / "back/config.json").read_text())
    assert now["rope_parameters"] == {"rope_type": "default", "rope_theta": 9e6}
    assert (now["max_position_embeddings"], now["dtype"]) == (4096, "bfloat16")
    for key in ("bos_token_id", "initializer_range", "layer_types", "no_rope_layers", "head_dim"):
        assert now[key] == was[key], key


REFUSED = {
    "gpt_oss": ({"num_local_experts": 32}, "num_local_experts=32: can only be 1"),
    "cohere2": ({"sliding_window": None}, "sliding_window=None; give a number"),
    "llama": ({"rope_scaling": {"type": "su", "factor": 2.0}}, "rope_type=su: in a llama it can be default, dynamic"),
    "mistral": ({"layer_types": ["sliding_attention"] * 4, "sliding_window": None}, "give a number of keys"),
    "ministral": ({"layer_types": ["full_attention"] * 3}, "3 entries for num_hidden_layers=4"),
    "qwen2": ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
    "qwen3": ({"hidden_act": "gelu"}, "hidden_act=gelu: can only be silu"),
    "smollm3": ({"layer_types": ["sliding_attention"] * 4, "sliding_window": 8}, "kernels of transformers disagree"),
    "gemma3_text": ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0: can only be None"),
    "olmo2": ({"num_key_value_heads": 4}, "must be divisible by"),
    "olmo3": ({"layer_types": ["chunked_attention"] * 4}, "chunked_attention"),
    "granite": ({"logits_scaling": 0}, "logits_scaling=0: must be a number above 0"),
    "exaone4": ({"sliding_window_pattern": "LLLG"}, "cannot read it without layer_types"),
    "gemma2": ({"attn_logit_softcapping": 0}, "attn_logit_softcapping=0: transformers divides by it"),
    "olmo3_": ({"model_type": "olmo3"}, "rope_theta is missing: transformers 4 takes 10000 for it"),
    "cohere": ({}, "rope_theta is missing: transformers 4 takes 10000 for it, transformers 5 500000"),
    "gemma3": ({}, "import --text-only takes its language model"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_expressed_is_refused_with_the_reason(kind: str) -> None:
    changes, says = REFUSED[kind]
    config = {**SIZES, "model_type": kind, "num_local_experts": 1, "num_experts_per_tok": 1, **changes}  # fmt: skip
    with pytest.raises(ValueError, match=re.escape(says)):
        typed_model(dataclasses.asdict(family_of(config).read(config).model), "config.json")


def test_numbers_of_a_config_json_are_held_to_the_bounds_of_every_model() -> None:
    config = {**SIZES, "model_type": "llama", "num_hidden_layers": 20_000, "vocab_size": 10**9}
    with pytest.raises(ValueError, match=r"model\.num_layers=20000: must be") as caught:
        typed_model(dataclasses.asdict(family_of(config).read(config).model), "config.json")
    assert "config.json: model.vocab_size=1000000000: must be" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sinks": True}, r"model\.sinks=True: llama has only False"),
        ({"layer_pattern": ["window_rope"]}, "llama has no such layer"),
        ({"hidden_size": 50}, "requires a multiple of"),
        ({"qkv_bias": True}, "one key for both, attention_bias"),
        (
            {"kinds": {"full_rope": KindConfig(sinks=True)}},
            r"model\.sinks=True: llama has only False",
        ),
        ({"kinds": {"full_rope": KindConfig(rope=NtkRope(factor=4.0))}}, ""),
    ],
)
def test_a_model_of_ours_that_a_family_has_not_is_refused_with_the_reason(changes, says) -> None:
    plain = {"block": "sequential", "norm": "rmsnorm", "layer_pattern": ["full_rope"]}
    model = ModelConfig(**{"hidden_size": 48, **plain, **changes})
    if says:
        with pytest.raises(CannotExpress, match=says):
            BY_TYPE["llama"].write(model, 1e4, 64)
    else:  # nothing but another base
        written = BY_TYPE["llama"].write(model, 1e4, 64)["rope_parameters"]
        assert written["rope_theta"] == pytest.approx(1e4 * 4 ** (32 / 30))


def two_kinds(**second: Any) -> ModelConfig:
    """A model of OLMo 3's build whose windowed layers are of two kinds, near and another one."""
    kinds = {"near": KindConfig(like="window_rope", window=5), "far": KindConfig(**second)}
    return ModelConfig(
        **BY_TYPE["olmo3"].recipe,
        num_layers=3,
        layer_pattern=["near", "far", "full_rope"],
        kinds=kinds,
    )


def test_a_value_that_only_some_kinds_have_is_refused() -> None:
    with pytest.raises(CannotExpress, match=r"different sinks \(False of near, True of far, False"):
        BY_TYPE["olmo3"].write(two_kinds(like="window_rope", window=5, sinks=True), 1e4, 64)


def test_further_kinds_of_layers_are_written_as_the_kinds_they_are_like() -> None:
    model = two_kinds(like="window_rope", window=5)
    written = BY_TYPE["olmo3"].write(model, 1e4, 64)
    assert written["layer_types"] == ["sliding_attention"] * 2 + ["full_attention"]
    assert written["sliding_window"] == 5


def test_further_kinds_that_one_window_or_rotation_cannot_express_are_refused_by_name() -> None:
    for second, says in (
        ({"like": "window_rope", "window": 17}, "different windows (5 of near, 17 of far)"),
        (
            {"like": "window_rope", "window": 5, "rope": Rope(base=9.0)},
            "model.kinds.far.rope: differs",
        ),
    ):
        with pytest.raises(CannotExpress, match=re.escape(says)):
            BY_TYPE["olmo3"].write(two_kinds(**second), 1e4, 64)


def test_every_recipe_finds_a_family_or_hears_why_none_fits() -> None:
    found = {}
    for recipe in groups()["recipe"]:
        model = compose_run([f"recipe={recipe}", "model.num_layers=6"]).model
        try:
            found[recipe] = family_for(model, 1e4).model_type
        except CannotExpress as error:
            assert len(error.reasons) in (1, len(BY_TYPE))  # for all families, or of each
            found[recipe] = ""
    assert found == {
        "rnope_swa": "cohere2", "nope": "cohere2", "llama": "llama",
        "full_rope": "cohere", "qk_norm": "", "rnope": "", "irope": "",
        "swan": "smollm3", "gpt_oss": "gpt_oss", "gemma4": "", "laguna": "", "mimo": "", "step_flash": "",
        "trinity": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), "model.norm.weight: is missing"),
        (lambda tensors: tensors.update(extra=torch.zeros(2)), "extra: has no place in this model"),
        (
            lambda tensors: tensors.update({"model.norm.weight": torch.zeros(7)}),
            "of shape (7,), config.json requires (48,)",
        ),
        (
            lambda tensors: tensors.update(
                {"model.norm.weight": torch.zeros(48, dtype=torch.int8)}
            ),
            "model.norm.weight is I8",
        ),
    ],
)
def test_a_tensor_too_few_too_many_or_another_is_refused(
    imported, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil, says: str
) -> None:
    _, folder = imported
    tensors = load_file(folder / "theirs/model.safetensors")
    spoil(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    shutil.copyfile(folder / "theirs/config.json", tmp_path / "config.json")
    assert main(["--model", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("theta", [2e6, 1e4])
def test_what_follows_from_other_numbers_is_checked_and_left_out(
    imported, tmp_path: Path, theta: float
) -> None:
    theirs, folder = imported
    tensors = load_file(folder / "theirs/model.safetensors")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    tensors[name] = torch.from_numpy(inverse_frequencies(theta, 16)).to(torch.bfloat16)
    save_file(tensors, tmp_path / "model.safetensors")
    shutil.copyfile(folder / "theirs/config.json", tmp_path / "config.json")
    if theta == theirs.config.rope_parameters["rope_theta"]:
        import_model(tmp_path, tmp_path / "out")
    else:
        with pytest.raises(CannotExpress, match="rope_theta gives"):
            import_model(tmp_path, tmp_path / "out")
