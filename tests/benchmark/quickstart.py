"""The quickstart as README shows it: its time and its held-out losses.

    PYTHONPATH=.:tests python tests/benchmark/quickstart.py

Runs `make train` with a corpus of its own, made anew, writes `docs/quickstart.json` and README's block between the
markers `quickstart`. tests/unit/test_benchmark_tables.py compares the two.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

OUTPUT = Path("docs/quickstart.json")
README = Path("README.md")
FOLDER = Path("outputs/benchmarks")
BEGIN, END = "<!-- quickstart: begin -->\n", "\n<!-- quickstart: end -->"
KEPT = ("stage", "sequence_length", "loss", "bigram_loss", "unigram_loss")
QUARTERS = tuple(
    f"{q}_quarter_{loss}" for q in ("first", "last") for loss in ("loss", "bigram_loss")
)


def measure() -> dict[str, Any]:
    """Run, and what is to be shown of it."""
    for name in ("quickstart", "quickstart_prepared"):
        shutil.rmtree(FOLDER / name, ignore_errors=True)
    arguments = f"paths.outputs={FOLDER} paths.prepared={FOLDER}/quickstart_prepared"
    load, before, started = os.getloadavg()[0], os.times(), time.monotonic()
    command = ["make", "train", "NPROC=2", f"PY={sys.executable}", f"ARGS={arguments}"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    after = os.times()
    rows = (FOLDER / "quickstart/evaluation.jsonl").read_text().splitlines()
    steps = (FOLDER / "quickstart/metrics.jsonl").read_text().splitlines()
    last = json.loads(steps[-1])
    return {
        "command": "python tests/benchmark/quickstart.py",
        "cpu": _cpu_name(),
        "load_before": round(load, 1),
        "seconds": round(time.monotonic() - started),
        "cpu_seconds": round(
            after.children_user
            + after.children_system
            - before.children_user
            - before.children_system
        ),
        "steps": last["step"],
        "tokens": last["tokens_seen"],
        "evaluations": [
            {
                key: round(row[key], 4) if isinstance(row[key], float) else row[key]
                for key in (*KEPT, *QUARTERS)
            }
            for row in map(json.loads, rows)
        ],
    }


def _cpu_name() -> str:
    """As the system calls it, and the widest of its vector instructions that decide torch's speed."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    flags = next(line.split(":")[1].split() for line in lines if line.startswith("flags"))
    widest = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in flags]
    return f"{name}, {widest[0] if widest else 'no AVX2'}"


def block(numbers: dict[str, Any]) -> str:
    """What README shows."""
    minutes, seconds = divmod(numbers["seconds"], 60)
    last = numbers["evaluations"][-1]
    lines = [
        f"On two CPU cores ({numbers['cpu']}; one thread a rank; load {numbers['load_before']} before the start), "
        "`make train` with its",
        f"environment ready: {minutes} min {seconds} s, {numbers['cpu_seconds']} CPU seconds, corpus and tokenizer "
        f"included; {numbers['tokens'] / 1e6:.2f}M tokens in {numbers['steps']} steps.",
        "",
        "| at the end | held-out loss (nats per token) | bigram | unigram |",
        "|---|---|---|---|",
    ]
    for row in numbers["evaluations"]:
        loss = f"{row['loss']:.3f}"
        lines.append(
            f"| `{row['stage']}`, {row['sequence_length']:,} tokens | {f'**{loss}**' if row is last else loss} | "
            f"{row['bigram_loss']:.3f} | {row['unigram_loss']:.3f} |"
        )
    first, late = last["first_quarter_loss"], last["last_quarter_loss"]
    bigram = last["first_quarter_bigram_loss"], last["last_quarter_bigram_loss"]
    lines += [
        f"| `{last['stage']}`, first and last quarter of the positions | {first:.3f} and **{late:.3f}** | "
        f"{bigram[0]:.3f} and {bigram[1]:.3f} | |",
        "",
        f"- Of the {first - late:.3f} nats between first and last quarter the bigram has {bigram[0] - bigram[1]:.3f} "
        "too: late tokens of these files are easier.",
        f"  The rest, {first - late - bigram[0] + bigram[1]:.3f}, is the model's own.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, write both files."""
    numbers = measure()
    OUTPUT.write_text(json.dumps(numbers, indent=1) + "\n")
    before, rest = README.read_text().split(BEGIN)
    README.write_text(before + BEGIN + block(numbers) + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
