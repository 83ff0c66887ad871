"""--check judges every rotation by what it reaches and by what its layers see."""

import pytest

from composed import composed_once  # noqa: F401 (a fixture)
from train.configuration.bound_warnings import bound_warnings
from train.configuration.compose import compose_run
from train.schedule.stages import build_schedule

STAGE = "schedule.stages"
FULL = "model.kinds.full_rope"
YARN = f"{FULL}.rope={{scaling: yarn, factor: 8, original_length: 4096}}"


def warnings(*arguments: str, start_length: int = 0) -> list[str]:
    config = compose_run(["experiment=quickstart", "model.head_dim=64", *arguments])
    config.schedule.start_length = start_length
    schedule, found = build_schedule(config)
    assert schedule is not None, found
    return bound_warnings(config, schedule)


def test_full_layers_are_judged_by_every_stage_s_length() -> None:
    middle, long = warnings("recipe=llama")
    assert middle == (
        "stage middle: base 10000 separates similar from random keys only up to 724 of the 1,024 tokens that full_rope "
        "layers see (advice of arXiv 2405.14591, no limit: Llama 3 works below its bound); from 7760 on some bases "
        "reach 1,024, from 23100 on all; consider schedule.stages.middle.rope_base=23100"
    )
    assert "724 of the 4,096 tokens" in long
    raised = (f"{STAGE}.middle.rope_base=23100", f"{STAGE}.long.rope_base=979000")
    assert warnings("recipe=llama", *raised) == []


def test_the_base_is_that_at_the_end_of_the_stage() -> None:
    rising = f"{STAGE}.long.rope_base={{policy: ramp, start: 1e4, end: 1e6, tokens: 8192}}"
    assert len(warnings("recipe=llama", rising)) == 1
    (line, _) = warnings("recipe=llama", f"{FULL}.rope.base=12345")
    assert line.endswith(f"consider {FULL}.rope.base=23100")


def test_a_base_between_the_two_bounds_is_told_both_of_them() -> None:
    line = warnings("recipe=llama", "model.head_dim=128", f"{FULL}.rope.base=30000")[-1]
    assert "from 27000 on some bases reach 4,096, from 58800 on all" in line
    bases = [f"{STAGE}.{name}.rope_base=900" for name in ("middle", "long")]
    window = ["model.layer_pattern=[window_rope]", "model.window=200", "model.head_dim=128"]
    (line,) = warnings(*window, f"{STAGE}.short.rope_base=500", *bases)
    assert "Llama 3 works below its bound); from 891 on all bases reach 256; consider" in line


def test_windows_and_chunks_are_judged_by_themselves_where_no_layer_sees_farther() -> None:
    assert warnings("recipe=rnope_swa", "model.window=2048") == []
    window = ["model.layer_pattern=[window_rope]"]
    assert warnings(*window, "model.window=512") == []
    line = warnings(*window, "model.window=2048")[-1]
    assert "724 of the 2,048 tokens that window_rope layers see" in line
    line = warnings("model.layer_pattern=[chunk_rope]", "model.chunk=2048")[-1]
    assert "2,048 tokens that chunk_rope layers see" in line


def test_a_window_of_a_stage_is_what_counts() -> None:
    windows = [f"{STAGE}.{name}.kinds.full_rope.window=700" for name in ("middle", "long")]
    assert warnings("recipe=llama", *windows) == []


def test_layers_beside_nope_are_told_to_get_a_window_and_no_higher_base() -> None:
    found = warnings("recipe=rnope")
    assert len(found) == 2
    assert all(
        f"consider a window of what it reaches ({FULL}.window=724)" in line for line in found
    )


def test_scaled_frequencies_are_judged_as_they_are() -> None:
    (line,) = warnings("recipe=llama", YARN, f"{FULL}.rope.base=5000")
    assert "base 5000 with scaling=yarn separates" in line
    assert line.endswith(
        f"a higher base ({FULL}.rope.base); ropewalk advise shows what bases reach"
    )
    assert warnings("recipe=llama", f"{FULL}.rope={{rotary_share: 0.5}}") == []


def test_a_single_pair_is_not_told_to_raise_its_base() -> None:
    line = warnings("recipe=llama", "model.head_dim=2")[0]
    assert line.endswith(
        "consider wider heads (model.head_dim): one pair turns by a radian a token, whatever the base"
    )


@pytest.mark.parametrize(("base", "count"), [("keep", 0), ("9000", 1)])
def test_what_an_imported_model_was_trained_for_is_evidence(base: str, count: int) -> None:
    bases = [f"{STAGE}.{stage}.rope_base=keep" for stage in ("short", "middle")]
    bases += ["schedule.start_base=10000", f"{STAGE}.long.rope_base={base}"]
    assert len(warnings("recipe=llama", *bases, start_length=4096)) == count
