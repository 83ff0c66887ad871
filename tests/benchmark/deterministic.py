"""What deterministic mode costs: the same steps with and without, in turns.

    PYTHONPATH=.:tests python tests/benchmark/deterministic.py [PAIRS]

On two ranks of the machine at hand; on a GPU host `make gpu-check` measures one GPU.
"""

import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from tests.smoke.command import command

OUTPUT = Path("outputs/benchmarks/deterministic.json")
RUNS = Path("outputs/benchmarks/deterministic")
STEPS, WARM_UP = 16, 4


def tokens_per_second(name: str, switch: str) -> float:
    """Median over the steps of one run, the first ones left out."""
    shutil.rmtree(RUNS / name, ignore_errors=True)
    arguments = [
        "experiment=quickstart",
        f"run_name={name}",
        f"paths.outputs={RUNS}",
        "paths.prepared=outputs/prepared",
        "logging.wandb.mode=disabled",
        "evaluation.enabled=false",
        f"train.max_steps={STEPS}",
        f"train.deterministic={switch}",
    ]
    subprocess.run(command(2, arguments), check=True, capture_output=True)
    lines = (RUNS / name / "metrics.jsonl").read_text().splitlines()
    return statistics.median(json.loads(line)["tokens_per_second"] for line in lines[WARM_UP:])


def table(numbers: dict[str, list[float]]) -> str:
    """One line."""
    ratios = numbers["ratios"]
    text = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    median = statistics.median(ratios)
    return (
        f"tokens/s, deterministic / default: median {median:.3f} of {len(ratios)} pairs ({text})\n"
    )


def main() -> None:
    """Run in pairs, print the ratio."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    ratios = []
    for pair in range(pairs):
        sys.stderr.write(f"  pair {pair + 1} of {pairs}\n")
        order = ("false", "true") if pair % 2 == 0 else ("true", "false")
        speed = {switch: tokens_per_second(f"deterministic_{switch}", switch) for switch in order}
        ratios.append(speed["true"] / speed["false"])
    numbers = {"ratios": ratios}
    sys.stdout.write(table(numbers))
    OUTPUT.write_text(json.dumps(numbers) + "\n")
    shutil.rmtree(RUNS)


if __name__ == "__main__":
    main()
