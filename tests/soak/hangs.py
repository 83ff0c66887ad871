"""How soon a rank that hangs is noticed, and what is said about it, on every axis.

    PYTHONPATH=.:tests python tests/soak/hangs.py [SECONDS]

Four ranks train; one is stopped (SIGSTOP: to the others it hangs, or its link is cut) at a random moment
after step 10. Measured: from the stop to the sentence in error.txt, and to the end of the whole job. The
limit is `parallel.timeout_seconds`; a job must end within twice that.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.smoke.command import command, process_of_rank, wait_for_steps

OUTPUT = Path("outputs/soak/hangs.json")
RUNS = Path("outputs/soak/hangs")
# Ranks and keys of each layout.
LAYOUTS = {
    "data 2": (2, ()),
    "tensor 2": (2, ("parallel.tensor=2",)),
    "sequence 2": (2, ("parallel.sequence=2",)),
    "pipeline 2": (2, ("parallel.pipeline=2",)),
    "sequence 2 x tensor 2": (4, ("parallel.sequence=2", "parallel.tensor=2")),
}


@dataclass
class Hang:
    """One rank stopped, and what came of it. Seconds from the stop."""

    layout: str
    limit: float
    named: float
    ended: float
    sentence: str
    right: bool


def arguments(name: str, limit: float, layout: tuple[str, ...]) -> list[str]:
    """What the run is given."""
    return [
        "schedule=small",
        "schedule.stages.first.tokens=4096000",
        "model.hidden_size=64",
        "model.intermediate_size=128",
        "model.num_heads=2",
        "model.num_kv_heads=2",
        "model.head_dim=32",
        f"paths.outputs={RUNS}",
        "paths.prepared=outputs/prepared",
        "logging.wandb.mode=disabled",
        f"parallel.timeout_seconds={limit}",
        f"run_name={name}",
        *layout,
    ]


def stop_one(layout: str, limit: float, draw: random.Random) -> Hang:
    """Run, stop a rank, wait for the end."""
    ranks, keys = LAYOUTS[layout]
    name = layout.replace(" ", "_")
    folder = RUNS / name
    victim = draw.randrange(1, ranks)
    with subprocess.Popen(
        command(ranks, arguments(name, limit, keys)),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        wait_for_steps(folder / "metrics.jsonl", 10, process)
        pid = process_of_rank(victim, process)
        time.sleep(draw.uniform(0.0, 0.5))
        os.kill(pid, signal.SIGSTOP)
        stopped, named = time.monotonic(), 0.0
        while process.poll() is None:
            if not named and (folder / "error.txt").exists():
                named = time.monotonic() - stopped
            time.sleep(0.01)
    ended = time.monotonic() - stopped
    sentence = (folder / "error.txt").read_text().splitlines()[1]
    found = re.search(r"on axis (\w+) .*no sign of life from rank (\d+) ", sentence)
    right = found is not None and int(found[2]) == victim and process.returncode != 0
    return Hang(layout, limit, named, ended, sentence, right and ended < 2 * limit)


def main() -> int:
    """Every layout once."""
    limit = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    shutil.rmtree(RUNS, ignore_errors=True)
    draw = random.Random(2)
    hangs = []
    sys.stdout.write("| layout | limit, s | named after, s | job ended after, s | said |\n")
    sys.stdout.write("|---|---|---|---|---|\n")
    for layout in LAYOUTS:
        sys.stderr.write(f"  {layout}\n")
        hang = stop_one(layout, limit, draw)
        hangs.append(hang)
        said = re.sub(r" on \S+ (has|\(process)", r" on HOST \1", hang.sentence)
        sys.stdout.write(
            f"| {layout} | {limit:.0f} | {hang.named:.1f} | {hang.ended:.1f} | {said} |\n"
        )
    OUTPUT.write_text(json.dumps([asdict(hang) for hang in hangs], indent=1) + "\n")
    right = sum(hang.right for hang in hangs)
    sys.stdout.write(
        f"\n{right} of {len(hangs)} named the stopped rank and ended within twice the limit.\n"
    )
    return 0 if right == len(hangs) else 1


if __name__ == "__main__":
    sys.exit(main())
