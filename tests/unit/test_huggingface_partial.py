"""The two partial rotations in a config.json: each read and written as itself, and refused where there is none."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config import ModelConfig
from model.huggingface.catalogue import BY_TYPE, FAMILIES, family_of
from model.huggingface.links import interleave, split_halves
from model.huggingface.refusal import CannotExpress
from model.layer_pattern import KindConfig
from model.position.dynamic_ntk import DynamicNtkRope
from model.position.linear import LinearRope
from model.position.rope import Rope
from tests.unit.huggingface_cases import CASES, SIZES, WINDOW, their_model
from tests.unit.test_huggingface_families import largest_difference, our_model
from train.huggingface.export_model import ExportOptions, export_model
from train.huggingface.import_model import import_model

HALF = {"rope_type": "default", "rope_theta": 2e4, "partial_rotary_factor": 0.5}
PROPORTIONAL = {**HALF, "rope_type": "proportional"}
SLICING = [family.model_type for family in FAMILIES if family.rope_rules.slices]
WHOLE = [family.model_type for family in FAMILIES if not family.rope_rules.slices]


def written_by(family: str, rope: Any) -> dict[str, Any]:
    """The config.json of a model of this family whose layers rotate so."""
    recipe = BY_TYPE[family].recipe
    pattern = ["window_rope"] if family == "cohere2" else ["full_rope"]
    model = ModelConfig(
        **{"qk_norm_over": "head", **recipe},
        head_dim=16, num_heads=8, hidden_size=128, layer_pattern=pattern, kinds={pattern[0]: KindConfig(rope=rope)},
    )  # fmt: skip
    return BY_TYPE[family].write(model, 2e4, 64)


@pytest.mark.parametrize(
    ("kind", "parameters", "taken_for"),
    [("phi3", HALF, "proportional"), ("llama", PROPORTIONAL, "ordinary")],
)
def test_a_loader_that_takes_one_partial_rotation_for_the_other_is_noticed(
    kind: str, parameters: dict[str, Any], taken_for: str, tmp_path: Path
) -> None:
    theirs = their_model(kind, {"rope_parameters": parameters})
    theirs.save_pretrained(tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "ours")
    model, base = our_model(tmp_path / "ours")
    (settings,) = model.config.kinds.values()
    own = settings.rope.partial
    assert {own, taken_for} == {"ordinary", "proportional"}
    assert largest_difference(model, base, theirs) < 1e-5
    # Other frequencies, rows of q and k as they were.
    other = KindConfig(rope=Rope(rotary_share=0.5, partial=taken_for))
    kinds = dict.fromkeys(model.config.kinds, other)
    wrong, base = our_model(tmp_path / "ours", kinds=kinds)
    assert largest_difference(wrong, base, theirs) > 1e-2
    # The right frequencies, rows of q and k in the order of the other kind.
    width, other_width = (8, 16) if own == "ordinary" else (16, 8)
    for name, parameter in model.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            parameter.data = interleave(split_halves(parameter.data, 16, width), 16, other_width)
    assert largest_difference(model, base, theirs) > 1e-2


def test_only_the_turned_rows_of_a_head_are_reordered() -> None:
    rows = torch.arange(16)
    theirs = [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
    assert interleave(rows, 8, 8).tolist() == theirs
    assert interleave(rows, 8, 4).tolist() == [
        0,
        2,
        1,
        3,
        *range(4, 8),
        8,
        10,
        9,
        11,
        *range(12, 16),
    ]
    for width in (2, 4, 6, 8):
        assert torch.equal(split_halves(interleave(rows, 8, width), 8, width), rows)


def config_with(kind: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """A config.json of a family, of one layer, whose rotary layers have these `rope_parameters`."""
    family = BY_TYPE[kind]
    case = next(changes for of, changes in CASES.values() if of == kind)
    config = {**SIZES, "model_type": kind, **case, "num_hidden_layers": 1, "pad_token_id": 0}
    kinds = {"layer_types": ["sliding_attention"], "no_rope_layers": [1]}
    one = kinds | {"use_sliding_window": True, "sliding_window": WINDOW, "layer_rope_theta": [2e4]}
    config |= {key: value for key, value in one.items() if key in family.layer_keys}
    if family.rope_rules.scales_queries:
        scale = {"original_max_position_embeddings": 64, "llama_4_scaling_beta": 0.1}
        parameters = parameters | scale
    by_kind = dict.fromkeys(("sliding_attention", "full_attention"), parameters)
    flat = not isinstance(family.default_base, dict)
    return config | {"rope_parameters": parameters if flat else by_kind}


def test_transformers_turns_whole_heads_in_every_family_that_is_refused() -> None:
    """What the refusal says of transformers 5: the key is ignored with rope_type=default, and fails with others."""
    from transformers import AutoConfig, AutoModelForCausalLM

    def made(kind: str, parameters: dict[str, Any]) -> Any:
        config = AutoConfig.for_model(**copy.deepcopy(config_with(kind, parameters)))
        return AutoModelForCausalLM.from_config(config).model

    for kind in WHOLE:
        buffers = dict(made(kind, HALF).rotary_emb.named_buffers())
        found = [buffer for name, buffer in buffers.items() if name.endswith("inv_freq")]
        assert found, kind
        assert all(buffer.numel() == 8 and buffer.count_nonzero() == 8 for buffer in found), kind
        with pytest.raises(RuntimeError, match="must match the size"):
            made(kind, {**HALF, "rope_type": "linear", "factor": 2.0})(torch.arange(8)[None])


@pytest.mark.parametrize("kind", WHOLE)
def test_ordinary_partial_rotation_is_refused_where_whole_heads_turn(kind: str) -> None:
    says = r"partial_rotary_factor=0\.5: attention of this family turns whole"
    with pytest.raises(CannotExpress, match=says):
        family_of({"model_type": kind}).read(config_with(kind, HALF))
    with pytest.raises(CannotExpress, match=r"rotary_share=0\.5 with partial=ordinary"):
        written_by(kind, Rope(rotary_share=0.5))


@pytest.mark.parametrize("kind", SLICING)
def test_ordinary_partial_rotation_is_written_for_both_versions_where_heads_are_sliced(
    kind: str,
) -> None:
    written = written_by(kind, Rope(rotary_share=0.75))
    assert written["rope_parameters"]["partial_rotary_factor"] == 0.75
    assert written["partial_rotary_factor"] == 0.75


def test_a_proportional_rotation_is_refused_where_transformers_has_none() -> None:
    rope = Rope(rotary_share=0.5, partial="proportional")
    with pytest.raises(CannotExpress, match="no rope_type=proportional"):
        written_by("phi3", rope)
    dynamic = DynamicNtkRope(
        factor=2.0, original_length=8, rotary_share=0.5, partial="proportional"
    )
    with pytest.raises(CannotExpress, match="scaling=dynamic_ntk with partial=proportional"):
        written_by("llama", dynamic)
    linear = LinearRope(factor=2.0, rotary_share=0.5, partial="proportional")
    assert written_by("llama", linear)["rope_parameters"] == {**PROPORTIONAL, "factor": 2.0}


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "two shares": ("phi3", {"rope_parameters": HALF, "partial_rotary_factor": 0.75}, "0.5 in rope_parameters, 0.75"),
    "no share": ("phi3", {"partial_rotary_factor": 0}, "must be above 0 and at most 1"),
    "a text": ("phi3", {"partial_rotary_factor": "x"}, "must be a number"),
    "a share above 1": ("llama", {"rope_parameters": {**PROPORTIONAL, "partial_rotary_factor": 1.5}}, "at most 1"),
    "a type of other families": ("phi3", {"rope_parameters": PROPORTIONAL}, "in a phi3 it can be default, longrope"),
    "a scaling of other families": (
        "phi3", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "linear: in a phi3 it can be default",
    ),
    "a proportional factor below 1": ("llama", {"rope_parameters": {**PROPORTIONAL, "factor": 0.5}}, "from 1 up"),
    "another original length inside": (
        "phi3",
        {
            "rope_parameters": {
                "rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
                "original_max_position_embeddings": 32,
            }
        },
        "32 beside the scaling, 4096 outside",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_partial_rotation_that_cannot_be_read_is_refused_in_one_line(case: str) -> None:
    kind, keys, says = REFUSED[case]
    config = {**SIZES, "model_type": kind, **keys}
    with pytest.raises(CannotExpress, match=re.escape(says)) as found:
        family_of(config).read(config)
    (line,) = str(found.value).splitlines()
    assert line.startswith("config.json: ")


def test_a_share_of_one_is_no_partial_rotation() -> None:
    config = {
        **SIZES,
        "model_type": "llama",
        "rope_parameters": {**PROPORTIONAL, "partial_rotary_factor": 1.0},
    }
    assert family_of(config).read(config).model.kinds == {}


def test_longrope_of_phi3_is_called_su_or_yarn_in_early_releases_and_comes_back_for_transformers_4(
    tmp_path: Path,
) -> None:
    """transformers 4 takes three fields, and computes the attention factor from the lengths; 5.17 does not load su."""
    kind, settings = CASES["phi3, longrope of a part"]
    theirs = their_model(kind, settings)
    theirs.save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs/config.json"
    saved = json.loads(file.read_text())
    scaling = saved.pop("rope_parameters")
    scaling = {"type": "su", **{key: scaling[key] for key in ("short_factor", "long_factor")}}
    saved |= {"rope_theta": 1e4, "partial_rotary_factor": 0.75, "rope_scaling": scaling}
    file.write_text(json.dumps(saved))
    import_model(tmp_path / "theirs", tmp_path / "ours")
    model, base = our_model(tmp_path / "ours")
    assert largest_difference(model, base, theirs) < 1e-5
    export_model(tmp_path / "ours", tmp_path / "same", ExportOptions(tokenizer="none"))
    same = json.loads((tmp_path / "same/config.json").read_text())
    assert same["rope_scaling"] == scaling | {"type": "longrope"}
    assert same["rope_parameters"]["rope_type"] == "longrope"
    options = ExportOptions(tokenizer="none", context_length=256)
    export_model(tmp_path / "ours", tmp_path / "back", options)
    now = json.loads((tmp_path / "back/config.json").read_text())
    # The context is longer, so that the factor no longer follows from the lengths: transformers 4 refuses this form.
    assert now["rope_scaling"]["attention_factor"] == pytest.approx(2**0.5)
    longer = family_of(now).read(now)
    assert longer.model.kinds == model.config.kinds


@pytest.mark.parametrize("kind", ["gemma3_text", "olmo3"])
def test_transformers_fails_at_the_second_long_input_with_longrope_by_kind_of_layer(
    kind: str,
) -> None:
    """Why LongRoPE by kind of layer is refused, and dynamic NTK is not."""
    from transformers import AutoConfig, AutoModelForCausalLM

    long = {"rope_type": "longrope", "rope_theta": 2e4, "original_max_position_embeddings": WINDOW}
    long |= {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "factor": 2.0}
    config = AutoConfig.for_model(**config_with(kind, long))
    model = AutoModelForCausalLM.from_config(config).model
    text = torch.arange(2 * WINDOW)[None]
    model(text)
    with pytest.raises(UnboundLocalError, match="long_inv_freq"):
        model(text)
