"""EXAONE 4 and Granite with windows: small windows, layers without rotation, bases of single layers, sinks."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from model.config import ModelConfig
from model.huggingface.catalogue import BY_TYPE, family_for
from model.huggingface.factors import inverse_of
from model.huggingface.refusal import CannotExpress
from model.layer_pattern import KindConfig, expand_pattern
from model.position.rope import Rope
from model.position.yarn import YarnRope
from tests.unit.huggingface_cases import CASES, LENGTHS, SIZES, WINDOW, their_model
from tests.unit.test_huggingface_families import our_logits, our_model, texts, their_logits
from train.checkpointing.state import read_state
from train.huggingface.export_model import ExportOptions, export_model
from train.huggingface.import_model import import_model

SWA = BY_TYPE["granite_swa"]
# RNoPE-SWA with small windows: sequential blocks, every fourth layer full and without rotation, sinks.
HYBRID = ModelConfig(**SWA.recipe, num_layers=8, window=128)


@pytest.mark.parametrize("case", ["exaone4", "granite_swa as rnope-swa"])
def test_a_window_off_by_one_is_noticed_where_it_matters(case: str, tmp_path: Path) -> None:
    kind, settings = CASES[case]
    theirs = their_model(kind, settings)
    theirs.save_pretrained(tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "ours")
    for window in (WINDOW - 1, WINDOW + 1):
        model, base = our_model(tmp_path / "ours", window=window)
        found = zip(texts(), our_logits(model, base, texts()), strict=True)
        errors = [float((ours - their_logits(theirs, text)).abs().max()) for text, ours in found]
        for length, error in zip(LENGTHS, errors, strict=True):
            assert (error > 1e-3) == (length > min(window, WINDOW)), (window, length, error)


def test_the_small_window_hybrid_with_sinks_is_a_granite_with_windows() -> None:
    assert family_for(HYBRID, 1e4) is SWA
    written = SWA.write(HYBRID, 1e4, 4096)
    assert written["layer_types"] == (["sliding_attention"] * 3 + ["full_attention"]) * 2
    assert written["layer_rope_theta"] == [1e4, 1e4, 1e4, 0.0] * 2
    assert written["sliding_window"] == 128
    assert written["attention_multiplier"] == pytest.approx(32**-0.5, rel=1e-15)
    # Without sinks SmolLM3 is enough.
    assert family_for(dataclasses.replace(HYBRID, sinks=False), 1e4).model_type == "smollm3"


@pytest.mark.parametrize(
    ("family", "changes", "says"),
    [
        ("granite_swa", {"sinks": False}, "model.sinks=False: granite_swa has only True"),
        (
            "granite_swa",
            {"kinds": {"full_nope": KindConfig(sinks=False)}},
            "model.kinds: different sinks (True of window_rope, False of full_nope)",
        ),
        (
            "granite_swa",
            {
                "layer_pattern": ["window_rope", "near"],
                "kinds": {"near": KindConfig(like="window_rope", rope=YarnRope(factor=2.0))},
            },
            "model.kinds.near.rope: differs",
        ),
        ("granite", {"sinks": False}, "granite has no such layer"),
        (
            "exaone4",
            {"layer_pattern": ["window_rope", "full_rope"]},
            "exaone4 rotates full layers only where every layer is full",
        ),
        ("exaone4", {"layer_pattern": ["window_nope", "full_nope"]}, "exaone4 has no such layer"),
    ],
)
def test_what_such_a_family_cannot_take_is_refused_by_name(
    family: str, changes: dict[str, Any], says: str
) -> None:
    recipe = dict(BY_TYPE[family].recipe)
    model = dataclasses.replace(HYBRID, **{"sinks": False, **recipe, **changes})
    with pytest.raises(CannotExpress, match=re.escape(says)):
        BY_TYPE[family].write(model, 1e4, 64)


def test_a_base_of_every_layer_becomes_kinds_that_layers_with_it_share() -> None:
    full, window = "full_attention", "sliding_attention"
    config = {
        **SIZES,
        "model_type": "granite_swa",
        "num_hidden_layers": 7,
        "layer_types": [full, window, window, window, full, window, full],
        "layer_rope_theta": [0, 3e3, 2e4, 2e4, 5e5, 0.0, 5e5],
    }
    found = SWA.read(config)
    assert found.rope_base == 5e5  # the schedule's: of the full layers
    assert found.model.layer_pattern == [
        "full_nope", "window_rope_2", "window_rope", "window_rope", "full_rope", "window_nope", "full_rope",
    ]  # fmt: skip
    assert found.model.kinds == {
        "window_rope": KindConfig(rope=Rope(base=2e4)),
        "window_rope_2": KindConfig(like="window_rope", rope=Rope(base=3e3)),
    }
    assert SWA.write(found.model, 5e5, 64)["layer_rope_theta"] == config["layer_rope_theta"]
    # A schedule that raises the base raises that of the layers that follow it.
    raised = SWA.write(found.model, 9e6, 64)["layer_rope_theta"]
    assert raised == [0, 3e3, 2e4, 2e4, 9e6, 0.0, 9e6]


@pytest.mark.parametrize(
    "bases", [[1e4] * 3, [1e4] * 5, [1e4, "1e4", 1e4, 0], [1e4, -1, 0, 0], [1, 0, 0, 0], [True] * 4]
)
def test_bases_of_layers_that_are_none_are_refused(bases: list[Any]) -> None:
    config = {**SIZES, "model_type": "granite_swa", "layer_rope_theta": bases}
    with pytest.raises(
        CannotExpress, match="layer_rope_theta: must be a list of num_hidden_layers=4"
    ):
        SWA.read(config)


def test_layers_of_all_bases_are_imported_and_exported_word_for_word(tmp_path: Path) -> None:
    kind, settings = CASES["granite_swa, a base for every layer"]
    their_model(kind, settings).save_pretrained(tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "ours")
    bases = read_state(tmp_path / "ours").rope_base
    assert bases == {"full": 5e5, "full_rope_2": 4e5, "window": 2e4, "window_rope_2": 3e3}
    _, notes = export_model(tmp_path / "ours", tmp_path / "back", ExportOptions(tokenizer="none"))
    assert (
        "transformers 4 cannot read this model: it has no granite_swa; use transformers 5" in notes
    )


def test_a_factor_comes_back_as_the_number_that_was_written() -> None:
    for number in (0.0078125, 0.1, 0.13, 0.22, 1 / 3, 12.0, 49.0, 1e-9, 7e8):
        for root in (128**0.5, 80**0.5, 3.0):
            factor = number * root
            again = inverse_of(lambda given, root=root: given * root, factor, factor / root)
            assert again * root == factor
            assert len(repr(again)) <= len(repr(number))
        assert inverse_of(lambda given: 1.0 / given, 1.0 / number, 1.0 / (1.0 / number)) == number


def test_every_layer_of_a_model_read_from_its_pattern_has_its_window() -> None:
    config = {**SIZES, "model_type": "exaone4", "sliding_window": 8, "sliding_window_pattern": 2}
    specs = expand_pattern(BY_TYPE["exaone4"].read(config).model)
    assert [(spec.window, spec.rope is not None) for spec in specs] == [
        (8, True),
        (None, False),
    ] * 2
