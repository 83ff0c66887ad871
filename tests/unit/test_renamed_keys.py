"""What an earlier version wrote is read under today's names, and a changed kind of layer is named."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from data.files import seal
from model.config import ModelConfig
from model.layer_pattern import KindConfig
from model.position.linear import LinearRope
from model.position.llama3 import Llama3Rope
from model.position.rope import Rope
from model.position.yarn import YarnRope
from train.checkpointing.state import FORMAT, RunState, differences, read_state
from train.configuration.compose import ConfigMistakes, compose_run, from_yaml, to_yaml
from train.configuration.renamed_keys import renamed_model
from train.configuration.typed import read
from train.configuration.typed_model import typed_model

# What commit b76c1ca wrote, when the settings of a rotation had the fields of all methods.
FLAT = Path(__file__).resolve().parents[1] / "fixtures" / "flat_rope"
PATTERN = ["window_rope", "window_rope", "window_rope", "full_rope"]
YARN = YarnRope(factor=4.0, original_length=64)


def before_kinds(**ropes: Rope) -> dict[str, Any]:
    """`model` in state.json as it was when rotation was set for windowed and for full layers."""
    model = asdict(ModelConfig(layer_pattern=PATTERN))
    del model["kinds"]
    plain = {"rope_window": Rope(), "rope_full": Rope()}
    return model | {name: asdict(rope) for name, rope in (plain | ropes).items()}


def written(folder: Path, model: dict[str, Any]) -> Path:
    """A checkpoint's state.json."""
    state = {"format": FORMAT, **asdict(RunState()), "model": model}
    (folder / "state.json").write_bytes(seal(state))
    return folder


def changed(state: RunState, model: ModelConfig, *allowed: str) -> list[str]:
    """What of the model keeps a run from going on."""
    same = {
        "optimizer": state.optimizer,
        "rope_base": {},
        "data": {},
        "tokenizer": {"sha256": "", "bos_id": None},
    }
    return differences(state, model, **same, allowed=allowed)


def test_the_model_of_an_older_checkpoint_has_its_rotations_by_kind(tmp_path: Path) -> None:
    old = before_kinds(rope_window=Rope(base=500.0), rope_full=YARN)
    state = read_state(written(tmp_path, old))
    kinds = {
        "window_rope": KindConfig(rope=Rope(base=500.0)),
        "full_rope": KindConfig(rope=YARN),
    }
    model = ModelConfig(layer_pattern=PATTERN, kinds=kinds)
    assert typed_model(state.model) == model
    assert changed(state, model) == []


def test_an_older_checkpoint_of_plain_rotations_goes_on(tmp_path: Path) -> None:
    state = read_state(written(tmp_path, before_kinds()))
    model = ModelConfig(layer_pattern=PATTERN)
    assert typed_model(state.model) == model
    assert changed(state, model) == []
    said_plainly = replace(model, kinds={"full_rope": KindConfig()})
    assert changed(state, said_plainly) == []


def test_a_changed_kind_is_named(tmp_path: Path) -> None:
    near = KindConfig(like="window_rope", window=5)
    trained = ModelConfig(layer_pattern=["near", "full_nope"], kinds={"near": near})
    state = RunState(model=asdict(trained))
    wanted = replace(trained, kinds={"near": replace(near, window=7, rope=Rope(base=9.0))})
    window, rope = changed(state, wanted)
    assert window.startswith("model.kinds.near.window=7: the checkpoint's model has 5;")
    assert rope.startswith("model.kinds.near.rope.base=9.0: the checkpoint's model has 0.0;")
    assert rope.endswith("checkpoint.allow_changes=[rope_scaling]")
    assert changed(state, wanted, "rope_scaling") == [window]


def test_an_older_configuration_is_read_with_the_same_effect() -> None:
    config = compose_run(["recipe=full_rope", "run_name=before"])
    old = to_yaml(config).replace(
        "\n  kinds: {}\n",
        "\n  rope_window:\n    base: 0.0\n  rope_full:\n    scaling: linear\n    factor: 4.0\n",
    )
    assert "rope_full" in old
    kinds = {"full_rope": KindConfig(rope=LinearRope(factor=4.0))}
    assert from_yaml(old) == replace(config, model=replace(config.model, kinds=kinds))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.rope_full.scaling=yarn", "model.kinds.full_rope.rope.scaling"),
        ("model.rope_window={base: 9}", "model.kinds.window_rope.rope"),
    ],
)
def test_a_command_line_with_an_old_name_hears_the_new_one(old: str, new: str) -> None:
    with pytest.raises(ConfigMistakes) as caught:
        compose_run([old])
    assert caught.value.mistakes == [f"{old}: is called {new} now; write that"]


def test_kinds_are_declared_and_set_on_the_command_line() -> None:
    config = compose_run(
        [
            "model.layer_pattern=[near,window_rope,full_rope]",
            "model.kinds={near: {like: window_rope, window: 512}}",
            "model.kinds.full_rope.rope.scaling=linear",
            "model.kinds.full_rope.rope.factor=4",
        ]
    )
    assert config.model.kinds == {
        "near": KindConfig(like="window_rope", window=512),
        "full_rope": KindConfig(rope=LinearRope(factor=4.0)),
    }
    assert config.model.problems() == []
    assert from_yaml(to_yaml(config)) == config


def test_a_setting_under_both_names_is_one_mistake() -> None:
    both = renamed_model({"rope_full": {"base": 9.0}, "kinds": {"full_rope": {"rope": {}}}})
    _, mistakes = read(ModelConfig, both, "model")
    assert list(mistakes) == ["model.rope_full"]
    assert renamed_model({"kinds": 5, "rope_full": {}}) == {"kinds": 5, "rope_full": {}}


def test_what_was_written_with_the_fields_of_all_methods_is_read() -> None:
    config, state = from_yaml((FLAT / "config.yaml").read_text()), read_state(FLAT)
    ropes = {
        "near": Llama3Rope(factor=4.0, original_length=64),
        "wide": LinearRope(factor=2.0, base=500.0),
        "full_rope": YarnRope(factor=4.0, original_length=64),
    }
    assert {name: kind.rope for name, kind in config.model.kinds.items()} == ropes
    assert typed_model(state.model) == config.model
    same = {"rope_base": state.rope_base, "data": {}, "tokenizer": {"sha256": "", "bos_id": None}}
    assert differences(state, config.model, optimizer="adamw", **same, allowed=["data"]) == []
    kinds = config.model.kinds | {"full_rope": KindConfig(rope=LinearRope(factor=4.0))}
    other = replace(config.model, kinds=kinds)
    lines = differences(state, other, optimizer="adamw", **same, allowed=["data"])
    names = [line.partition("=")[0].removeprefix("model.kinds.full_rope.rope.") for line in lines]
    assert names == ["scaling", "original_length"]
