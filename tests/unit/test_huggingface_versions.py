"""Exported models in transformers 4 and 5: the same logits as here, for every family and every scaling.

An imported model of each family gets another base and scaling, as a run with `checkpoint.allow_changes` gives it,
and is exported. transformers 5 is this environment's; transformers 4 stands in a folder beside it (launch/install.py)
and reads all models in one process.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from data.files import seal
from data.tokenizer.convert import tokenizer_files
from data.tokenizer.sentencepiece_model import train
from model.config import ModelConfig
from model.layer_pattern import KindConfig
from model.position.dynamic_ntk import DynamicNtkRope
from model.position.linear import LinearRope
from model.position.llama3 import Llama3Rope
from model.position.longrope import LongRope
from model.position.ntk import NtkRope
from model.position.rope import Rope
from model.position.yarn import YarnRope
from tests.unit.huggingface_cases import CASES, their_model
from tests.unit.test_huggingface_families import (
    our_model,
    ours_at_their_length,
    texts,
    their_logits,
)
from train.checkpointing.state import FORMAT, RunState, read_state
from train.configuration.typed_model import typed_model
from train.huggingface.export_model import main as export
from train.huggingface.import_model import import_model
from train.schedule.rope_base import bases_by_kind

ROOT = Path(__file__).parent.parent.parent
TRANSFORMERS_4 = Path(sys.prefix) / "transformers4"
# float32 logits of a size of a few, sums in another order.
TOLERANCE = 1e-5
# LongRoPE's factors, one for each pair of a head of 16.
SHORT = [1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.35]
LONG = [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0]

ROTATIONS = {
    "a base": Rope(),
    "linear": LinearRope(factor=3.0),
    "ntk": NtkRope(factor=4.0),
    "yarn": YarnRope(factor=4.0, original_length=32),
    "yarn of its own": YarnRope(factor=4.0, original_length=64, beta_fast=12.0, beta_slow=2.0, attention_factor=1.3
    ),
    "yarn, whole": YarnRope(factor=4.0, original_length=64, truncate=False),
    "llama3": Llama3Rope(factor=4.0, original_length=32, low_frequency=1.5),
    "dynamic": DynamicNtkRope(factor=4.0, original_length=8),
    "longrope": LongRope(factor=4.0, original_length=8, short_factors=SHORT, long_factors=LONG),
    # The attention factor that follows from the lengths.
    "longrope of lengths": LongRope(factor=16.0, original_length=8, short_factors=SHORT, long_factors=LONG),
    "proportional": Rope(rotary_share=0.5, partial="proportional"),
    "proportional, linear": LinearRope(factor=3.0, rotary_share=0.5, partial="proportional"),
    "part": Rope(rotary_share=0.75),
    "part, ntk": NtkRope(factor=4.0, rotary_share=0.75),
    "part, longrope": LongRope(
        factor=16.0, original_length=8, short_factors=SHORT[:6], long_factors=LONG[:6], rotary_share=0.75
    ),
}  # fmt: skip
BASE = 70_000.0
STRINGS = ["one  three\n\treturn 31", "</s> \u2581\u4e2d\ufb01e\u0301"]
# Models of transformers that have windowed layers where the family has any.
FAMILIES = {
    "cohere2": "cohere2", "llama": "llama 3, tied, biases", "mistral": "mistral", "ministral": "ministral",
    "qwen2": "qwen2", "qwen3": "qwen3", "smollm3": "smollm3 as rnope-swa", "gemma3_text": "gemma3", "olmo2": "olmo2",
    "olmo3": "olmo3", "gpt_oss": "gpt-oss", "exaone4": "exaone4", "gemma2": "gemma2",
    "cohere": "cohere, a norm for each head, untied, biases", "phi3": "phi3",
    "granite": "granite", "granite_swa": "granite_swa as rnope-swa",
}  # fmt: skip
BY_KIND = ("gemma3_text", "olmo3")
FLAT_ONLY = ("yarn, whole", "longrope", "longrope of lengths")
PHI3 = ("a base", "ntk", "longrope", "longrope of lengths", "part", "part, ntk", "part, longrope")
FEW = [
    ("cohere2", "a base"), ("llama", "llama3"), ("mistral", "yarn"), ("ministral", "a base"), ("qwen2", "linear"),
    ("qwen3", "yarn of its own"), ("smollm3", "ntk"), ("gemma3_text", "linear"), ("olmo2", "linear"),
    ("olmo3", "yarn"), ("gpt_oss", "yarn, whole"), ("olmo2", "llama3"), ("olmo3", "windows"),
    ("gemma2", "yarn"), ("cohere", "longrope"),
    ("granite", "yarn of its own"), ("granite_swa", "linear"),
    ("qwen3", "dynamic"), ("smollm3", "longrope"), ("exaone4", "llama3"), ("phi3", "part, longrope"),
    ("phi3", "longrope"), ("mistral", "proportional"), ("olmo3", "dynamic"),
]  # fmt: skip


@dataclass(frozen=True)
class Exported:
    """A checkpoint and the folder it was exported into; note: what the command said besides."""

    checkpoint: Path
    folder: Path
    note: str


def rotated(state: RunState, model: ModelConfig, rotation: str) -> RunState:
    """The state of a run that gave the model another rotation."""
    family = state.origin["config"]["model_type"]
    if rotation == "windows":  # scaled by themselves
        ropes = {"window_rope": dataclasses.replace(ROTATIONS["linear"], base=9e3)}
    elif rotation == "a base of windows":
        ropes = {"window_rope": Rope(base=9e3)}
    elif family == "gemma3_text":
        ropes = {"window_rope": Rope(base=9e3), "full_rope": ROTATIONS[rotation]}
    elif family == "olmo3":
        ropes = {"full_rope": ROTATIONS[rotation]}
    else:
        ropes = dict.fromkeys(("window_rope", "full_rope"), ROTATIONS[rotation])
    kinds = {
        name: KindConfig(rope=rope)
        for name, rope in ropes.items()
        if name in model.layer_pattern and rope != Rope()
    }
    changed = dataclasses.replace(model, kinds=kinds)
    bases = bases_by_kind(changed, BASE)
    return dataclasses.replace(state, model=dataclasses.asdict(changed), rope_base=bases)


def exported(folder: Path, family: str, rotation: str, capsys: Any) -> Exported:
    """A model of this family with this rotation, exported by the command."""
    imported = folder / family
    if not imported.exists():
        kind, settings = CASES[FAMILIES[family]]
        their_model(kind, settings).save_pretrained(folder / f"{family} of transformers")
        import_model(folder / f"{family} of transformers", imported)
    checkpoint, output = folder / f"{family}, {rotation}", folder / f"{family}, {rotation}, out"
    checkpoint.mkdir()
    for file in imported.glob("*.*"):
        (checkpoint / file.name).symlink_to(file)
    state = read_state(imported)
    content = dataclasses.asdict(rotated(state, typed_model(state.model), rotation))
    (checkpoint / "state.json").unlink()
    (checkpoint / "state.json").write_bytes(seal({"format": FORMAT, **content}))
    arguments = ["--checkpoint", str(checkpoint), "--output", str(output), "--tokenizer", "none"]
    capsys.readouterr()
    assert export([*arguments, "--context-length", "128"]) == 0, capsys.readouterr().err
    return Exported(checkpoint, output, capsys.readouterr().err)


def read_by_transformers_4(models: list[Exported], output: Path) -> tuple[dict[str, Any], Any]:
    """Logits under "model/text", and what the process said of errors; a tokenizer is read there too."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ropewalk"]
    if not TRANSFORMERS_4.is_dir():
        pytest.skip(f"{TRANSFORMERS_4} is not there; `make setup` installs transformers 4 into it")
    job = {
        "folders": [str(model.folder) for model in models],
        "texts": [text.tolist() for text in texts()],
        "output": str(output),
        "tokenizer": str(output.parent),
        "strings": STRINGS,
    }
    sentences = [f"one two three {i * i:x} def f{i}(x):\n    return x\n" for i in range(200)]
    made = train(sentences, output.parent / "tokens", 320)
    for name, content in tokenizer_files(made, 64).items():
        (output.parent / name).write_text(content)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("logits_of_models.py"))],
        input=json.dumps(job), capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(TRANSFORMERS_4), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    found = {f"{name}=={version}" for name, version in said["versions"].items()}
    assert found <= set(wanted["transformers4"]), "`make setup` installs the pinned versions"
    assert said["ids"] == [made.encode(string).tolist() for string in STRINGS]
    return load_file(output), said


def check(cases: list[tuple[str, str]], folder: Path, capsys: Any) -> None:
    """Logits of all cases here, in transformers 5 and in transformers 4."""
    from transformers import AutoModelForCausalLM

    models = [exported(folder, family, rotation, capsys) for family, rotation in cases]
    found, said = read_by_transformers_4(models, folder / "logits.safetensors")
    for number, (case, model) in enumerate(zip(cases, models, strict=True)):
        ours = ours_at_their_length(*our_model(model.checkpoint))
        five = AutoModelForCausalLM.from_pretrained(model.folder, attn_implementation="eager")
        for place, (text, logits) in enumerate(zip(texts(), ours, strict=True)):
            assert float(logits.std()) > 0.5, case
            theirs = {"5": their_logits(five.eval(), text), "4": found.get(f"{number}/{place}")}
            for version, others in theirs.items():
                if others is not None:
                    difference = float((logits - others).abs().max())
                    assert difference < TOLERANCE, (case, version, place, difference)
        # What transformers 4 has no keys for it must not read as something else.
        refused = str(number) in said["errors"]
        assert refused == (case in NOT_IN_4), (case, said["errors"].get(str(number)))
        assert ("transformers 4 cannot read" in model.note) == refused, case


NOT_IN_4 = [("olmo2", name) for name in ROTATIONS if name.startswith(("yarn", "llama3", "longrope"))] + [
    ("gemma3_text", "windows"), ("olmo3", "windows"), ("olmo3", "a base of windows"), ("olmo3", "ntk"),
    *(("granite_swa", name) for name in ROTATIONS),
    ("phi3", "longrope"), *((family, name) for family in FAMILIES for name in ROTATIONS if name.startswith("prop")),
]  # fmt: skip


def test_both_versions_of_transformers_give_our_logits_in_every_family(tmp_path, capsys):
    check(FEW, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_both_versions_of_transformers_give_our_logits_for_every_rotation(family, tmp_path, capsys):
    rotations = [name for name in ROTATIONS if not name.startswith("part")]
    if family == "phi3":
        rotations = list(PHI3)
    if family in BY_KIND:
        rotations = [name for name in rotations if name not in FLAT_ONLY]
        rotations += ["windows", "a base of windows"]
    check([(family, rotation) for rotation in rotations], tmp_path, capsys)
