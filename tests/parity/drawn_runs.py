"""Configurations drawn at random: numbers that go together, and for each the changes that may spoil it."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from hypothesis import strategies as st

from tests.parity.legality import DEALINGS, KEEPS, KINDS, SCHEDULES, Run
from train.configuration.schema import RunConfig
from train.configuration.typed import read

MOST_RANKS = 4
LAYOUTS = {
    ranks: [axes for axes in product(range(1, ranks + 1), repeat=3) if ranks % math.prod(axes) == 0]
    for ranks in range(1, MOST_RANKS + 1)
}
# Keys and what may stand there instead.
Change = dict[str, Any]
# One value at a time, right and wrong.
SINGLE: dict[str, tuple[Any, ...]] = {
    "model.num_layers": (0, 1, 2, 3, 7),
    "model.hidden_size": (0, 1, 7),
    "model.num_heads": (0, 1, 3, 6),
    "model.num_kv_heads": (0, 1, 2, 3, 4),
    "model.intermediate_size": (0, 1, 9, 10),
    "model.head_dim": (0, 1, 2, 3, 6),
    "model.vocab_size": (0, 1, 2, 31, 33),
    "model.window": (0, 1, 1000),
    "model.chunk": (0, 1, 1000),
    "model.layer_pattern": ([], list(KINDS), ["full_rope", "full"], ["full_rope", "window_nope"], ["chunk_nope"]),
    "model.block": ("serial", "sequential"),
    "model.sinks": (True, False),
    "model.gate": ("none", "tanh", "softplus", "sigmoid"),
    "model.value_scale": (1.0, math.nan, 0.7),
    "model.kinds": ({}, {"full_nope": {"rope": {"scaling": "linear", "factor": 2.0}}}),
    "model.norm": ("batchnorm", "rmsnorm"),
    "model.norm_eps": (0.0, math.nan, 1e-3),
    "model.logit_scale": (0.0, -1.0, 0.25),
    "model.init_std": (0.0, math.inf, 0.5),
    "model.attention_backend": ("auto", "dense", "banded", "sparse", "flash_attn"),
    "parallel.tensor": (-1, 0, 1, 2, 3, 4),
    "parallel.pipeline": (-1, 0, 1, 2, 3, 4),
    "parallel.sequence": (-1, 0, 1, 2, 3, 4),
    "parallel.pipeline_schedule": (*SCHEDULES, "gpipe"),
    "parallel.sequence_layout": (*DEALINGS, "striped"),
    "parallel.zero_stage": (0, 1, 2, 3, 4),
    "parallel.bucket_elements": (0, 1, 64),
    "train.precision": ("float32", "bfloat16", "float16"),
    "train.keep_for_backward": (*KEEPS, "nothing"),
    "train.z_loss": (-1.0, math.nan, 0.5),
    "train.max_steps": (0, 10**9),
    "optimizer.beta1": (1.0, 0.0),
    "optimizer.beta2": (-0.1, 0.0),
    "optimizer.epsilon": (0.0, 1e-3),
    "optimizer.weight_decay": (-0.1, math.inf, 0.0),
    "optimizer.gradient_clipping": (-1.0, 0.0),
    "seed": (-1, 2**62),
    "checkpoint.keep": (0, 1),
    "checkpoint.every_steps": (-1, 1),
    "evaluation.enabled": (False,),
    "evaluation.every_steps": (-1, 1),
    "schedule.stages.first.tokens": (0, 1, 1000),
    "schedule.stages.first.batch_tokens": (0, 1, -8),
    "schedule.stages.first.micro_batch_tokens": (0, 1, -8),
    "schedule.stages.first.sequence_length": (0, 1, 2, 3),
    "schedule.stages.first.document_mask": (True, False),
    "schedule.stages.first.reset_positions": (True, False),
    "schedule.stages.first.pose": (
        None, {"target_length": 1, "chunks": 2}, {"target_length": 4, "chunks": 2},
        {"target_length": 4096, "chunks": 1}, {"target_length": 4096, "chunks": 4},
    ),
    "schedule.stages.first.kinds": (
        {"full_rope": {"window": 4}}, {"window_rope": {"window": 5}}, {"full_nope": {"position": "none"}},
    ),
    "schedule.stages.first.parallel": ({"tensor": 2}, {"sequence": 2}, {"pipeline": 2}, {"zero_stage": 3}),
}  # fmt: skip
# Rotations of a kind; the last three need more than one pair.
ROPES: tuple[Run, ...] = (
    {"scaling": "linear", "factor": 2.0},
    {"scaling": "yarn", "factor": 2.0, "original_length": 16},
    {"scaling": "llama3", "factor": 2.0, "original_length": 16},
    {"scaling": "none", "resonance": True},
    {"scaling": "none", "fourier": {"form": "paper", "num_tones": 5}},
    {"scaling": "none", "fourier": {"form": "official", "sigma": 0.1}},
    {"scaling": "ntk", "factor": 2.0},
    {"scaling": "dynamic_ntk", "original_length": 8},
    {"scaling": "none", "rotary_share": 0.5},
)
SCALES: tuple[Run, ...] = (
    {"scale": "llama4", "floor_scale": 4}, {"scale": "ministral3", "original_length": 4}, {"scale": "swan"},
    {"scale": "ssmax"}, {"scale": "drope", "trained_length": 4},
)  # fmt: skip
_NORMS: tuple[Run, ...] = (
    {"qk_norm": False}, {"qk_norm": True}, {"qk_norm": True, "qk_norm_at": "after"},
    {"qk_norm": True, "qk_norm_at": "after", "qk_norm_weight": False},
)  # fmt: skip
OVERLAYS: tuple[Run, ...] = (
    {},
    {"sequence_layout": "contiguous"},
    {"pipeline": 1, "pipeline_split": []},
    {"tensor": 1, "zero_stage": 1},
    {"tensor": 1, "pipeline": 1, "sequence": 1, "pipeline_split": [], "zero_stage": 2},
)


@dataclass(frozen=True)
class Drawn:
    """A configuration as YAML would say it, and the number of ranks it is to run on."""

    run: Run
    ranks: int

    @property
    def config(self) -> RunConfig:
        """As everything else is given it."""
        config, mistakes = read(RunConfig, self.run)
        assert config is not None, mistakes
        return config

    def changed(self, change: Change) -> "Drawn":
        """The same with other values."""
        run = copy.deepcopy(self.run)
        for key, value in change.items():
            *path, name = key.split(".")
            holder = run
            for part in path:
                holder = holder[part]
            holder[name] = value
        return Drawn(run, self.ranks)


def near_misses(drawn: Drawn) -> Iterator[Change]:
    """Changes after which the numbers of a run go together no more, or still do."""
    for key, values in SINGLE.items():
        yield from ({key: value} for value in values)
    yield from _other_layouts(
        drawn.run["parallel"]["pipeline_split"], drawn.run["model"]["num_layers"]
    )
    stages = drawn.run["schedule"]["stages"]
    yield from _other_rows(stages["first"], drawn.run["parallel"]["sequence"])
    if len(stages) == 1:  # a stage after it might go on from its base, which the rule does not know
        yield {"schedule.stages.first.rope_base": {"policy": "safe"}}


def _other_layouts(split: list[int], layers: int) -> Iterator[Change]:
    for zero, precision in product(range(4), ("float32", "bfloat16")):
        yield {"parallel.zero_stage": zero, "train.precision": precision}
    for schedule, keep in product(SCHEDULES, KEEPS):
        yield {
            "parallel.pipeline_schedule": schedule,
            "parallel.pipeline_split": [],
            "train.keep_for_backward": keep,
        }
    ends = [[], [layers], [layers, 0], [0, layers], [1] * layers, [1] * layers + [0]]
    for other in (*ends, split[::-1], split[1:], [*split, 0], [*split[:-1], 1]):
        yield {"parallel.pipeline_split": other}
        yield {"parallel.pipeline_split": other, "parallel.pipeline_schedule": "interleaved_1f1b"}


def _other_rows(row: Run, sequence: int) -> Iterator[Change]:
    stage = "schedule.stages.first"
    micro, batch, span = row["micro_batch_tokens"], row["batch_tokens"], _span(row)
    if micro > 0:
        for dealing, other in product(
            DEALINGS, (sequence, micro // 2, micro + 1, micro + 2, 3 * micro)
        ):
            yield {
                "parallel.sequence_layout": dealing,
                f"{stage}.sequence_length": other,
                f"{stage}.micro_batch_tokens": other,
                f"{stage}.batch_tokens": batch // micro * other,
            }
        yield from ({f"{stage}.batch_tokens": micro * count} for count in range(1, 10))
    yield {f"{stage}.batch_tokens": batch + row["sequence_length"]}
    yield from ({f"{stage}.rope_base": base} for base in _bases(span))
    for rate in _rates(span):
        yield {f"{stage}.learning_rate": rate}
        yield {"schedule.learning_rate": rate}


def _span(row: Run) -> int:
    """Tokens of a stage in whole steps."""
    batch = max(1, row["batch_tokens"])
    return -(-row["tokens"] // batch) * batch


def _bases(span: int) -> list[Any]:
    ramp = {"policy": "ramp", "start": 1e4, "end": 2e4}
    return [
        1.0, math.inf, {"policy": "ntk"}, {"policy": "ramp", "end": 2e4}, ramp | {"end": 0.5},
        ramp | {"tokens": span}, ramp | {"tokens": span + 1},
        *({"policy": "stepped", "steps": steps} for steps in (
            [[0, 1e4], [span - 1, 2e4]], [[0, 1e4], [span, 2e4]], [[0, 1e4], [2, 2e4], [2, 3e4]], [[1, 1e4]], [],
        )),
    ]  # fmt: skip


def _rates(span: int) -> list[Run]:
    names = ("shape", "peak", "final", "warmup_tokens", "decay_tokens")
    table = [
        ("cosine", 1e-2, 0.0, 0, 0),
        ("constant", 1e-2, 0.0, span, 0),
        ("linear", 1e-2, 1e-4, 1, 0),
        ("wsd", 1e-2, 1e-2, 1, span - 1),
        ("wsd", 1e-2, 0.0, 2, span - 1),
        ("wsd", 1e-2, 0.0, 0, 0),
        ("cosine", 1e-2, 0.0, span + 1, 0),
        ("cosine", 1e-2, 0.0, 0, 1),
        ("linear", 1e-2, 2e-2, 0, 0),
        ("constant", 1e-2, 1e-3, 0, 0),
        ("step", 1e-2, 0.0, 0, 0),
        ("cosine", math.nan, 0.0, 0, 0),
        ("cosine", 0.0, 0.0, 0, 0),
        ("cosine", 1e-2, -1e-3, 0, 0),
        ("cosine", 1e-2, 0.0, -1, 0),
        ("wsd", 1e-2, 0.0, 0, -1),
    ]
    return [dict(zip(names, row, strict=True)) for row in table]


@st.composite
def drawn_runs(draw: st.DrawFn, ranks: int, axes: tuple[int, int, int] | None = None) -> Drawn:
    """A run for so many ranks, tensor x pipeline x sequence if that is given, with up to two changes."""
    drawn = Drawn(draw(_sound_runs(ranks, axes or draw(st.sampled_from(LAYOUTS[ranks])))), ranks)
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        drawn = drawn.changed(draw(st.sampled_from(list(near_misses(drawn)))))
    return drawn


@st.composite
def _sound_runs(draw: st.DrawFn, ranks: int, axes: tuple[int, int, int]) -> Run:
    tensor, pipeline, sequence = axes
    schedule = draw(st.sampled_from(SCHEDULES))
    stages_of_pipeline = pipeline if schedule == "1f1b" or pipeline == 1 else 2 * pipeline
    model = draw(_models(tensor, max(1, stages_of_pipeline - 1)))
    if sequence == 1:
        model["attention_backend"] = draw(st.sampled_from(["auto", "dense", "banded"]))
    counts = _micro_batches(pipeline, schedule)
    rows = _rows(2 * tensor * sequence, ranks // (tensor * pipeline * sequence), counts)
    stages = {"first": draw(rows)}
    if draw(st.integers(1, 4)) == 4:
        base = draw(st.sampled_from([500.0, {"policy": "ntk"}, {"policy": "ramp", "end": 3e4}]))
        stages["second"] = draw(rows) | {
            "rope_base": base,
            "parallel": draw(st.sampled_from(OVERLAYS)),
        }
    for row in stages.values():
        row["kinds"] = draw(_kinds(model["layer_pattern"]))
    changed = {kind for row in stages.values() for kind in row["kinds"]}
    model["kinds"] = draw(_own_kinds(sorted(set(model["layer_pattern"]) - changed), model))
    # zbv refuses sinks.
    model["sinks"] = draw(st.booleans()) and not (pipeline > 1 and schedule == "zbv")
    groups = draw(st.sampled_from([{}, *_groups(model["layer_pattern"])]))
    if "second" in stages and "rest" in groups:
        stages["second"]["groups"] = draw(st.sampled_from([{}, {"rest": {"frozen": False}}]))
    split = [1] * (stages_of_pipeline - 1) + [model["num_layers"] - stages_of_pipeline + 1]
    zero = draw(st.sampled_from([1] if pipeline > 1 else [1, 2, 3]))
    keeps = KEEPS[:1] if pipeline > 1 and schedule == "zbv" else KEEPS
    return {
        "run_name": "drawn",
        "seed": draw(st.integers(0, 9)),
        "data": {"corpus": "python_stdlib", "packing": draw(st.sampled_from(["best_fit", "concat"])), "look_ahead": 4},
        "logging": {"wandb": {"mode": "disabled"}},
        "checkpoint": {"keep": 2, "every_steps": 0},
        "evaluation": {"enabled": True, "every_steps": 0},
        "model": model,
        "parallel": {
            "tensor": tensor,
            "pipeline": pipeline,
            "sequence": sequence,
            "pipeline_schedule": schedule,
            "pipeline_split": draw(st.sampled_from([[], split] if pipeline > 1 else [[]])),
            "sequence_layout": draw(st.sampled_from(DEALINGS)),
            "zero_stage": zero,
            "bucket_elements": 50_000_000,
        },
        "optimizer": {
            "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1, "gradient_clipping": 1.0,
            "groups": groups,
        },
        "train": {
            "precision": draw(st.sampled_from(["float32", "bfloat16"])),
            "device": "cpu",
            "keep_for_backward": draw(st.sampled_from(keeps)),
            "z_loss": draw(st.sampled_from([0.0, 1e-3])),
            "max_steps": 8,
        },
        "schedule": {"stages": stages, "learning_rate": draw(st.sampled_from(_rates(_span(stages["first"]))[:4]))},
    }  # fmt: skip


def _groups(pattern: list[str]) -> list[Run]:
    """Groups of parameters: all but a kind of layer frozen, a kind, the embedding, or other rates and decays."""
    return [
        {"rest": {"frozen": True}, "last": {"kinds": [pattern[-1]]}},
        {"kind": {"kinds": [pattern[0]], "frozen": True}},
        {"ends": {"parameters": ["embedding.weight"], "frozen": True}},
        {"slow": {"parameters": ["attention.*"], "learning_rate_factor": 0.5, "weight_decay_factor": 0.0}},
    ]  # fmt: skip


def _micro_batches(pipeline: int, schedule: str) -> list[int]:
    """Numbers of them, in a step of a data rank, that the schedule can run."""
    some = range(1, 2 * pipeline + 2)
    if pipeline > 1 and schedule == "1f1b":
        return [m for m in some if m >= pipeline]
    if pipeline > 1 and schedule == "interleaved_1f1b":
        return [m for m in some if m % max(1, m // pipeline) == 0]
    return list(some)


@st.composite
def _models(draw: st.DrawFn, tensor: int, least_layers: int) -> Run:
    layers = draw(st.integers(least_layers, least_layers + 2))
    pattern = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=min(3, layers)))
    rotary = any(kind.endswith("rope") for kind in pattern)
    heads = tensor * draw(st.integers(1, 3))
    groups = [
        n for n in range(1, heads + 1) if heads % n == 0 and (n % tensor == 0 or tensor % n == 0)
    ]
    return {
        "num_layers": layers,
        "hidden_size": draw(st.sampled_from([6, 8, 16])),
        "intermediate_size": tensor * draw(st.sampled_from([3, 8])),
        "num_heads": heads,
        "num_kv_heads": draw(st.sampled_from(groups)),
        "head_dim": draw(st.sampled_from([2, 4, 8] if rotary else [1, 3, 4])),
        "vocab_size": tensor * draw(st.sampled_from([5, 16])),
        "window": draw(st.sampled_from([1, 2, 5, 64])),
        "chunk": draw(st.sampled_from([1, 3, 7, 64])),
        "layer_pattern": pattern,
        "block": draw(st.sampled_from(["parallel", "sequential"])),
        "norm": draw(st.sampled_from(["layernorm", "rmsnorm"])),
        "norm_eps": 1e-5,
        **draw(st.sampled_from(_NORMS)),
        "gate": draw(st.sampled_from(["none", "sigmoid", "softplus"])),
        "gate_over": draw(st.sampled_from(["head", "channel"])),
        "value_scale": draw(st.sampled_from([1.0, 0.7])),
        "tie_embeddings": draw(st.booleans()),
        "logit_scale": 1.0,
        "init_std": 0.02,
        "attention_backend": "auto",
    }


@st.composite
def _own_kinds(draw: st.DrawFn, names: list[str], model: Run) -> Run:
    """Rotations and scales of kinds that no stage changes."""
    wide = model["head_dim"] > 2
    found: Run = {}
    for name in names:
        own: Run = {}
        if name.endswith("rope"):
            own = draw(
                st.sampled_from([{}, *({"rope": rope} for rope in (ROPES if wide else ROPES[:6]))])
            )
        scale = draw(st.sampled_from([None, *SCALES]))
        own = own if scale is None else own | {"position_scale": scale}
        found |= {name: own} if own else {}
    return found


@st.composite
def _kinds(draw: st.DrawFn, pattern: list[str]) -> Run:
    """What a stage changes in one kind of layer of the pattern, or nothing."""
    kind = draw(st.sampled_from(pattern))
    changes: list[Run] = [
        {"window": {"start": 1, "end": 3}},
        {"window": {"start": 1, "end": 9, "per_step": 0.5}, "position_scale": {"scale": "swan"}},
    ]
    if kind.endswith("rope"):
        changes += [{"position": "none"}, {"rope": {"scaling": "linear", "factor": 2.0}}]
    return draw(st.sampled_from([{}, {}, *({kind: change} for change in changes)]))


@st.composite
def _rows(draw: st.DrawFn, unit: int, data_ranks: int, counts: list[int]) -> Run:
    """One row of the table of stages: micro-batches of so many units, so many of them a data rank."""
    micro = unit * draw(st.integers(1, 6))
    batch = micro * data_ranks * draw(st.sampled_from(counts))
    tokens = batch * draw(st.integers(2, 3)) - draw(st.integers(0, 1))
    rates = _rates(_span({"tokens": tokens, "batch_tokens": batch}))[:4]
    return {
        "tokens": tokens,
        "sequence_length": draw(st.sampled_from([n for n in range(2, micro + 1) if micro % n == 0])),
        "batch_tokens": batch,
        "micro_batch_tokens": micro,
        "rope_base": draw(st.sampled_from([500.0, 10_000, {"policy": "ramp", "start": 1e3, "end": 2e4}])),
        "learning_rate": draw(st.sampled_from([None, *rates])),
        "document_mask": draw(st.booleans()),
        "reset_positions": draw(st.booleans()),
        "pose": draw(st.sampled_from([None, None, {"target_length": 4096, "chunks": 2}])),
        "groups": {},
        "parallel": {},
    }  # fmt: skip
