"""What is legal and what is not: the product's answer against a rule of its own, and any argument at all.

`tests/parity/test_legal_configurations.py` runs what is legal here.
"""

import itertools
import os
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from composed import composed_once  # noqa: F401 (a fixture)
from tests.parity.drawn_runs import LAYOUTS, Drawn, drawn_runs, near_misses
from tests.parity.legality import is_legal
from train import __main__
from train.configuration import validate
from train.configuration.compose import ConfigMistakes, compose_run
from train.configuration.groups import groups
from train.configuration.keys import known_keys
from train.configuration.schema import RunConfig
from train.configuration.typed import read

PARTS = {field.name for field in fields(RunConfig)}
DRAWS = settings().max_examples
GRIDS = [(ranks, axes) for ranks, layouts in LAYOUTS.items() for axes in layouts]


def check_line(line: str) -> None:
    """A mistake is one printable line that begins with a key and goes on to say something."""
    key, _, says = line.partition(":")
    assert key.split(".")[0].split("=")[0] in PARTS, line
    assert line.isprintable(), line
    assert len(says.split()) >= 3, line


@pytest.mark.parametrize(
    "draws_of_a_grid",
    [max(1, DRAWS // 50), pytest.param(max(1, DRAWS // 16), marks=pytest.mark.slow)],
    ids=["few", "many"],
)
def test_a_draw_and_all_its_near_misses_are_legal_to_the_rule_and_to_the_product_or_to_neither(
    draws_of_a_grid: int,
) -> None:
    draws: Counter[bool] = Counter()
    judged: Counter[bool] = Counter()

    def judge(drawn: Drawn) -> bool:
        legal = is_legal(drawn.run, drawn.ranks)
        config, mistakes = read(RunConfig, drawn.run)
        found = list(mistakes.values())
        if config is not None:
            found += validate.rules(config, drawn.ranks, mistakes)
        judged[legal] += 1
        assert legal == (not found), found
        for line in found:
            check_line(line)
        return legal

    for ranks, axes in GRIDS:

        @settings(max_examples=draws_of_a_grid, suppress_health_check=list(HealthCheck))
        @given(drawn_runs(ranks, axes))
        def judge_all(drawn: Drawn) -> None:
            legal = judge(drawn)
            draws[legal] += 1
            for change in near_misses(drawn) if legal else ():
                judge(drawn.changed(change))

        judge_all()
    assert draws[True] >= 0.4 * draws.total(), draws
    assert judged[False] >= 0.2 * judged.total(), judged


# Mistakes of different kinds, each with the beginning of the line that names it.
PLANTED = {
    "model.num_layer=4": "model.num_layer=4: unknown key",
    "schedule.stages.lng.tokens=5": "schedule.stages.lng.tokens=5: there is no lng",
    "nonsense": "nonsense: not an argument",
    "seed=1,2": "seed=1,2: give one value",
    "data.packing=firstfit": "data.packing=firstfit: must be one of",
    "train.max_skipped_steps=-1": "train.max_skipped_steps=-1: must be a whole number from 0 up",
    "optimizer.beta2=1": "optimizer.beta2=1: must be a finite number from 0 to below 1",
    "model.vocab_size=many": "model.vocab_size=many: must be a whole number",
    "train.deterministic=perhaps": "train.deterministic=perhaps: must be true or false",
    "checkpoint.allow_changes=[all]": "checkpoint.allow_changes[0]=all: must be one of",
    "parallel.timeouts={tenser: 5}": "parallel.timeouts.tenser: unknown",
    "optimizer.epsilon='${nowhere}'": "optimizer.epsilon: Interpolation key 'nowhere' not found",
    "logging.wandb.project='a\x07'": "logging.wandb.project=",
    "schedule.stages.long.rope_base={policy: rampe}": "schedule.stages.long.rope_base.policy=rampe: must be",
    "+schedule.stages.middle.parallel={tensr: 2}": "schedule.stages.middle.parallel.tensr: unknown key",
    "schedule.stages.middle.learning_rate={peek: 1}": "schedule.stages.middle.learning_rate.peek: unknown key",
    "schedule.stages.short.rope_base=ntk": "schedule.stages.short.rope_base: policy ntk needs",
    "model.num_kv_heads=4": "model.num_heads=6: must be divisible by model.num_kv_heads=4",
    "train.spikes.window=64": "train.spikes.window=64: has no effect",
    "run_name=a/b": "run_name='a/b': must be a plain folder name",
    "checkpoint.resume=nowhere": f"checkpoint.resume={Path.cwd()}/nowhere: no such folder",
}  # fmt: skip


@settings(max_examples=max(10, DRAWS // 4), suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(sorted(PLANTED)), min_size=2, max_size=5, unique=True))
@example(list(PLANTED))
def test_each_of_several_mistakes_is_named_once(planted: list[str]) -> None:
    with pytest.raises(ConfigMistakes) as caught:
        compose_run(["experiment=quickstart", *planted, "nothing"])
    error = caught.value
    assert error.rest is not None
    found = [line for line in error.mistakes if not line.startswith("nothing: ")]
    found += validate.rules(error.rest, 2, error.wrong) + validate.places(error.rest)
    assert len(found) == len(planted), found
    for argument in planted:
        (_,) = [line for line in found if line.startswith(PLANTED[argument])]


# Any argument at all.

WORDS = st.sampled_from(
    [*known_keys(), *groups(), "schedule.stages.long.tokens", "data.sources.a.prefix", "hydra.run.dir",
     "hydra.searchpath", "_target_", "model._target_", "seed.x", "a.b.c", "defaults"]
)  # fmt: skip
KEYS = WORDS | st.text(max_size=20) | st.lists(WORDS, max_size=3).map(".".join)
SCALARS = st.sampled_from(
    ["tiny", "quickstart", "null", "true", "nan", "-inf", "1e999", "1e30", "-1", "0", "1", "2", "1.5", "''",
     "'\\x00'", "'a\nb'", "9" * 400, "9" * 5000, "x" * 5000, "[" * 300, "{a: " * 99, "0x10", "../../etc/passwd",
     "${seed}", "${oc.env:HOME}", "'${oc.env:HOME}'", "${hydra:run.dir}", "'${'", "${run_name}", "${a}", "${now:%H}",
     "!!python/object/apply:os.system [id]", "'!!python/name:os.system'", "{_target_: os.system}", "&a [*a]",
     "choice(1,2)", "range(1,9)", "glob(*)", "int(5)", "1,2", "@x"]
)  # fmt: skip
VALUES = st.recursive(
    SCALARS | st.integers().map(str) | st.floats().map(str) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda values: f"[{','.join(values)}]")
        | st.dictionaries(WORDS, inner, max_size=2).map(
            lambda pairs: "{" + ",".join(f"{key}: {value}" for key, value in pairs.items()) + "}"
        )
    ),
    max_leaves=4,
)
ARGUMENTS = st.builds(
    lambda sign, key, equals, value: f"{sign}{key}{equals}{value}",
    st.sampled_from(["", "", "", "+", "++", "~", "-", "--"]),
    KEYS,
    st.sampled_from(["=", "=", "=", "@x=", ""]),
    VALUES,
) | st.text(max_size=30)


@settings(max_examples=DRAWS // 2, suppress_health_check=list(HealthCheck))
@given(st.lists(ARGUMENTS, min_size=1, max_size=3))
@example(["run_name=" + "a" * 300])
@example(["model.num_layers=1e9"])
@example(["model.num_heads=1e12", "model.num_kv_heads=7"])
@example(["schedule.stages.long.rope_base={policy: stepped, steps: []}"])
@example(["schedule.stages.long.rope_base={policy: stepped, steps: [[inf, 1e4]]}"])
@example(["schedule.stages.long.rope_base=safe", "model.head_dim=2"])
@example(["schedule.stages.long.learning_rate=" + "9" * 400])
@example(["schedule.stages=[]"])
@example(["model.layer_pattern={a: b}"])
@example(["+schedule.stages={1: {tokens: 5}}"])
@example(["checkpoint.resume=" + "a" * 300])
@example(["paths.outputs=" + "a/" * 2000])
@example(["data.corpus=''", "+data.sources={web: {prefix: " + "a" * 300 + "}}"])
def test_whatever_the_arguments_are_the_answer_is_a_run_or_clear_lines(
    arguments: list[str],
) -> None:
    try:
        found = validate.problems(compose_run(arguments), 2)
    except ConfigMistakes as error:
        found = error.mistakes + (validate.problems(error.rest, 2) if error.rest else [])
    for line in found:
        assert line.isprintable(), line
        assert len(line.partition(":")[2].split()) >= 2, line


@pytest.mark.parametrize(
    "argument", ["run_name=${oc.env:HOME}", "model.window=none", "seed='a\nb'"]
)
def test_a_refused_run_is_status_2_and_one_line(
    argument: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main([argument]) == 2
    written = capfd.readouterr()
    assert written.out == ""
    assert len(written.err.splitlines()) == 1
    assert written.err.startswith("train: error: ")


# Files that somebody else wrote.

ACCEPTED = ""
FILES = {
    "makes an object": (
        "train: !!python/object/apply:os.system [touch MARK]",
        "line 2: the tag !!python/object/apply:os.system is not allowed",
    ),
    "names a function": ("seed: !!python/name:os.system", "line 2: the tag !!python/name:os.system is not allowed"),
    "instantiates": ("_target_: os.system\n_args_: [touch MARK]", "_target_: unknown key"),
    "instantiates in a policy": (
        "schedule: {stages: {long: {rope_base: {_target_: os.system, command: touch MARK}}}}",
        "rope_base.",
    ),
    "has callbacks": (
        "hydra: {callbacks: {x: {_target_: os.system, command: touch MARK}}}",
        "line 2: hydra: settings of Hydra's own have no effect",
    ),
    "searches in packages": ("hydra: {searchpath: [pkg://antigravity]}", "line 2: hydra: settings of Hydra's own"),
    "asks the environment": ("run_name: ${oc.env:HOME}", "run_name=${oc.env:HOME}: only another key"),
    "asks the clock": ("run_name: ${now:%H}", "run_name=${now:%H}: only another key"),
    "chooses by the environment": ("defaults: [{override /model: '${oc.env:HOME}'}]", "must be one name"),
    "leaves the folder": ("defaults: [override /model: ../../../etc/passwd]", "leads out of "),
    "leaves the folder by its root": ("defaults: [override /model: /etc/passwd]", "leads out of "),
    "leaves the folder by a link": ("defaults: [override /model: ./link.yaml]", "leads out of "),
    "chooses in a package": ("defaults: [override /model: pkg://antigravity]", "no such file"),
    "chooses Hydra's own": ("defaults: [override /hydra/launcher: basic]", "no such group"),
    "puts a choice elsewhere": ("defaults: [override /model@train: tiny]", "no such group"),
    "chooses what may be absent": ("defaults: [optional /model: tiny]", "write /GROUP: NAME"),
    "chooses several": ("defaults: [override /model: [tiny, 1b]]", "must be one name"),
    "has no list of choices": ("defaults: {model: tiny}", "must be a list"),
    "puts its values elsewhere": ("# @package hydra\nseed: 1", "leave that line out"),
    "includes itself": ("defaults: [/experiment: ./other.yaml]", "refers to itself"),
    "includes itself by its path": ("defaults: [./other.yaml]", "refers to itself"),
    "includes what includes it": ("defaults: [./back.yaml]", "refers to itself"),
    "multiplies": (
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "\n".join(f"{c}: &{c} [{', '.join(10 * [f'*{b}'])}]" for b, c in itertools.pairwise("abcdefghi")),
        "more than 20,000 values",
    ),
    "multiplies by merging": (
        "a: &a {x: 1}\n"
        + "\n".join(f"{c}: &{c} {{<<: [*{b}, *{b}]}}" for b, c in itertools.pairwise("abcdefghijklmnopq")),
        "more than 20,000 values",
    ),
    "is huge": ("#" * 300_000, "larger than 256 KiB"),
    "says a key twice": ("seed: 1\nseed: 2", "line 3: 'seed' stands twice"),
    "has a NUL": ("run_name: a\0b", "line 2: holds a character that YAML does not allow"),
    "is another alphabet": ("run_name: caf\udce9", "line 2: is not UTF-8 text"),
    "is two documents": ("seed: 1\n---\nseed: 2", "expected a single document"),
    "has a list for a key": ("? [a, b]\n: 1", "line 2: a key must be a name"),
    "has carriage returns": ("seed: 1\r\nrun_name: a\r\n", ACCEPTED),
    "holds itself": ("model: &a {window: *a}", "refers to itself"),
    "is nested deeply": (f"seed: {'[' * 1000}{']' * 1000}", "nested too deeply"),
    "names a stage that leaves the folder": (
        "schedule: {stages: {../../x: {tokens: 64, sequence_length: 8, batch_tokens: 8, micro_batch_tokens: 8}}}",
        "'../../x' is no name",
    ),
    "has a number for a key": ("schedule: {stages: {5: {tokens: 64}}}", "schedule.stages: 5 is no name"),
    "has a number without end": (f"seed: 0x{'f' * 9000}", "seed: a number of 36000 bits"),
    "has no key": ("~: 5", "other"),
    "has escape codes": ('run_name: "\\e[31mred"', "cannot be printed"),
    "turns the reading direction": ('run_name: "\\u202eabc"', "cannot be printed"),
    "is no YAML": ("a: [", "line 3: not YAML: while parsing a flow node"),
    "is no mapping": ("- a", "line 2: must be a mapping from keys to values"),
    "is no text": ("\udcff\udcfe", "line 2: is not UTF-8 text"),
    "is empty": ("", ACCEPTED),
}  # fmt: skip


BY_PATH, BY_NAME = "experiment=own/experiment/other.yaml", "experiment=other"
# `make test` reads every file by its path and these by their names too.
BOTH_WAYS = {
    "makes an object",
    "leaves the folder by a link",
    "includes what includes it",
    "is empty",
}


@pytest.mark.parametrize(
    ("choice", "content", "says"),
    [
        pytest.param(
            choice,
            *file,
            id=f"{name}-{choice}",
            marks=[pytest.mark.slow] if choice == BY_NAME and name not in BOTH_WAYS else [],
        )
        for choice in (BY_PATH, BY_NAME)
        for name, file in FILES.items()
    ],
)
def test_a_configuration_file_is_data(
    choice: str, content: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "own/experiment"
    folder.mkdir(parents=True)
    (tmp_path / "outside.yaml").write_text("window: 64\n")
    (folder / "link.yaml").symlink_to(tmp_path / "outside.yaml")
    (folder / "back.yaml").write_text("defaults: [./other.yaml]\n")
    monkeypatch.chdir(tmp_path)
    head = "" if content.startswith("# @package") else "# @package _global_\n"
    (folder / "other.yaml").write_bytes(os.fsencode(f"{head}{content}\n"))
    try:
        found = validate.problems(compose_run([choice], "" if "/" in choice else "own"), 2)
    except ConfigMistakes as error:
        found = error.mistakes
    assert not (tmp_path / "MARK").exists()
    if says == ACCEPTED:
        assert found == []
    else:
        assert any(says in line for line in found), found
        assert all(line.isprintable() for line in found)
