"""A hundred kills: one run after the other dies again and again, and every one must end as if nothing had been.

    PYTHONPATH=. python tests/soak/kills.py [--kills N] [--seed N]

Two ranks walk through stages that change layout at every boundary (data, sequence, tensor). SIGKILL falls on
one rank or on the launcher and all ranks, in a named phase: which one is read from the outside, from the
rank's journal and the checkpoint folder, and checked again after the kill. Some kills are left to
`torchrun --max-restarts`. Every run that was killed must have the undisturbed run's metrics and evaluations,
bit for bit; a corpus whose preparation was killed must be the undisturbed one's.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.smoke.command import children

OUTPUT = Path("outputs/soak/kills.json")
RUNS = Path("outputs/soak/kills")
PHASES = ("data preparation", "step", "evaluation", "checkpoint write", "stage switch")
# Of every hundred: the rest falls at a random moment of a life, starting up included.
SHARE = {
    "data preparation": 12,
    "step": 20,
    "evaluation": 18,
    "checkpoint write": 20,
    "stage switch": 12,
}
# Seconds that a phase lasts here at most: a kill falls at a random point of it.
LASTS = {
    "data preparation": 3.0,
    "step": 0.15,
    "evaluation": 0.1,
    "checkpoint write": 0.01,
    "stage switch": 0.2,
}
# How a phase begins in a rank's journal.
WORDS = {
    "data preparation": "data preparation",
    "step": "step ",
    "evaluation": "evaluation",
    "stage switch": "layout change",
}
EVERY_STEPS = 3
LAYOUTS = ("{}", "{sequence: 2}", "{tensor: 2}")
NUM_STAGES = 14
NOT_CLOCKS = (
    "step",
    "stage",
    "tokens_seen",
    "valid_tokens",
    "loss",
    "gradient_norm",
    "learning_rate",
)


@dataclass
class Kill:
    """One kill: what for, whom, and what the run had done and kept."""

    phase: str
    victim: str
    reached: int
    kept: int = 0


@dataclass
class Record:
    """Everything that happened."""

    kills: list[Kill] = field(default_factory=list)
    runs: int = 0
    equal: bool = True
    misses: int = 0

    def missing(self, total: int) -> list[str]:
        """Phases that still want kills, each as often as it wants them."""
        done = Counter(kill.phase for kill in self.kills)
        quota = {phase: max(10, SHARE[phase] * total // 100) for phase in PHASES}
        quota["any moment"] = max(0, total - sum(quota.values()))
        return [phase for phase, wanted in quota.items() for _ in range(wanted - done[phase])]


def command(name: str, restarts: int = 0) -> list[str]:
    """The real command of one life."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    stages = {
        f"s{index:02d}": "{tokens: 12288, sequence_length: 128, batch_tokens: 1024, micro_batch_tokens: 512, "
        f"parallel: {LAYOUTS[index % len(LAYOUTS)]}}}".replace(" ", "")
        for index in range(NUM_STAGES)
    }
    arguments = [
        "schedule=small",
        "~schedule.stages",
        "+schedule.stages={" + ",".join(f"{key}:{value}" for key, value in stages.items()) + "}",
        "model.hidden_size=64",
        "model.intermediate_size=128",
        "model.num_heads=2",
        "model.num_kv_heads=2",
        "model.head_dim=32",
        f"paths.outputs={RUNS}",
        f"paths.prepared={RUNS}/prepared_{name}",
        "logging.wandb.mode=disabled",
        f"checkpoint.every_steps={EVERY_STEPS}",
        "evaluation.every_steps=4",
        "evaluation.max_tokens=8000",
        "evaluation.yardstick_tokens=200000",
        f"run_name={name}",
    ]
    return [sys.executable, *launcher, f"--max-restarts={restarts}", "-m", "train", *arguments]


class Life:
    """One process tree, from its start to its death."""

    def __init__(self, name: str, restarts: int = 0) -> None:
        self.folder = RUNS / name
        self._journal = self.folder / "ranks/rank_00000.log"
        self._from = self._journal.stat().st_size if self._journal.exists() else 0
        self.process = subprocess.Popen(
            command(name, restarts),
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def is_over(self) -> bool:
        """Whether it has ended by itself."""
        return self.process.poll() is not None

    def phases(self) -> list[str]:
        """The lines of rank 0's journal in this life, without their times."""
        if not self._journal.exists():
            return []
        with self._journal.open() as file:
            file.seek(self._from)
            return [line[20:].rstrip("\n") for line in file if line.endswith("\n")]

    def steps(self) -> int:
        """Steps in the metrics."""
        path = self.folder / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def kept(self) -> int:
        """Step of the newest complete checkpoint."""
        found = sorted(self.folder.glob("checkpoints/step_????????"))
        return int(found[-1].name[5:]) if found else 0

    def is_in(self, phase: str) -> bool:
        """Whether it is in `phase` now."""
        if phase == "checkpoint write":
            return any(self.folder.glob("checkpoints/step_????????.partial"))
        lines = self.phases()
        return bool(lines) and lines[-1].startswith(WORDS[phase])

    def ranks(self) -> list[int]:
        """Processes of the ranks."""
        return children(self.process.pid) if not self.is_over else []

    def kill(self, draw: random.Random) -> str:
        """SIGKILL to one rank or to everything; returns to whom."""
        ranks = self.ranks()
        victim = draw.choice(["rank 0", "rank 1", "everything"])
        if victim == "everything" or len(ranks) < 2:
            victim = "everything"
            os.killpg(self.process.pid, signal.SIGKILL)
            for rank in ranks:  # sessions of their own
                _kill(rank)
        else:
            _kill(ranks[int(victim[-1])])
        return victim

    def bury(self) -> None:
        """Wait until nothing of it is left."""
        ranks = self.ranks()
        self.process.wait()
        for rank in ranks:
            _kill(rank)


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return


def strike(life: Life, phase: str, draw: random.Random) -> Kill | None:
    """Wait for `phase`, kill at a random point of it; None if the life ended, or left the phase, before."""
    if phase == "any moment":
        time.sleep(draw.uniform(0.0, 12.0))
    else:
        while not life.is_in(phase):
            if life.is_over:
                return None
            time.sleep(0.001)
        time.sleep(draw.uniform(0.0, LASTS[phase]))
    if life.is_over:
        return None
    reached = life.steps()
    victim = life.kill(draw)
    hit = phase == "any moment" or life.is_in(phase)
    return Kill(phase if hit else "any moment", victim, reached)


def endure(name: str, record: Record, total: int, draw: random.Random) -> None:
    """One run, killed until it is complete or all kills are done; then let it finish."""
    record.runs += 1
    prepared = False
    while True:
        wanted = record.missing(total)
        if not wanted:
            break
        first = [phase for phase in wanted if phase == "data preparation"] if not prepared else []
        others = [phase for phase in wanted if phase != "data preparation"]
        if not first and not others:
            break
        phase = draw.choice(first or others)
        life = Life(name)
        kill = strike(life, phase, draw)
        life.bury()
        if kill is None:
            if life.process.returncode == 0:
                break  # complete
            raise RuntimeError(f"{name} failed by itself: see {life.folder}/error.txt")
        kill.kept = min(kill.reached, life.kept())
        record.kills.append(kill)
        prepared = not [p for p in record.missing(total) if p == "data preparation"]
        sys.stderr.write(
            f"  kill {len(record.kills)}: {kill.phase}, {kill.victim}, step {kill.reached} -> {kill.kept}\n"
        )
    finish(name)
    record.equal = record.equal and same(name)


def endure_in_place(name: str, kills: int, record: Record, draw: random.Random) -> None:
    """A run whose dead ranks are started again by torchrun itself."""
    record.runs += 1
    life = Life(name, restarts=kills)
    for _ in range(kills):
        before = life.steps()
        while life.steps() <= before + 4 and not life.is_over:
            time.sleep(0.002)
        time.sleep(draw.uniform(0.0, 0.3))
        if life.is_over:
            break
        reached, ranks = life.steps(), life.ranks()
        _kill(draw.choice(ranks))
        record.kills.append(Kill("under --max-restarts", "one rank", reached, life.kept()))
        sys.stderr.write(f"  kill {len(record.kills)}: left to torchrun, step {reached}\n")
        while set(ranks) & set(life.ranks()) and not life.is_over:
            time.sleep(0.05)
    if life.process.wait() != 0:
        raise RuntimeError(f"{name}: torchrun gave up")
    record.equal = record.equal and same(name)


def finish(name: str) -> None:
    """The same command, undisturbed."""
    done = subprocess.run(command(name), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{name} does not finish:\n{done.stderr[-2000:]}")


def rows(name: str, log: str) -> list[dict[str, Any]]:
    """Rows of a log, without what a clock says."""
    found = [json.loads(line) for line in (RUNS / name / log).read_text().splitlines()]
    if log == "evaluation.jsonl":
        return found
    return [{key: row[key] for key in NOT_CLOCKS} for row in found]


def same(name: str) -> bool:
    """Whether a run's metrics, evaluations and corpus are the undisturbed run's."""
    logs = all(
        rows(name, log) == rows("straight", log) for log in ("metrics.jsonl", "evaluation.jsonl")
    )
    tokens = [
        sorted((path.name, path.read_bytes()) for path in RUNS.glob(f"prepared_{which}/**/*.bin"))
        for which in (name, "straight")
    ]
    return logs and tokens[0] == tokens[1]


def table(record: Record, seconds: float) -> str:
    """What happened, by phase."""
    lines = ["| moment | kills | most steps done again | lost |", "|---|---|---|---|"]
    for phase in (*PHASES, "any moment", "under --max-restarts"):
        of_phase = [kill for kill in record.kills if kill.phase == phase]
        if of_phase:
            again = max(kill.reached - kill.kept for kill in of_phase)
            lost = "nothing" if record.equal else "SEE BELOW"
            lines.append(f"| {phase} | {len(of_phase)} | {again} | {lost} |")
    victims = Counter(kill.victim for kill in record.kills)
    lines += [
        "",
        f"{len(record.kills)} kills ({', '.join(f'{n} of {who}' for who, n in sorted(victims.items()))}) in "
        f"{record.runs} runs of {len(rows('straight', 'metrics.jsonl'))} steps with "
        f"`checkpoint.every_steps={EVERY_STEPS}`; {seconds / 60:.0f} minutes. Losses, gradient norms, evaluations "
        f"and prepared tokens of every run equal to the undisturbed one's, bit for bit: "
        f"{'yes' if record.equal else 'NO'}.",
    ]
    return "\n".join(lines)


def main() -> int:
    """Run straight, kill, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=4)
    options = parser.parse_args()
    shutil.rmtree(RUNS, ignore_errors=True)
    draw, record, started = random.Random(options.seed), Record(), time.monotonic()
    finish("straight")
    in_place = min(10, options.kills // 10)
    while record.missing(options.kills - in_place):
        endure(f"killed_{record.runs}", record, options.kills - in_place, draw)
    endure_in_place("restarted", in_place, record, draw)
    sys.stdout.write(table(record, time.monotonic() - started) + "\n")
    OUTPUT.write_text(json.dumps([vars(kill) for kill in record.kills], indent=1) + "\n")
    return 0 if record.equal else 1


if __name__ == "__main__":
    sys.exit(main())
