"""Ministral 3's scale of queries by position in a config.json, and windows off by one in Phi-3 and Ministral 3."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from model.config import ModelConfig
from model.huggingface.catalogue import BY_TYPE, family_of
from model.huggingface.refusal import CannotExpress
from model.layer_pattern import KindConfig
from model.position.scales.llama4 import Llama4Scale
from model.position.scales.ministral3 import Ministral3Scale
from model.position.yarn import YarnRope
from tests.unit.huggingface_cases import CASES, LENGTHS, SIZES, WINDOW, their_model
from tests.unit.test_huggingface_families import our_logits, our_model, texts, their_logits
from train.huggingface.export_model import ExportOptions, export_model
from train.huggingface.import_model import import_model

SCALE = Ministral3Scale(beta=0.2, original_length=16)
YARN = YarnRope(factor=4.0, original_length=16)
LLAMA = {"block": "sequential", "norm": "rmsnorm", "layer_pattern": ["full_rope"]}


def model_with(**kind: Any) -> ModelConfig:
    return ModelConfig(**LLAMA, kinds={"full_rope": KindConfig(**kind)})


@pytest.mark.parametrize("case", ["phi3", "ministral3"])
def test_a_window_or_a_block_of_the_scale_off_by_one_is_noticed(case: str, tmp_path: Path) -> None:
    kind, settings = CASES[case]
    theirs = their_model(kind, settings)
    theirs.save_pretrained(tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "ours")

    def errors(**changes: Any) -> list[float]:
        model, base = our_model(tmp_path / "ours", **changes)
        found = zip(texts(), our_logits(model, base, texts()), strict=True)
        return [float((ours - their_logits(theirs, text)).abs().max()) for text, ours in found]

    assert max(errors()) < 1e-5
    for window in (WINDOW - 1, WINDOW + 1):
        reaches = min(window, WINDOW)
        found = [error > 1e-2 for error in errors(window=window)]
        assert found == [length > reaches for length in LENGTHS]
    if case == "phi3":
        return
    model, _ = our_model(tmp_path / "ours")
    (settings_of_kind,) = model.config.kinds.values()
    scale = settings_of_kind.position_scale
    assert scale == Ministral3Scale(beta=0.7, original_length=WINDOW)
    for length in (WINDOW - 1, WINDOW + 1):
        other = dataclasses.replace(scale, original_length=length)
        kinds = {"window_rope": dataclasses.replace(settings_of_kind, position_scale=other)}
        found = [error > 1e-3 for error in errors(kinds=kinds)]
        assert found == [text > min(length, WINDOW) for text in LENGTHS]


def test_an_export_of_ministral_3_says_that_transformers_4_has_none_and_keeps_every_tensor(
    tmp_path: Path,
) -> None:
    kind, settings = CASES["ministral3, unscaled"]
    their_model(kind, settings).save_pretrained(tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "ours")
    options = ExportOptions(tokenizer="none", context_length=512)
    architecture, notes = export_model(tmp_path / "ours", tmp_path / "back", options)
    assert architecture == "Ministral3ForCausalLM"
    assert any(
        "transformers 4 cannot read this model: it has no ministral3" in note for note in notes
    )
    now = json.loads((tmp_path / "back/config.json").read_text())
    assert now["rope_parameters"] == {
        "rope_type": "default", "rope_theta": 1e6, "original_max_position_embeddings": 2 * WINDOW,
        "llama_4_scaling_beta": 1.1,
    }  # fmt: skip


def test_a_scale_of_queries_is_written_by_the_one_family_that_has_it() -> None:
    written = BY_TYPE["ministral3"].write(model_with(rope=YARN, position_scale=SCALE), 1e6, 64)
    assert written["rope_parameters"]["llama_4_scaling_beta"] == 0.2
    assert written["rope_parameters"]["original_max_position_embeddings"] == 16
    assert BY_TYPE["ministral3"].read(written).model.kinds["full_rope"].position_scale == SCALE
    unscaled = BY_TYPE["ministral3"].write(model_with(rope=YARN), 1e6, 64)
    assert unscaled["rope_parameters"]["llama_4_scaling_beta"] == 0.0
    assert BY_TYPE["ministral3"].read(unscaled).model.kinds == {"full_rope": KindConfig(rope=YARN)}


@pytest.mark.parametrize(
    ("family", "model", "says"),
    [
        ("llama", model_with(position_scale=SCALE), "llama does not scale queries by position"),
        ("ministral3", model_with(position_scale=Llama4Scale()), "(llama4), which no family here has"),
        (
            "ministral3",
            model_with(rope=dataclasses.replace(YARN, original_length=32), position_scale=SCALE),
            "one length for it and for rope.original_length=32",
        ),
        (
            "smollm3",
            dataclasses.replace(
                ModelConfig(**LLAMA),
                layer_pattern=["full_nope"],
                kinds={"full_nope": KindConfig(position_scale=SCALE)},
            ),
            "full_nope.position_scale: the queries of these layers",
        ),
    ],
)  # fmt: skip
def test_a_scale_that_a_family_has_not_is_refused(
    family: str, model: ModelConfig, says: str
) -> None:
    with pytest.raises(CannotExpress, match=re.escape(says)):
        BY_TYPE[family].write(model, 1e6, 64)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"llama_4_scaling_beta": None}, "llama_4_scaling_beta=None: must be a number"),
        ({"original_max_position_embeddings": None}, "must be a number of tokens beside"),
        ({"rope_type": "dynamic", "factor": 2.0}, "transformers ignores it in dynamic scaling"),
    ],
)
def test_a_scale_without_its_numbers_is_refused(changes: dict[str, Any], says: str) -> None:
    given = {
        "rope_type": "default",
        "llama_4_scaling_beta": 0.1,
        "original_max_position_embeddings": 16,
    }
    config = {**SIZES, "model_type": "ministral3", "rope_parameters": given | changes}
    with pytest.raises(CannotExpress, match=re.escape(says)):
        family_of(config).read(config)


def test_a_config_json_without_rotation_has_that_of_the_class() -> None:
    config = {**SIZES, "model_type": "ministral3", "max_position_embeddings": 262144}
    (kind,) = family_of(config).read(config).model.kinds.values()
    assert kind.position_scale == Ministral3Scale(beta=0.1, original_length=16384)
    assert kind.rope == YarnRope(factor=16.0, original_length=16384, attention_factor=1.0)
