"""Retrieval: how far back `experiment=retrieval_small` finds what it is asked for, by depth and distance.

    PYTHONPATH=.:tests python tests/benchmark/retrieval_small.py [--part NAME ...]

Three models: as trained; the same recipe with the full layer windowed; without training. Parts, in this order:
`train_MODEL` (goes on where it was stopped), `ask_MODEL` (the pass key in noise and in text), `catalogue` (every task,
on the whole prompt and on its last tokens only), `write` (docs/benchmarks/retrieval_small.json, the block of
docs/benchmarks.md and docs/pictures/retrieval_small.svg).
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from data.prompts.catalogue import TASKS
from tests.benchmark.retrieval_picture import draw
from tests.benchmark.retrieval_tables import table
from tests.benchmark.run_all import DOCUMENT, content, replace_block

RECORD = Path("docs/benchmarks/retrieval_small.json")
PICTURE = Path("docs/pictures/retrieval_small.svg")
RUNS = Path("outputs/benchmarks/retrieval_small")
EXPERIMENT = "experiment=retrieval_small"
# The models, as overrides of the experiment.
MODELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "trained": (),
        # Up to the end of the third stage; the first model finds every key long before.
        "windowed": ("+model.kinds={full_nope: {window: 8}}", "train.max_steps=1_728"),
        "untrained": ("train.max_steps=1", "schedule.stages.keys.learning_rate=0"),
    }
)
HAYSTACKS = ("noise", "documents")
# A task with more to choose from the longer the prompt is: notes of other keys are its whole context.
NOTES = "niah_multikey_2"
# Options of `ropewalk evaluate`: lengths up to and beyond the trained ones, and far beyond them.
NEAR = ("--lengths", "64,128,256,512,1k,2k,4k", "--depths", "9", "--samples", "4", "--beyond")
FAR = ("--lengths", "8k,16k", "--depths", "9", "--samples", "2", "--beyond")
NOTES_LENGTHS = (
    "--lengths",
    "128,256,512,1k,2k,4k,8k",
    "--depths",
    "9",
    "--samples",
    "4",
    "--beyond",
)
# Prompts of each depth for controls and catalogue.
SAMPLES = "8"
# Tokens before the answer that the second score of the catalogue is given.
LAST = 64
# Tokens of the prompts of the catalogue, and of the tasks that have no shorter ones.
LENGTH, LONG_TASKS, LENGTH_OF_LONG = 1_024, ("cwe",), 2_048
Row = dict[str, Any]


def run(module: str, *words: str) -> float:
    """Run one of our commands. Returns its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", module, *words], check=True, stdout=sys.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def train(model: str) -> None:
    """Train a model, and note the CPU seconds beside it; a run that was stopped goes on."""
    words = (EXPERIMENT, f"run_name={model}", f"paths.outputs={RUNS}", *MODELS[model])
    seconds = run("train", *words)
    path = RUNS / model / "cpu_seconds.json"
    before = json.loads(path.read_text()) if path.exists() else 0.0
    path.write_text(json.dumps(before + seconds))


def ask(model: str, tasks: str, *options: str) -> list[Row]:
    """Score tasks on a model. options: of `ropewalk evaluate`. Returns the rows of evaluation.jsonl."""
    with TemporaryDirectory(dir=RUNS) as folder:
        where = ("--checkpoint", str(RUNS / model), "--output", folder)
        run("train.evaluate", *where, "--task", tasks, *options)
        return rows_of(Path(folder) / model)


def rows_of(folder: Path, file: str = "evaluation") -> list[Row]:
    """The rows of evaluation.jsonl, or of another file, in a folder of results."""
    lines = (folder / f"{file}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def ask_for_keys(model: str) -> None:
    """The pass key by length and depth in both haystacks; of the trained model also far beyond, and the controls."""
    found = {}
    for haystack in HAYSTACKS:
        options = ("--haystack", haystack)
        found[haystack] = ask(model, "passkey", *options, *NEAR)
        if model == "trained":
            found[haystack] += ask(model, "passkey", *options, *FAR)
            controls = ("--lengths", str(LENGTH), "--samples", SAMPLES, "--controls")
            found[f"{haystack}_controls"] = ask(model, "passkey", *options, *controls)
    if model == "trained":
        found["notes"] = ask(model, NOTES, *NOTES_LENGTHS)
    keep(f"keys_{model}", found)


def ask_catalogue() -> None:
    """Every task that needs no file, on the whole prompt and on its last tokens only."""
    tasks = [name for name, task in TASKS.items() if not task.needs_file and name not in LONG_TASKS]
    options = ("--samples", SAMPLES, "--last-tokens", str(LAST), "--beyond")
    found = ask("trained", ",".join(tasks), "--lengths", str(LENGTH), *options)
    longer = ("--lengths", str(LENGTH_OF_LONG), *options)
    keep("catalogue", found + ask("trained", ",".join(LONG_TASKS), *longer))


def keep(name: str, found: Any) -> None:
    """Keep rows for the part `write`."""
    (RUNS / f"{name}.json").write_text(json.dumps(found))


def kept(name: str) -> Any:
    """What `keep` has kept."""
    return json.loads((RUNS / f"{name}.json").read_text())


def gathered() -> Row:
    """All numbers of the tables and the picture."""
    return {
        "runs": {model: _run_numbers(model) for model in MODELS if model != "untrained"},
        "curve": _curve(),
        "keys": {model: _grids(kept(f"keys_{model}")) for model in MODELS},
        "controls": [
            {"haystack": haystack} | _cell_sums(row["cells"])
            for haystack in HAYSTACKS
            for row in kept("keys_trained")[f"{haystack}_controls"]
        ],
        "last_tokens": LAST,
        "catalogue": [
            {"task": row["task"], "length": row["cells"][0]["length"]}
            | _cell_sums(row["cells"])
            | {"chance": TASKS[row["task"]].chance}
            for row in kept("catalogue")
        ],
        "need_files": [name for name, task in TASKS.items() if task.needs_file],
    }


def _run_numbers(model: str) -> Row:
    rows = rows_of(RUNS / model, "metrics")
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    of_text = [row for row in rows_of(RUNS / model) if row["task"] == "held_out"]
    return {
        "steps": rows[-1]["step"],
        "tokens": rows[-1]["tokens_seen"],
        "stages": stages,
        "held_out_loss": of_text[-1]["loss"],
        "cpu_seconds": round(json.loads((RUNS / model / "cpu_seconds.json").read_text())),
    }


def _curve() -> list[Row]:
    """The answer's loss and the share of hits over training, at the lengths that the experiment asks for."""
    found = []
    for row in rows_of(RUNS / "trained"):
        if row["task"] in ("passkey", "key_in_text"):
            lengths = sorted({cell["length"] for cell in row["cells"]})
            point = {"tokens": row["tokens_seen"], "stage": row["stage"], "task": row["task"]}
            cells = row["cells"]
            found += [
                point | _cell_sums([cell for cell in cells if cell["length"] == length])
                | {"length": length}
                for length in lengths
            ]  # fmt: skip
    return found


def _grids(found: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    """By haystack: length, depth, prompts, hits and loss of every cell."""
    names = ("length", "depth", "prompts", "hits", "loss")
    return {
        haystack: [
            {name: cell[name] for name in names} for row in found[haystack] for cell in row["cells"]
        ]
        for haystack in (*HAYSTACKS, "notes")
        if haystack in found
    }


def _cell_sums(cells: Sequence[Row]) -> Row:
    """Prompts, hits and mean loss over cells, and the same of every second score that they have."""
    prompts = sum(cell["prompts"] for cell in cells)

    def of(entry: str) -> Row:
        scores = [(cell[entry] if entry else cell, cell["prompts"]) for cell in cells]
        loss = sum(score["loss"] * count for score, count in scores) / prompts
        return {"hits": sum(score["hits"] for score, _ in scores), "loss": loss}

    more = [name for name in ("last_part", "removed", "swapped") if name in cells[0]]
    return {"prompts": prompts} | of("") | {name: of(name) for name in more}


def write() -> None:
    """Write the record, the block of the document and the picture."""
    numbers = gathered()
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    stamp = f"`python tests/benchmark/retrieval_small.py`, {when}, {os.cpu_count()} x {platform.machine()} cores."
    RECORD.write_text(json.dumps({"stamp": stamp, "numbers": numbers}, indent=1) + "\n")
    block = content(stamp, table(numbers))
    DOCUMENT.write_text(replace_block(DOCUMENT.read_text(), "retrieval_small", block))
    PICTURE.write_text(draw(numbers["keys"]))
    sys.stdout.write(table(numbers))


PARTS: Mapping[str, Callable[[], None]] = MappingProxyType(
    {
        **{f"train_{model}": partial(train, model) for model in MODELS},
        **{f"ask_{model}": partial(ask_for_keys, model) for model in MODELS},
        "catalogue": ask_catalogue,
        "write": write,
    }
)


def main() -> None:
    """Run the wanted parts in order."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--part", nargs="*", choices=tuple(PARTS), default=tuple(PARTS))
    wanted = parser.parse_args().part
    RUNS.mkdir(parents=True, exist_ok=True)
    for name, part in PARTS.items():
        if name in wanted:
            part()


if __name__ == "__main__":
    main()
