"""A rule of its own that says which configurations are legal, to hold against the product's.

Written from docs/interfaces.md and docs/parallelism.md, on a configuration as YAML would say it; it uses
nothing of ours.
"""

import math
from typing import Any

Run = dict[str, Any]
KINDS = ("window_rope", "window_nope", "full_rope", "full_nope", "chunk_rope", "chunk_nope")
SCHEDULES = ("1f1b", "interleaved_1f1b", "zbv")
DEALINGS = ("zigzag", "balanced", "contiguous")
KEEPS = ("everything", "attention", "input", "input_on_cpu", "tiles")
SIZES = (
    "num_layers", "hidden_size", "intermediate_size", "num_heads", "num_kv_heads", "head_dim", "window", "chunk",
)  # fmt: skip


def is_legal(run: Run, ranks: int) -> bool:
    """Whether this configuration can run on so many ranks."""
    stages = list(run["schedule"]["stages"].values())
    adam, train, rate = run["optimizer"], run["train"], run["schedule"]["learning_rate"]
    return (
        _model(run["model"])
        and all(0 <= adam[beta] < 1 for beta in ("beta1", "beta2"))
        and 0 < adam["epsilon"] < math.inf
        and all(0 <= adam[name] < math.inf for name in ("weight_decay", "gradient_clipping"))
        and all(
            set(one.get("kinds", [])) <= set(run["model"]["layer_pattern"])
            for one in adam["groups"].values()
        )
        and train["precision"] in ("float32", "bfloat16")
        and train["keep_for_backward"] in KEEPS
        and 0 <= train["z_loss"] < math.inf
        and run["seed"] >= 0
        and train["max_steps"] >= 1
        and run["checkpoint"]["keep"] >= 1
        and run["checkpoint"]["every_steps"] >= 0
        and run["evaluation"]["every_steps"] >= 0
        and _layout(run["parallel"])  # also where every stage lays another one over it
        and all(_row(row) for row in stages)
        and all(_kind(row, kind, run["model"]) for row in stages for kind in row["kinds"])
        and all(_fits({**run["parallel"], **row["parallel"]}, row, run, ranks) for row in stages)
        and all(_base(stages, index, run["model"]["head_dim"]) for index in range(len(stages)))
        and all(_rate(row["learning_rate"], _span(row)) for row in stages if row["learning_rate"])
        and _is_rate(rate)
        and (all(row["learning_rate"] for row in stages) or _rate(rate, sum(map(_span, stages))))
    )


def _model(model: Run) -> bool:
    pattern = model["layer_pattern"]
    return (
        all(model[size] >= 1 for size in SIZES)
        and model["vocab_size"] >= 2
        and model["num_heads"] % model["num_kv_heads"] == 0
        and bool(pattern)
        and set(pattern) <= set(KINDS)
        and set(pattern[: model["num_layers"]]) == set(pattern)
        and (model["head_dim"] % 2 == 0 or not any(kind.endswith("rope") for kind in pattern))
        and model["block"] in ("parallel", "sequential")
        and model["norm"] in ("layernorm", "rmsnorm")
        and all(0 < model[name] < math.inf for name in ("norm_eps", "logit_scale", "init_std"))
        and model["attention_backend"] in ("auto", "dense", "banded")
        and model["gate"] in ("none", "sigmoid", "softplus")
        and 0 < model["value_scale"] < math.inf
        and all(_own_kind(name, own, model) for name, own in model["kinds"].items())
    )


def _own_kind(name: str, own: Run, model: Run) -> bool:
    """Whether the rotation and the scale of a kind of layer fit it."""
    if name not in model["layer_pattern"] or not own:
        return False
    if "rope" not in own:
        return True
    rope, head_dim = own["rope"], model["head_dim"]
    rotated = int(rope.get("rotary_share", 1.0) * head_dim)
    return (
        name.endswith("rope")
        and rotated >= 2
        and rotated % 2 == 0
        and (rotated > 2 or rope["scaling"] not in ("ntk", "dynamic_ntk"))
    )


def _row(row: Run) -> bool:
    length, micro, batch = row["sequence_length"], row["micro_batch_tokens"], row["batch_tokens"]
    return (
        length >= 2
        and min(micro, batch, row["tokens"]) >= 1
        and micro % length == batch % length == 0
        and (row["pose"] is None or 2 <= row["pose"]["chunks"] <= length <= _reached(row))
    )


def _kind(row: Run, kind: str, model: Run) -> bool:
    """Whether what a stage changes in a kind of layer has an effect."""
    change = row["kinds"][kind]
    window = change.get("window")
    if kind not in model["layer_pattern"] or not set(change):
        return False
    if isinstance(window, dict) and not window["start"] < min(
        window["end"], row["sequence_length"]
    ):
        return False
    if isinstance(window, int) and kind.startswith("window") and window == model["window"]:
        return False
    if (
        isinstance(window, int)
        and kind.startswith(("full", "chunk"))
        and window >= row["sequence_length"]
    ):
        return False
    return kind.endswith("rope") or not {"position", "rope"} & set(change)


def _reached(row: Run) -> int:
    """The length that positions reach."""
    return row["pose"]["target_length"] if row["pose"] else row["sequence_length"]


def _layout(layout: Run) -> bool:
    t, p, s = layout["tensor"], layout["pipeline"], layout["sequence"]
    return (
        min(t, p, s) >= 1
        and layout["pipeline_schedule"] in SCHEDULES
        and layout["sequence_layout"] in DEALINGS
        and layout["zero_stage"] in ((0, 1, 2, 3) if p == 1 else (0, 1))
        and (layout["zero_stage"] != 0 or t * p * s == 1)
        and (p > 1 or not layout["pipeline_split"])
        and layout["bucket_elements"] >= 1
    )


def _fits(layout: Run, row: Run, run: Run, ranks: int) -> bool:
    model, train = run["model"], run["train"]
    t, p, s = layout["tensor"], layout["pipeline"], layout["sequence"]
    micro, heads = row["micro_batch_tokens"], model["num_kv_heads"]
    if not _layout(layout) or ranks % (t * p * s):
        return False
    step = micro * (ranks // (t * p * s))
    return (
        row["batch_tokens"] % step == 0
        and (layout["zero_stage"] != 0 or train["precision"] == "float32")
        and (layout["zero_stage"] != 3 or train["keep_for_backward"] != "tiles")
        and all(model[size] % t == 0 for size in ("num_heads", "intermediate_size", "vocab_size"))
        and (heads % t == 0 or t % heads == 0)
        and micro % (2 * s if s > 1 and layout["sequence_layout"] == "zigzag" else s) == 0
        and (t == 1 or micro % (s * t) == 0)
        and (s == 1 or model["attention_backend"] == "auto")
        and (p == 1 or _pipeline(layout, row["batch_tokens"] // step, run))
    )


def _pipeline(layout: Run, micro_batches: int, run: Run) -> bool:
    ranks, schedule, split = (
        layout["pipeline"],
        layout["pipeline_schedule"],
        layout["pipeline_split"],
    )
    layers, stages = run["model"]["num_layers"], ranks if schedule == "1f1b" else 2 * ranks
    if schedule == "1f1b" and micro_batches < ranks:
        return False
    if schedule == "interleaved_1f1b" and micro_batches % max(1, micro_batches // ranks):
        return False
    if schedule == "zbv" and run["train"]["keep_for_backward"] != "everything":
        return False
    if schedule == "zbv" and run["model"]["sinks"]:
        return False
    if not split:
        return layers >= stages - 1
    enough = len(split) == stages
    if schedule == "interleaved_1f1b":
        enough = len(split) >= stages and len(split) % ranks == 0
    return enough and sum(split) == layers and min(split[:-1]) >= 1 and split[-1] >= 0


def _base(stages: list[Run], index: int, head_dim: int) -> bool:
    value = stages[index]["rope_base"]
    if not isinstance(value, dict):
        return 1 < value < math.inf
    if value["policy"] == "safe":
        return head_dim > 2
    if value["policy"] == "ntk":
        return index > 0 and head_dim > 2 and _last_base(stages, index, head_dim) > 1
    if value["policy"] == "ramp":
        ends = [value["end"], value.get("start", 10_000 if index else 0)]
        return min(ends) > 1 and 1 <= value.get("tokens", 1) <= _span(stages[index])
    starts = [tokens for tokens, _ in value["steps"]]
    grows = (
        starts == sorted(set(starts)) and starts[:1] == [0] and starts[-1] < _span(stages[index])
    )
    return grows and all(base > 1 for _, base in value["steps"])


def _last_base(stages: list[Run], index: int, head_dim: int) -> float:
    value = stages[index]["rope_base"]
    if not isinstance(value, dict):
        return value
    if value["policy"] == "ntk":
        growth = _reached(stages[index]) / _reached(stages[index - 1])
        return _last_base(stages, index - 1, head_dim) * growth ** (head_dim / (head_dim - 2))
    return value["end"] if value["policy"] == "ramp" else value["steps"][-1][1]


def _is_rate(rate: Run) -> bool:
    """Whether each of the numbers is one, be it used or not."""
    return (
        rate["shape"] in ("constant", "linear", "cosine", "wsd")
        and all(0 <= rate[name] < math.inf for name in ("peak", "final"))
        and min(rate["warmup_tokens"], rate["decay_tokens"]) >= 0
    )


def _rate(rate: Run, span: int) -> bool:
    shape, fall = rate["shape"], rate["decay_tokens"]
    return (
        _is_rate(rate)
        and (shape != "wsd" or fall > 0)
        and (shape == "constant" or rate["final"] <= rate["peak"])
        and rate["warmup_tokens"] + (fall if shape == "wsd" else 0) <= span
    )


def _span(row: Run) -> int:
    return -(-row["tokens"] // row["batch_tokens"]) * row["batch_tokens"]
