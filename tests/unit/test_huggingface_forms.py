"""Which family takes which form: the table of docs/huggingface.md, and what `--check` and a finished run say of it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from model.config import ModelConfig
from model.huggingface.catalogue import BY_TYPE, FAMILIES
from model.huggingface.forms.form import Form
from model.huggingface.refusal import CannotExpress
from model.huggingface.takers import FORMS, refusal, small_models, takers
from model.layer_pattern import KindConfig
from model.position.yarn import YarnRope
from tests.unit.family_table import PAGE, page
from train.configuration.compose import compose_run

ROWS = [form for forms in FORMS.values() for form in forms]
# Written as something else, with the same function.
REWRITTEN = (
    "NTK-aware, written as another base",
    "static gates, folded into the output projection",
)


def given_to(form: Form, model_type: str) -> Iterator[ModelConfig]:
    for model in small_models(model_type):
        yield from form.give(model)


def test_the_page_has_the_table_that_the_command_makes() -> None:
    text = PAGE.read_text()
    assert page(text) == text, "run python -m tests.unit.family_table"


@pytest.mark.parametrize("form", ROWS, ids=lambda form: form.name)
def test_a_form_that_a_family_takes_is_in_the_config_json_that_it_writes(form: Form) -> None:
    given = [model for family in FAMILIES for model in given_to(form, family.model_type)]
    if form.name == REWRITTEN[1]:
        assert not any(form.has(model) for model in given)
        return
    assert given
    assert all(form.has(model) and not model.problems() for model in given if possible(model))
    for family in map(BY_TYPE.__getitem__, takers(form)):
        for model in given_to(form, family.model_type):
            try:
                written = family.write(model, 1e4, 64)
            except CannotExpress:
                continue
            assert form.has(family.read(written).model) == (form.name not in REWRITTEN), written


def possible(model: ModelConfig) -> bool:
    """Whether the block can have these norms: a form changes one field, and some fields need another."""
    return model.halves == 2 or model.norm_at == "before"


def test_every_family_has_a_small_model_and_every_form_a_name_of_its_own() -> None:
    assert all(small_models(family.model_type) for family in FAMILIES)
    assert len({form.name for form in ROWS}) == len(ROWS)


def test_what_no_family_takes_is_named() -> None:
    plain = BY_TYPE["llama"].read(
        {
            "model_type": "llama", "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "rope_theta": 1e4,
        }
    ).model  # fmt: skip
    assert refusal(plain, 1e4) == ""
    assert refusal(replace(plain, static_gate="head"), 1e4) == ""
    paper = KindConfig(rope=YarnRope(factor=2.0, original_length=8, ramp="paper"))
    strange = replace(plain, gate="sigmoid", kinds={"full_rope": paper})
    assert refusal(strange, 1e4) == (
        "no Hugging Face family takes YaRN with the paper's ramp (model.kinds.NAME.rope.scaling=yarn .ramp=paper), "
        "sigmoid gate over heads (model.gate=sigmoid model.gate_over=head)"
    )
    together = replace(plain, sinks=True, attention_softcap=30.0)
    assert "takes all forms of this model together (the nearest, " in refusal(together, 1e4)


def test_a_recipe_without_a_family_hears_which_of_its_forms_none_takes() -> None:
    said = refusal(compose_run(["recipe=irope", "model.num_layers=6"]).model, 1e4)
    named = re.findall(r"(?:takes|,) ([^(]+) \(", said)
    assert named == [
        "attention chunks",
        "the scale of Llama 4",
        "QK-norm after the rotation",
        "QK-norm without a weight",
        "QK-norm in some layers alone",
    ]


def test_the_judgement_needs_no_torch() -> None:
    code = "import sys, model.huggingface.takers; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
