"""PosGen: which position methods go on beyond their training length, beside the numbers of arXiv 2403.00071.

    PYTHONPATH=.:tests python tests/benchmark/posgen.py [--seeds N] [--hours H] [--size NAME]
        [--run NAME ...] [--rule NAME ...]

A cell is a method, a rule and a seed. A run of the trainer (`experiment=posgen`) trains at 64 tokens and asks at 256.
YaRN changes the rotation of trained weights, so one run has the cells of a rotation as it was trained and with YaRN.
Cells are JSON in docs/benchmarks/posgen/. Only missing ones are made, the first seed of everything first, so a command
that was stopped goes on when it is started again; `--hours 0` makes none. Then, from the cells there are, writes
docs/benchmarks/posgen.json, the block `posgen` of docs/benchmarks.md and docs/pictures/posgen.svg.
"""

import argparse
import json
import os
import platform
import re
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from types import MappingProxyType
from typing import Any

from tests.benchmark.posgen_picture import draw
from tests.benchmark.run_all import DOCUMENT, content, replace_block

CELLS = Path("docs/benchmarks/posgen")
RECORD = Path("docs/benchmarks/posgen.json")
RUNS = Path("outputs/benchmarks/posgen")
PICTURE = Path("docs/pictures/posgen.svg")
RULES = ("recursive", "chain_of_thought", "semi_recursive")
SEEDS = (0, 1, 2)
# What the paper counts as known: numbers beyond the training length say little below it.
LEARNED = 0.95
# Places that a point of the picture is the mean of; even, since places of semi_recursive take turns.
DRAWN = 8
Cell = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """A row of the table: a stage of a run. paper: accuracies of the paper by rule, in percent; empty: none."""

    label: str
    run: str
    stage: str = "train"
    paper: tuple[float, ...] = ()


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "rope": Method("RoPE", "rope", paper=(65.29, 69.56, 17.96)),
        "resonance": Method("Resonance", "resonance", paper=(62.64, 75.25, 29.78)),
        "yarn": Method("YaRN", "rope", "yarn", paper=(95.93, 98.71, 33.70)),
        "resonance_yarn": Method(
            "Resonance-YaRN", "resonance", "yarn", paper=(98.30, 99.58, 48.46)
        ),
        "yarn_64": Method("YaRN, turns over 64", "rope", "yarn_64"),
        "resonance_yarn_64": Method("Resonance-YaRN, turns over 64", "resonance", "yarn_64"),
        "fope": Method("FoPE", "fope"),
        "nope": Method("NoPE", "nope"),
        "rnope_swa": Method("RNoPE-SWA", "rnope_swa"),
    }
)
_PLAIN = ("~schedule.stages.yarn", "~schedule.stages.yarn_64")
_RESONANT = "schedule.stages.{}.kinds.full_rope.rope.resonance=true"
# The runs that the methods come from, as overrides of experiment=posgen.
OVERRIDES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "rope": (),
        "resonance": (
            "+model.kinds={full_rope: {rope: {resonance: true}}}",
            "+" + _RESONANT.format("yarn"),
            "+" + _RESONANT.format("yarn_64"),
        ),
        "fope": (
            "+model.kinds={full_rope: {rope: {fourier: {}}}}",
            "schedule.stages.train.tokens=2_048_000",
            *_PLAIN,
        ),
        "nope": (
            "model.layer_pattern=[full_nope]",
            # More heads: each learns one distance, without a rotation.
            "model.num_heads=4",
            "model.num_kv_heads=4",
            "model.head_dim=16",
            "schedule.stages.train.tokens=14_336_000",
            *_PLAIN,
        ),
        "rnope_swa": (
            "model.layer_pattern=[window_rope,window_rope,window_rope,full_nope]",
            "model.window=8",
            *_PLAIN,
        ),
    }
)
# small: as the experiment has it. width_512: width and layers of the paper, on fewer steps and documents.
SIZES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "small": (),
        "width_512": (
            "model.num_layers=2",
            "model.hidden_size=512",
            "model.intermediate_size=2048",
            "model.num_heads=8",
            "model.num_kv_heads=8",
            "model.init_std=0.044",
            "schedule.learning_rate.peak=1e-3",
            "schedule.learning_rate.final=2e-5",
            "schedule.learning_rate.warmup_tokens=40_960",
            "schedule.stages.train.tokens=409_600",
            "evaluation.accuracy.documents=100",
            "evaluation.accuracy.greedy_documents=0",
        ),
    }
)


def command(run: str, rule: str, seed: int, size: str) -> list[str]:
    """The command of a run, without the interpreter and the folder."""
    return [
        "-m",
        "train",
        "experiment=posgen",
        *SIZES[size],
        *OVERRIDES[run],
        f"data.sources.posgen.generated.rule={rule}",
        f"seed={seed}",
    ]


def path_of(method: str, rule: str, seed: int, size: str) -> Path:
    """The file of a cell."""
    folder = CELLS if size == "small" else CELLS / size
    return folder / f"{method}-{rule}-{seed}.json"


def missing(run: str, rule: str, seed: int, size: str) -> list[str]:
    """The methods of a run whose cells are not there."""
    own = (name for name, method in METHODS.items() if method.run == run)
    return [name for name in own if not path_of(name, rule, seed, size).exists()]


def make(run: str, rule: str, seed: int, size: str) -> None:
    """Train once, in a folder of its own, and write the cells that come from it."""
    name = f"{run}-{rule}-{seed}-{size}"
    folder = RUNS / name
    shutil.rmtree(folder, ignore_errors=True)
    words = command(run, rule, seed, size)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *words, f"run_name={name}", f"paths.outputs={RUNS}"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    rows = [json.loads(line) for line in (folder / "evaluation.jsonl").read_text().splitlines()]
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for method in missing(run, rule, seed, size):
        stage = METHODS[method].stage
        [row] = [row for row in rows if (row["task"], row["stage"]) == ("accuracy", stage)]
        cell = {
            "method": method,
            "rule": rule,
            "seed": seed,
            "size": size,
            "command": shlex.join(["python", *words]),
            "stage": stage,
            "steps": row["step"],
            "tokens": row["tokens_seen"],
            "loss": next(step["loss"] for step in steps if step["step"] == row["step"]),
            "cpu_seconds_of_run": round(seconds),
            "trained_length": row["trained_length"],
            "lengths": [_compact(one) for one in row["lengths"]],
        }
        path = path_of(method, rule, seed, size)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_lines(cell))


def _compact(found: Cell) -> Cell:
    """What a row of evaluation.jsonl says of one length or scoring, with a list of the accuracy at every place."""
    kept = {key: found[key] for key in found if key not in ("position_buckets", "greedy")}
    kept["accuracy_by_place"] = [
        None if one["accuracy"] is None else round(one["accuracy"], 4)
        for one in found["position_buckets"]
    ]
    if found.get("greedy"):
        kept["greedy"] = _compact(found["greedy"])
    return kept


def _lines(cell: Cell) -> str:
    """The cell as JSON, a line for each number or list of numbers."""
    text = json.dumps(cell, indent=1)
    return (
        re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda at: f"[{' '.join(at[1].split())}]", text) + "\n"
    )


def cells_of(method: str, rule: str, size: str) -> list[Cell]:
    """The cells there are, of all seeds."""
    paths = (path_of(method, rule, seed, size) for seed in SEEDS)
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def gathered() -> list[Cell]:
    """Of every cell there is, what the table is made of, in the table's order."""
    every = product(SIZES, RULES, METHODS)
    return [_summary(cell) for size, rule, name in every for cell in cells_of(name, rule, size)]


def curves() -> dict[str, dict[str, list[tuple[float, float]]]]:
    """By rule and method: middle of a piece of places, and the mean accuracy in it over the seeds, given the truth."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for rule, name in product(RULES, METHODS):
        rows = [_longest(cell)["accuracy_by_place"] for cell in cells_of(name, rule, "small")]
        for start in range(0, max(map(len, rows), default=0), DRAWN):
            pieces = [row[start : start + DRAWN] for row in rows]
            known = [share for piece in pieces for share in piece if share is not None]
            middle = start + DRAWN / 2
            found.setdefault(rule, {}).setdefault(name, []).append((middle, mean(known)))
    return found


def _longest(cell: Cell) -> Cell:
    return max(cell["lengths"], key=lambda one: one["length"])


def _summary(cell: Cell) -> Cell:
    """The numbers of one cell at the longest length."""
    longest = _longest(cell)
    kept = {key: cell[key] for key in ("method", "rule", "seed", "size", "steps")}
    for scoring, row in (("truth", longest), ("greedy", longest.get("greedy"))):
        kept[scoring] = [row["accuracy_below"], row["accuracy_from"]] if row else None
    return kept | {"cpu_seconds_of_run": cell["cpu_seconds_of_run"]}


def table(numbers: Sequence[Cell]) -> str:
    """A block for each size and rule, a row for each method: mean and spread over the seeds, in percent."""
    parts = [
        "accuracy in percent, mean +- standard deviation over seeds (n: number of seeds)",
        "below, from: places below 64 and from it on, of 256; given the truth, and decoded greedily",
        "paper: places from 64 on; * below 95 % at the places below 64 in a seed",
    ]
    for size in SIZES:
        for index, rule in enumerate(RULES):
            own = [row for row in numbers if (row["size"], row["rule"]) == (size, rule)]
            if own:
                parts += ["", *_block(f"{size}, {rule}", own, index)]
    return "\n".join(parts) + "\n"


def _block(title: str, rows: Sequence[Cell], rule: int) -> list[str]:
    """The lines of one rule."""
    head = ("below", "from", "below", "from")
    lines = [
        f"{title:<31}{'n':>3}  " + f"{'given the truth':^26}{'greedy':^26}" + f"{'paper':>7}",
        " " * 36 + "".join(f"{word:>13}" for word in head),
    ]
    for name, method in METHODS.items():
        own = [row for row in rows if row["method"] == name]
        if not own:
            continue
        mark = "*" if min(row["truth"][0] for row in own) < LEARNED else " "
        values = [
            _spread([row[scoring][side] for row in own if row[scoring]])
            for scoring in ("truth", "greedy")
            for side in (0, 1)
        ]
        paper = f"{method.paper[rule]:>7.2f}" if method.paper else ""
        cells = "".join(f"{value:>13}" for value in values)
        lines.append(f"{method.label:<31}{len(own):>3} {mark}{cells}{paper}".rstrip())
    return lines


def _spread(shares: Sequence[float]) -> str:
    percent = [100.0 * share for share in shares]
    if len(percent) < 2:
        return f"{percent[0]:.1f}" if percent else "-"
    return f"{mean(percent):.1f} +- {stdev(percent):.1f}"


def fill(hours: float, size: str, wanted: Sequence[tuple[int, str, str]]) -> None:
    """Make what is missing of the wanted (seed, rule, run), until the time is over; says what is left."""
    todo = [(run, rule, seed) for seed, rule, run in wanted if missing(run, rule, seed, size)]
    started = time.monotonic()
    for done, (run, rule, seed) in enumerate(todo):
        hours_gone = (time.monotonic() - started) / 3600
        left = f", about {hours_gone / done * (len(todo) - done):.2f} hours" if done else ""
        if hours_gone >= hours:
            return
        sys.stderr.write(f"{run} {rule} seed {seed}: {len(todo) - done} runs left{left}\n")
        make(run, rule, seed, size)


def write_documents(numbers: list[Cell]) -> None:
    """Write the record, the block of the document and the picture."""
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    stamp = f"`python tests/benchmark/posgen.py`, {when}, {os.cpu_count()} x {platform.machine()} cores."
    RECORD.write_text(json.dumps({"stamp": stamp, "numbers": numbers}, indent=1) + "\n")
    block = content(stamp, table(numbers))
    DOCUMENT.write_text(replace_block(DOCUMENT.read_text(), "posgen", block))
    labels = {name: method.label for name, method in METHODS.items()}
    PICTURE.write_text(draw(curves(), labels))


def main() -> None:
    """Make the cells, write the files, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="number of seeds")
    parser.add_argument("--hours", type=float, default=4.0, help="no run starts later")
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--run", nargs="*", choices=tuple(OVERRIDES), default=tuple(OVERRIDES))
    parser.add_argument("--rule", nargs="*", choices=RULES, default=RULES)
    wanted = parser.parse_args()
    every = list(product(SEEDS[: wanted.seeds], wanted.rule, wanted.run))
    fill(wanted.hours, wanted.size, every)
    write_documents(gathered())
    sys.stdout.write(table(gathered()))


if __name__ == "__main__":
    main()
