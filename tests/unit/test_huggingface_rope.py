"""Rotation as a config.json says it: read as transformers 4 and 5 read it, or refused where they differ."""

import dataclasses
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from model.huggingface import rope_export
from model.huggingface.catalogue import BY_TYPE, family_of
from model.huggingface.refusal import CannotExpress
from model.layer_pattern import KindConfig
from model.position.dynamic_ntk import DynamicNtkRope
from model.position.linear import LinearRope
from model.position.longrope import LongRope
from model.position.rope import Rope
from model.position.yarn import YarnRope
from tests.unit.huggingface_cases import CASES, SIZES, their_model
from train.configuration.typed_model import typed_model
from train.huggingface.export_model import ExportOptions, export_model
from train.huggingface.import_model import import_model

GPT_OSS = {"num_local_experts": 1, "num_experts_per_tok": 1}
YARN = {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512}

DYNAMIC = {"type": "dynamic", "factor": 2.0}
LONGROPE = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


def read(kind: str, **keys: Any) -> tuple[float, Rope]:
    """Base and scaling of the full layers, or of the windowed ones where there are only those."""
    extra = GPT_OSS if kind == "gpt_oss" else {}
    config = {**SIZES, "model_type": kind, "layer_types": ["full_attention"] * 4, **extra, **keys}
    if kind in ("llama", "mistral", "olmo2"):
        del config["layer_types"]
    if kind == "mistral":
        config["sliding_window"] = None
    found = family_of(config).read(config)
    typed_model(dataclasses.asdict(found.model), "config.json")  # as the import does
    return found.rope_base, found.model.kinds.get("full_rope", KindConfig()).rope


def test_a_scaling_that_transformers_has_not_is_refused():
    rope = Rope(resonance=True)
    with pytest.raises(CannotExpress, match="resonance"):
        rope_export.write(rope, 1e4, 32)
    first = LongRope(
        factor=2.0, original_length=8, short_factors=[1.0], long_factors=[2.0], unscaled_tokens=4
    )
    with pytest.raises(CannotExpress, match="unscaled_tokens=4"):
        rope_export.write(first, 1e4, 2)


def test_what_is_written_stands_before_what_the_family_has_by_default():
    base, rope = read("gpt_oss", rope_theta=2e5, rope_scaling={**YARN, "beta_fast": 16.0})
    assert base == 2e5
    assert rope == YarnRope(factor=8.0, original_length=512, beta_fast=16.0)
    base, rope = read("gpt_oss")
    assert (base, rope.factor, rope.truncate) == (150_000.0, 32.0, False)
    assert read("gpt_oss", rope_parameters={"rope_type": "default"})[1] == Rope()


def test_scaling_beside_rope_parameters_takes_their_place_where_the_base_is_the_same():
    new = {"rope_type": "default", "rope_theta": 1e6}
    scaling = {**YARN, "rope_theta": 1e6}
    for keys in (
        {"rope_scaling": scaling},
        {"rope_scaling": YARN, "rope_theta": 1e6},
        {"rope_scaling": scaling, "rope_theta": 1e6},
    ):
        base, rope = read("qwen3", rope_parameters=new, **keys)
        assert (base, rope.scaling, rope.factor) == (1e6, "yarn", 8.0)
    # A family by kind of layer gives it to the full layers.
    by_kind = {"full_attention": new, "sliding_attention": {"rope_theta": 1e4}}
    base, rope = read(
        "gemma3_text", rope_parameters=by_kind, rope_scaling={"rope_type": "linear", "factor": 8.0}
    )
    assert (base, rope) == (1e6, LinearRope(factor=8.0))  # fmt: skip


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a scaling that would take the base along": (
        "qwen3", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "rope_scaling": YARN},
        "give 10000 and 1000000.0",
    ),
    "another base outside": (
        "llama", {"rope_parameters": {"rope_theta": 1e6}, "rope_theta": 1e4}, "give 1e+06 and 10000.0",
    ),
    "another base of the windows outside": (
        "gemma3_text",
        {"rope_parameters": {"sliding_attention": {"rope_theta": 5e3}}, "rope_local_base_freq": 1e4},
        "give 5000 and 10000.0",
    ),
    "a base of which one version gives a part": ("olmo3", {"rope_theta": 1e6}, "of the full ones only"),
    "no base": ("llama", {"rope_theta": None}, "rope_theta=None: must be a number above 1"),
    "no base inside": ("llama", {"rope_parameters": {"rope_theta": None}}, "must be a number above 1"),
    "a text as base": ("llama", {"rope_theta": "10000"}, "must be a number above 1"),
    "a truth as base": ("llama", {"rope_theta": True}, "must be a number above 1"),
    "a base of 1": ("llama", {"rope_theta": 1}, "must be a number above 1"),
    "a base that is no number": ("llama", {"rope_theta": float("nan")}, "must be a number above 1"),
    "a list as scaling": ("llama", {"rope_scaling": [1]}, "rope_scaling=[1]: must be an object or null"),
    "a list as parameters": ("llama", {"rope_parameters": [1]}, "must be an object or null"),
    "a text for a kind": ("gemma3_text", {"rope_parameters": {"full_attention": "x"}}, "must be an object"),
    "flat where kinds are read": ("gemma3_text", {"rope_parameters": {"rope_theta": 1e6}}, "by kind of layer"),
    "kinds where flat is read": ("llama", {"rope_parameters": {"full_attention": {}}}, "does not read"),
    "two names of a type": (
        "llama", {"rope_scaling": {"type": "linear", "rope_type": "default", "factor": 2.0}}, "remove one",
    ),
    "a type of each form": (
        "gemma3_text",
        {
            "rope_parameters": {"full_attention": {"rope_type": "default"}},
            "rope_scaling": {"type": "linear", "factor": 8.0},
        },
        "remove one",
    ),
    "no factor": ("llama", {"rope_scaling": {"type": "linear"}}, "rope factor=None: must be a number"),
    "a factor below 1": ("llama", {"rope_scaling": {"type": "linear", "factor": 0.5}}, "from 1 up"),
    "a factor that is no number": ("llama", {"rope_scaling": {"type": "linear", "factor": "2"}}, "must be a number"),
    "half of llama3": (
        "llama",
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64}},
        "low_freq_factor=None",
    ),
    "two original lengths": (
        "llama", {"rope_scaling": YARN, "original_max_position_embeddings": 64}, "512 beside the scaling, 64 outside",
    ),
    "no original length": ("llama", {"rope_scaling": {"type": "yarn", "factor": 2.0}, "max_position_embeddings": None},
        "must be a number of tokens"),
    "an original length below a turn": (
        "llama", {"rope_scaling": {**YARN, "original_max_position_embeddings": 6}}, "no pair makes",
    ),
    "limits reversed": ("llama", {"rope_scaling": {**YARN, "beta_fast": 1.0, "beta_slow": 32.0}}, "below beta_fast"),
    "a text as limit": ("llama", {"rope_scaling": {**YARN, "beta_fast": "x"}}, "beta_fast='x': must be a number"),
    "no attention": ("llama", {"rope_scaling": {**YARN, "attention_factor": 0.0}}, "must be above 0"),
    "another length to grow from": (
        "llama", {"rope_scaling": {**DYNAMIC, "original_max_position_embeddings": 32}},
        "takes max_position_embeddings=64",
    ),
    "longrope of a kind": ("olmo3", {"rope_theta": 5e5, "rope_scaling": LONGROPE}, "fails at the second input"),
    "a length that transformers 4 does not read": (
        "llama", {"rope_scaling": {**LONGROPE, "original_max_position_embeddings": 16}}, "outside too",
    ),
    "two factors of attention": (
        "llama", {"rope_scaling": {**LONGROPE, "factor": 2.0}, "original_max_position_embeddings": 16},
        "transformers 4 takes 4 for longrope",
    ),
    "no list of factors": (
        "llama", {"rope_scaling": {**LONGROPE, "long_factor": 2.0}, "original_max_position_embeddings": 16},
        "must be a list of numbers",
    ),
    "a factor for too few pairs": (
        "llama", {"rope_scaling": {**LONGROPE, "long_factor": [2.0]}, "original_max_position_embeddings": 16},
        "needs a factor for each",
    ),
    "nothing or yarn": ("gpt_oss", {"rope_scaling": None}, "nothing in transformers 4, and yarn"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_versions_read_differently_or_not_at_all_is_refused_in_one_line(case):
    kind, keys, says = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(says)) as found:
        read(kind, **keys)
    (line,) = str(found.value).splitlines()
    assert line.startswith("config.json: ")


def test_a_factor_of_one_is_no_scaling():
    assert read("llama", rope_scaling={"type": "linear", "factor": 1.0})[1] == Rope()
    own = read("llama", rope_scaling={**YARN, "factor": 1.0, "attention_factor": 1.2})[1]
    assert (own.scaling, own.attention_factor) == ("yarn", 1.2)


METHODS = [
    DynamicNtkRope(factor=1.0, original_length=8),
    DynamicNtkRope(factor=4.0, original_length=8),
    LongRope(factor=4.0, original_length=8, short_factors=[1.0] * 8, long_factors=[2.0] * 8),
    LongRope(factor=3.0, original_length=8, short_factors=[1.1] * 8, long_factors=[2.0] * 8, attention_factor=1.5),
]  # fmt: skip


@pytest.mark.parametrize("rope", METHODS)
def test_a_scaling_by_length_comes_back_as_it_was_with_the_tensors(rope, tmp_path):
    length = rope.original_length if rope.scaling == "dynamic_ntk" else 64
    keys = rope_export.written_flat(rope_export.write(rope, 7e4, 16), length)
    assert read("llama", **keys) == (7e4, rope)
    theirs, ours, back = (tmp_path / name for name in ("theirs", "ours", "back"))
    their_model("llama", {"max_position_embeddings": length, **keys}).save_pretrained(theirs)
    import_model(theirs, ours)
    export_model(ours, back, ExportOptions(tokenizer="none", context_length=256))
    now = json.loads((back / "config.json").read_text())
    assert now["max_position_embeddings"] == (256 if length == 64 else length)
    assert read("llama", **now)[1] == rope
    was, is_now = (load_file(folder / "model.safetensors") for folder in (theirs, back))
    assert was.keys() == is_now.keys()
    assert all(was[name].equal(is_now[name]) for name in was)


def test_an_original_length_outside_does_not_come_back_beside_another_scaling():
    origin = {"original_max_position_embeddings": 512, "initializer_range": 0.1}
    assert BY_TYPE["llama"].carried(origin, context_length=2048) == {"initializer_range": 0.1}


STRANGE = st.sampled_from(
    [None, True, False, 0, 1, -1, 2**70, 0.5, float("nan"), float("inf"), "", "x", [], [1], [None], {}, {"a": 1}]
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@settings(derandomize=True, deadline=None, max_examples=60)
@given(data=st.data())
def test_any_value_of_any_key_is_read_or_refused(case, data):
    kind, changes = CASES[case]
    config = {**SIZES, "model_type": kind, **changes}
    family = family_of(config)
    keys = {row.theirs for row in family.rows} | set(family.layer_keys) | set(config)
    keys |= {"rope_parameters", "rope_scaling", "rope_theta", "rope_local_base_freq"}
    config[data.draw(st.sampled_from(sorted(keys - {"model_type"})))] = data.draw(STRANGE)
    inner = config.get("rope_parameters")
    if isinstance(inner, dict) and inner and data.draw(st.booleans()):
        config["rope_parameters"] = {
            **inner,
            data.draw(st.sampled_from(sorted(inner))): data.draw(STRANGE),
        }
    try:
        typed_model(dataclasses.asdict(family.read(config).model), "config.json")
    except ValueError as error:
        assert all(line.startswith("config.json: ") for line in str(error).splitlines())
