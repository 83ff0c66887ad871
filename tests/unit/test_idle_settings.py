"""A setting without effect is refused: every key of the schema, changed where the run comes out the same."""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass, replace
from functools import cache
from typing import Any, get_args

import pytest

from composed import composed_once  # noqa: F401 (a fixture)
from data.packing.document_rules import DocumentRules
from data.packing.spans import BatchShape
from model.layer_pattern import OVERRIDES, LayerSpec, expand_pattern
from model.parameters import parameter_names
from parallel.engine.groups import groups_of
from tests.unit.idle_runs import EXCEPTIONS, RUNS, SPECIAL
from train.configuration import groups, validate
from train.configuration.compose import ConfigMistakes, compose_run
from train.configuration.keys import field_at, hint_at, known_keys
from train.configuration.schema import RunConfig
from train.configuration.typed import default_of, is_section
from train.schedule.stages import Stage, build_schedule


def outcome(run: RunConfig) -> dict[str, Any]:
    """What the run is made of, with nothing that it does not read."""
    schedule, found = build_schedule(run)
    assert schedule is not None, found
    parts = {
        key: value for key, value in asdict(run).items() if key not in ("schedule", "parallel")
    }
    points = range(0, schedule.total_tokens, schedule.total_tokens // 16)
    at = [schedule.at(tokens) for tokens in points]
    specs = [spec for point in at for spec in expand_pattern(point.model)]
    follows = any(spec.rope is not None and not spec.rope.base for spec in specs)
    for name in ("window", "chunk", "layer_pattern", "kinds", *OVERRIDES):
        del parts["model"][name]
    if all(stage.parallel.sequence > 1 for stage in schedule.stages):
        del parts["model"]["attention_backend"]
    if not any(spec.qk_norm for spec in specs):
        del parts["model"]["qk_norm_over"]
    parts["schedule"] = [
        [(stage.name, stage.start, stage.end, shape_of(stage, specs)) for stage in schedule.stages],
        [point.learning_rate for point in at],
        [point.rope_base if follows else None for point in at],
    ]
    parts["layouts"] = [layout(vars(stage.parallel)) for stage in schedule.stages]
    used = {axis for axis in ("tensor", "sequence", "pipeline") for stage in schedule.stages
            if getattr(stage.parallel, axis) > 1}  # fmt: skip
    waits = run.parallel.timeouts
    names = parameter_names(run.model, range(run.model.num_layers))
    members = groups_of(names, run.model, run.optimizer.groups)
    parts["optimizer"]["groups"] = [
        [group in stage.frozen or stage.groups[group] for group in members.values()]
        for stage in schedule.stages
    ]
    parts["timeouts"] = {
        name: s for name, s in waits.items() if name in {*used, "data", "control", "checkpoint"}
    }
    parts["layers"] = [
        attention(spec) | {"rope": spec.rope and rotation(asdict(spec.rope))} for spec in specs
    ]
    return parts | {name: part(run) for name, part in EFFECTIVE.items()}


def attention(spec: LayerSpec) -> dict[str, Any]:
    found = asdict(replace(spec, kind="", rope=None))
    for key, read in (
        ("qk_norm_at", spec.qk_norm and spec.rope is not None),
        ("qk_norm_weight", spec.qk_norm),
        ("gate_over", spec.gate != "none"),
    ):
        if not read:
            del found[key]
    return found


def shape_of(stage: Stage, specs: list[LayerSpec]) -> BatchShape:
    """The shape of a step, without rules of positions if nothing reads them."""
    shape = stage.shape
    if any(spec.rope or spec.position_scale for spec in specs):
        return shape
    return replace(shape, rules=DocumentRules(shape.rules.document_mask))


def rotation(rope: dict[str, Any]) -> dict[str, Any]:
    unread = {"partial"} if rope["rotary_share"] == 1.0 else set()
    return {key: value for key, value in rope.items() if key not in unread}


def layout(parallel: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in parallel.items() if key != "timeouts"}
    for key, read in (
        ("pipeline_schedule", parallel["pipeline"] > 1),
        ("pipeline_split", parallel["pipeline"] > 1),
        ("sequence_layout", parallel["sequence"] > 1),
        ("bucket_elements", parallel["zero_stage"] > 0),
    ):
        if not read:
            del found[key]
    return found


def _data(run: RunConfig) -> Any:
    data = run.data
    corpus = (
        (data.corpus, data.workers, run.paths.prepared)
        if data.corpus
        else [s.prefix for s in data.sources.values()]
    )
    made = data.generated
    if not run.evaluation.enabled:
        made = {name: replace(settings, heldout=0) for name, settings in made.items()}
    pool = data.look_ahead if data.packing == "best_fit" else 1
    of_files = data.full_check if data.has_files else (data.end_id, data.bos_id)
    apart = data.heldout, data.heldout_of_sources
    text = data.tokenizer if run.evaluation.tasks else ""
    return corpus, made, data.packing, pool, apart, data.seed, data.prefetch, of_files, text


def _spikes(run: RunConfig) -> Any:
    spikes = run.train.spikes
    judged = (spikes.action, spikes.window, spikes.threshold) if spikes.action != "ignore" else None
    return judged, (spikes.patience, spikes.max_rollbacks) if spikes.action == "rollback" else None


def _train(run: RunConfig) -> Any:
    train = replace(run.train, spikes=None)  # type: ignore[arg-type]
    return (
        replace(train, recompute_layers=None) if train.keep_for_backward == "everything" else train
    )


def _preflight(run: RunConfig) -> Any:
    preflight = run.preflight
    return preflight if preflight.links else (preflight.enabled, preflight.join_seconds)


def _logging(run: RunConfig) -> Any:
    logging = run.logging
    wandb = logging.wandb if logging.wandb.mode != "disabled" else None
    straggler = logging.straggler_factor if logging.straggler_steps else None
    gated = any(spec.gate != "none" for spec in expand_pattern(run.model))
    gate_steps = logging.gate_steps if gated else None
    every = logging.straggler_steps, gate_steps, logging.layer_steps
    return logging.console_seconds, *every, straggler, wandb


def _holds_out(run: RunConfig) -> bool:
    files = run.data.heldout or run.data.heldout_of_sources
    return bool(run.data.corpus or files or any(s.heldout for s in run.data.generated.values()))


EFFECTIVE = {
    "data": _data,
    "paths": lambda run: run.paths.outputs,
    "spikes": _spikes,
    "train": _train,
    "preflight": _preflight,
    "logging": _logging,
    "evaluation": lambda run: run.evaluation.enabled and _holds_out(run) and replace(
        run.evaluation, accuracy=run.evaluation.accuracy.lengths and run.evaluation.accuracy),
    "checkpoint": lambda run: (
        replace(run.checkpoint, allow_changes=[]) if run.checkpoint.resume == "never" else run.checkpoint
    ),
}  # fmt: skip


def values_of(key: str, present: Any) -> Iterator[str]:
    """Other values for a key of the schema, likely ones first."""
    if key in SPECIAL:
        yield from SPECIAL[key]
        return
    names = get_args(annotation(key))
    if type(None) in names:  # Literal[...] | None
        names = tuple(name for name in get_args(names[0]) if isinstance(name, str))
    if isinstance(present, bool):
        yield str(not present).lower()
    elif isinstance(present, int | float):
        yield from (str(2 * present + 8), str(present / 2), str(2 * present), str(present + 1), "1")
    elif present is None and not names:
        yield from ("1", "other")
    elif names and all(isinstance(name, str) for name in names):
        yield from (name or "''" for name in names if name != present)
    elif isinstance(present, str):
        yield "other"


def annotation(key: str) -> Any:
    return hint_at(key.split("."))


def named(key: str, run: RunConfig) -> Iterator[str]:
    """The key with the names that its mapping has in this run."""
    head, has_name, rest = key.partition(".NAME")
    if not has_name:
        yield key
        return
    for name in list(value_at(run, head))[:1]:
        yield from named(f"{head}.{name}{rest}", run)


def value_at(run: RunConfig, key: str) -> Any:
    at: Any = run
    for part in key.split("."):
        # A field that another method of rotation has counts as its default.
        at = at[part] if isinstance(at, dict) else getattr(at, part, default(key))
    return at


def is_absent(run: RunConfig, key: str) -> bool:
    """Whether the method that this run chose has no such field."""
    section, _, name = key.rpartition(".")
    within = value_at(run, section) if section else run
    return is_dataclass(within) and not hasattr(within, name)


SINGLE = [key for key in known_keys() if key in SPECIAL or not is_section(annotation(key))]


JUDGED_KEYS = [key for key in SINGLE if key not in EXCEPTIONS]


@pytest.mark.parametrize("key", JUDGED_KEYS)
def test_a_change_changes_the_run_or_is_refused(key: str) -> None:
    judge(key, enough=2)


@pytest.mark.slow
@pytest.mark.parametrize("key", JUDGED_KEYS)
def test_a_change_changes_every_run_or_is_refused_there(key: str) -> None:
    judge(key, enough=len(RUNS))


def judge(key: str, *, enough: int) -> None:
    """Change the key in one run after the other, until it was judged in `enough` of them."""
    judged: Counter[str] = Counter()
    for ranks, arguments in RUNS:
        if judged.total() >= enough:
            break
        run, was = before(*arguments)
        for name in named(key, run):
            if judged and is_absent(run, name):
                continue  # refused in the same words as in a run before
            for value in values_of(key, value_at(run, name)):
                changed, lines = change(arguments, f"{name}={value}")
                same = (value_at(run, name), default(name))
                # A field that this method of rotation does not have is refused and stays absent.
                if changed is None or (not lines and value_at(changed, name) in same):
                    continue
                lines += validate.rules(changed, ranks)
                idle = [line for line in lines if line.startswith(name) and "has no effect" in line]
                if lines != idle:
                    continue  # something else is wrong with it
                assert (outcome(changed) == was) == bool(idle), (arguments, f"{name}={value}", idle)
                judged["idle" if idle else "changed"] += 1
                break
    assert judged, f"no other value of {key} was tried: give one in SPECIAL, or a run to RUNS"


@cache
def before(*arguments: str) -> tuple[RunConfig, dict[str, Any]]:
    run = compose_run(arguments)
    return run, outcome(run)


def default(key: str) -> Any:
    field = field_at(key.split("."))
    return field and default_of(field)


def change(arguments: list[str], argument: str) -> tuple[RunConfig | None, list[str]]:
    try:
        return compose_run([*arguments, argument]), []
    except ConfigMistakes as error:
        return error.rest, error.mistakes


def test_exceptions_are_keys() -> None:
    assert set(EXCEPTIONS) | set(SPECIAL) <= set(known_keys()) | {"model.kinds.NAME.like"}


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        ("data.packing=concat data.look_ahead=77", ["data.look_ahead"]),
        ("recipe=full_rope model.window=7", ["model.window"]),
        ("train.spikes.window=64 train.spikes.patience=9", ["train.spikes.window", "train.spikes.patience"]),
        ("parallel.pipeline_schedule=zbv parallel.sequence_layout=balanced",
         ["parallel.pipeline_schedule", "parallel.sequence_layout"]),
        ("preflight.links=false preflight.link_bytes=5 preflight.slow_link=9",
         ["preflight.link_bytes", "preflight.slow_link"]),
        ("evaluation.enabled=false evaluation.max_tokens=7 evaluation.yardstick_tokens=9",
         ["evaluation.max_tokens", "evaluation.yardstick_tokens"]),
        ("experiment=quickstart schedule.learning_rate.peak=123", ["schedule.learning_rate.peak"]),
        ("recipe=nope schedule.stages.long.rope_base=777", ["schedule.stages.long.rope_base"]),
        ("recipe=nope schedule.stages.long.rope_base=safe", ["schedule.stages.long.rope_base"]),
        ("logging.wandb.mode=disabled logging.wandb.project=foo", ["logging.wandb.project"]),
        ("data=files data.sources.a.prefix=x data.workers=7", ["data.workers"]),
        ("schedule.stages.long.learning_rate={shape: constant, peak: 1, final: 0.5}",
         ["schedule.stages.long.learning_rate.final"]),
        ("schedule.stages.long.parallel.sequence_layout=balanced", ["schedule.stages.long.parallel.sequence_layout"]),
    ],
)  # fmt: skip
def test_each_setting_without_effect_is_named_once(arguments: str, keys: list[str]) -> None:
    words = arguments.replace(": ", ":").replace(", ", ",").split()
    with pytest.raises(ConfigMistakes) as caught:
        compose_run(words)
    assert caught.value.rest is not None
    assert [line.partition(":")[0].partition("=")[0] for line in caught.value.mistakes] == keys
    assert all("has no effect" in line for line in caught.value.mistakes)


@pytest.mark.parametrize(
    "arguments",
    [
        "model=125m recipe=full_rope",  # the preset's window
        "schedule=small schedule.learning_rate.shape=constant",  # the preset's final
        "data.packing=concat data.look_ahead=1024",  # its default
        "data=files data.sources.a.prefix=x paths.outputs=y",  # paths.prepared refers to it
        "parallel.sequence=2 schedule.stages.long.parallel={sequence:1,sequence_layout:zigzag}",
    ],
)
def test_what_nobody_chose_for_this_run_is_no_mistake(arguments: str) -> None:
    compose_run(arguments.split())


def test_what_the_command_line_makes_idle_in_an_experiment_is_no_mistake() -> None:
    config = compose_run(["experiment=quickstart", "evaluation.enabled=false"])
    assert not config.evaluation.enabled
    with pytest.raises(ConfigMistakes, match=r"^evaluation\.max_tokens=7: has no effect"):
        compose_run(
            ["experiment=quickstart", "evaluation.enabled=false", "evaluation.max_tokens=7"]
        )


def test_a_setting_of_an_experiment_is_chosen_for_this_run(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(groups.CONF, tmp_path / "conf")
    monkeypatch.setattr(groups, "CONF", tmp_path / "conf")
    text = "# @package _global_\ndata: {packing: concat, look_ahead: 77}\n"
    (tmp_path / "conf/experiment/mine.yaml").write_text(text)
    with pytest.raises(ConfigMistakes, match=r"data\.look_ahead=77: has no effect"):
        compose_run(["experiment=mine"])
