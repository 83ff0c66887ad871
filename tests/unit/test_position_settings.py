"""Settings of rotations: every mistake is named in one line, and what an earlier version wrote is read."""

from typing import Any, get_args

import pytest

from model.config import ModelConfig
from model.layer_pattern import KindConfig
from model.position.methods import METHODS, RopeMethod, default_fields
from model.position.ntk import NtkRope
from train.configuration.compose import ConfigMistakes, compose_run
from train.configuration.typed import field_types, read
from train.configuration.validate import warnings
from train.schedule.stages import build_schedule

KEY = "model.kinds.full_rope.rope"
NAMES = ", ".join(METHODS)
YARN = {"scaling": "yarn", "factor": 2.0, "original_length": 64}
LLAMA3 = {**YARN, "scaling": "llama3"}
LONG = {"scaling": "longrope", "factor": 4.0, "original_length": 64}
ONES = [1.0] * 32
LISTS = {**LONG, "short_factors": ONES, "long_factors": [2.0] * 32}
NAN = float("nan")


def mistakes(rope: Any, head_dim: int = 64) -> list[str]:
    config, found = read(KindConfig, {"rope": rope}, KEY.removesuffix(".rope"))
    assert config is not None
    return list(found.values()) or config.rope.problems(KEY, head_dim)


@pytest.mark.parametrize(
    ("rope", "says"),
    [
        ({"scaling": "yearn"}, f"{KEY}.scaling=yearn: must be one of {NAMES}; did you mean yarn"),
        ({"scaling": ["yarn"]}, "must be one of none, linear"),
        (7, f"{KEY}=7: must be a scaling ({NAMES})"),
        ({"factor": 2.0}, f"{KEY}.factor=2.0: has no effect with {KEY}.scaling=none; drop it, or give"),
        ({**LLAMA3, "beta_fast": 9.0}, f"has no effect with {KEY}.scaling=llama3; drop it, or give {KEY}.scaling=yarn"),
        ({"betafast": 9.0}, f"{KEY}.betafast: unknown key"),
        ({"scaling": "linear", "factor": 0.5}, "a finite number from 1 to 1000000"),
        ({"scaling": "linear"}, "scales nothing"),
        ({"scaling": "linear", "factor": NAN}, "from 1 to"),
        ({"scaling": "ntk", "factor": 1e300}, "to 1000000"),
        ({"scaling": "yarn", "factor": 2.0}, "must be the length before scaling"),
        (YARN | {"factor": 1.0}, "scales nothing"),
        (YARN | {"original_length": 6}, "no pair makes beta_slow=1 turns"),
        (YARN | {"original_length": 18, "beta_slow": 3.0}, "at least 19"),
        (YARN | {"beta_fast": 0.5}, "below beta_fast"),
        (YARN | {"beta_slow": NAN}, "above 0"),
        (YARN | {"attention_factor": NAN}, "from 0 up"),
        (LLAMA3 | {"original_length": 0}, "must be the length before scaling"),
        (LLAMA3 | {"original_length": 6}, "no pair makes low_frequency=1 turns"),
        (LLAMA3 | {"low_frequency": 4.0}, "below high_frequency"),
        ({"base": 0.5}, "must be above 1"),
        ({"base": 1.0}, "must be above 1"),
        ({"base": -1e4}, "from 0 up"),
        ({"base": NAN}, "from 0 up"),
        ({"rotary_share": 0.0}, "above 0 to 1"),
        ({"rotary_share": 1.5}, "above 0 to 1"),
        ({"rotary_share": 0.02}, f"{KEY}.rotary_share=0.02: of model.head_dim=64 that is no pair; use 0.03125 (2)"),
        ({"rotary_share": 0.3}, "that is 19 dimensions, which is odd; use 0.28125 (18) or 0.3125 (20)"),
        ({"rotary_share": 0.02, "partial": "proportional"}, "that is no pair"),
        ({"partial": "proportional"}, f"{KEY}.partial=proportional: has no effect with {KEY}.rotary_share=1"),
        (YARN | {"ramp": "papre"}, "did you mean paper?"),
        (YARN | {"ramp": "paper", "truncate": False}, f"{KEY}.truncate=false: has no effect with {KEY}.ramp=paper"),
        (YARN | {"mscale": 0.7}, f"{KEY}.mscale=0.7: must be given together with mscale_all_dim"),
        (YARN | {"mscale_all_dim": 0.7}, "must be given together"),
        (YARN | {"mscale": 0.7, "mscale_all_dim": 1.0, "attention_factor": 1.1}, "stands against mscale"),
        ({"scaling": "dynamic_ntk", "factor": 2.0}, "must be the length before scaling"),
        ({"scaling": "dynamic_ntk", "original_length": 64, "rotary_share": 0.04}, "needs two pairs or more"),
        (LISTS | {"original_length": 0}, f"{KEY}.original_length=0: must be the length before scaling"),
        (LISTS | {"long_factors": ONES[1:]}, f"{KEY}.long_factors: needs a factor for each of the 32 pairs that"),
        (LISTS | {"short_factors": []}, "it has 0"),
        (LISTS | {"rotary_share": 0.5, "short_factors": ONES[:16]}, "each of the 16 pairs"),
        (LISTS | {"short_factors": [*ONES[1:], 0.5]}, f"{KEY}.short_factors[31]=0.5: must be a finite number from 1"),
        (LISTS | {"long_factors": ONES, "factor": 1.0}, "longrope scales nothing"),
        ({"scaling": "ntk", "factor": 2.0, "rotary_share": 0.04}, "there is one, which"),
    ],
)  # fmt: skip
def test_mistakes_are_named(rope: Any, says: str) -> None:
    (line,) = mistakes(rope)
    assert says in line


def test_ntk_of_a_single_pair_is_refused_and_of_two_is_not() -> None:
    rope = NtkRope(factor=2.0)
    (line,) = rope.problems(KEY, 2)
    assert "needs two pairs or more" in line
    assert rope.problems(KEY, 4) == []
    model = ModelConfig(
        head_dim=2, layer_pattern=["full_rope"], kinds={"full_rope": KindConfig(rope=rope)}
    )
    assert model.problems() == [line]


def test_a_method_is_a_member_of_the_union_and_a_field_of_several_is_the_same_in_each() -> None:
    assert tuple(METHODS.values()) == get_args(RopeMethod)
    assert [method().scaling for method in METHODS.values()] == list(METHODS)
    for method in METHODS.values():
        for name, default in vars(method()).items():
            if name != "scaling":
                assert default == default_fields()[name]
                hints = {str(field_types(other).get(name)) for other in METHODS.values()}
                assert len(hints - {"None"}) == 1, name


def test_a_field_of_another_method_at_its_default_is_taken_as_absent() -> None:
    """Versions before methods had settings of their own wrote all fields of all methods."""
    for scaling in ("none", "linear"):
        every = default_fields() | {"scaling": scaling, "factor": 4.0 if scaling != "none" else 1.0}
        assert mistakes(every) == []


def test_methods_are_chosen_on_the_command_line() -> None:
    given = [
        "recipe=full_rope",
        f"{KEY}.scaling=yarn",
        f"{KEY}.factor=4",
        f"{KEY}.original_length=64",
    ]
    rope = compose_run(given).model.kinds["full_rope"].rope
    assert rope == METHODS["yarn"](factor=4.0, original_length=64)  # type: ignore[call-arg]
    assert compose_run([*given[:1], f"{KEY}={{scaling: linear, factor: 2}}"]).model.kinds
    with pytest.raises(ConfigMistakes) as caught:
        compose_run([*given, f"{KEY}.low_frequency=2"])
    (line,) = caught.value.mistakes
    assert line.startswith(f"{KEY}.low_frequency=2: has no effect with {KEY}.scaling=yarn")


@pytest.mark.parametrize(
    ("rope", "says"),
    [
        ("{scaling: dynamic_ntk, original_length: 4096}", "no stage is longer (4,096 tokens at most), so dynamic_ntk"),
        ("{scaling: dynamic_ntk, original_length: 4095}", ""),
    ],
)  # fmt: skip
def test_a_length_that_no_stage_exceeds_is_warned_of(rope: str, says: str) -> None:
    config = compose_run(["experiment=quickstart", "recipe=full_rope", f"{KEY}={rope}"])
    schedule, _ = build_schedule(config)
    assert schedule is not None
    found = [line for line in warnings(config, schedule) if KEY in line]
    assert len(found) == bool(says)
    assert all(says in line for line in found)


def test_policies_of_the_base_know_the_width_of_a_partial_rotation() -> None:
    """ntk: base * factor ** (d / (d - 2)), d = 16 of 32."""
    given = ["experiment=quickstart", "recipe=full_rope", "schedule.stages.middle.rope_base=ntk"]
    schedule, _ = build_schedule(compose_run([*given, f"{KEY}.rotary_share=0.5"]))
    assert schedule is not None
    short, middle = schedule.stages[:2]
    grown = middle.shape.sequence_length / short.shape.sequence_length
    assert middle.base.last == pytest.approx(short.base.last * grown ** (16 / 14), rel=1e-12)
