"""A hundred kills: one run after the other dies again and again, and every one must end as if nothing had been.

    PYTHONPATH=.:tests python tests/soak/kills.py [--kills N] [--seed N]

Two ranks walk through stages that change layout at every boundary (data, sequence, tensor). SIGKILL falls on
one rank or on both, in a named phase: which one is read from the outside, from the rank's journal and the
checkpoint folder, and checked again after the kill. Some kills are left to `torchrun --max-restarts`. Every
run that was killed must have the undisturbed run's metrics and evaluations, bit for bit; a corpus whose
preparation was killed must be the undisturbed one's.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
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
    "data preparation": "preflight and data preparation",
    "step": "step ",
    "evaluation": "evaluation",
    "stage switch": "layout change",
}
EVERY_STEPS = 3
# Seconds that a rank which lost its peer may take to end; then it is ended, as a launcher would.
PATIENCE = 5.0
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

    def missing(self, total: int) -> list[str]:
        """Phases that still want kills, each as often as it wants them."""
        done = Counter(kill.phase for kill in self.kills)
        quota = {phase: max(10, SHARE[phase] * total // 100) for phase in PHASES}
        quota["any moment"] = max(0, total - sum(quota.values()))
        return [phase for phase, wanted in quota.items() for _ in range(wanted - done[phase])]


def arguments(name: str) -> list[str]:
    """The run: short stages, each in another layout."""
    stages = {
        f"s{index:02d}": "{tokens: 12288, sequence_length: 128, batch_tokens: 1024, micro_batch_tokens: 512, "
        f"parallel: {LAYOUTS[index % len(LAYOUTS)]}}}".replace(" ", "")
        for index in range(NUM_STAGES)
    }
    return [
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


def start(name: str, stderr: int = subprocess.DEVNULL) -> list["subprocess.Popen[str]"]:
    """Two ranks, as a batch script starts them: no launcher stands between a rank and its death."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "train", *arguments(name)],
            env=os.environ | told | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=stderr if rank == "0" else subprocess.DEVNULL,
        )
        for rank in ("0", "1")
    ]


class Life:
    """The processes of one start, until their death."""

    def __init__(self, name: str) -> None:
        self.folder = RUNS / name
        self._journal = self.folder / "ranks/rank_00000.log"
        self._from = self._journal.stat().st_size if self._journal.exists() else 0
        self.ranks = start(name)

    @property
    def is_over(self) -> bool:
        """Whether a rank has ended by itself."""
        return any(rank.poll() is not None for rank in self.ranks)

    def phases(self) -> list[str]:
        """The lines of rank 0's journal in this life, without their times."""
        if not self._journal.exists():
            return []
        with self._journal.open() as file:
            file.seek(self._from)
            return [line[20:].rstrip("\n") for line in file if line.endswith("\n")]

    def steps(self) -> int:
        """Steps in the metrics."""
        return _lines(self.folder / "metrics.jsonl")

    def kept(self) -> int:
        """Step of the newest complete checkpoint."""
        return _newest(self.folder / "checkpoints")

    def is_in(self, phase: str) -> bool:
        """Whether it is in `phase` now."""
        if phase == "checkpoint write":
            return any(self.folder.glob("checkpoints/step_????????.partial"))
        if phase == "data preparation" and corpus_is_complete(self.folder.name):
            return False
        lines = self.phases()
        return bool(lines) and lines[-1].startswith(WORDS[phase])

    def kill(self, draw: random.Random) -> str:
        """SIGKILL to one rank or to both; returns to whom."""
        victim = draw.choice(["rank 0", "rank 1", "both ranks"])
        for number, rank in enumerate(self.ranks):
            if victim in (f"rank {number}", "both ranks"):
                rank.kill()
        return victim

    def bury(self) -> None:
        """Wait until nothing of it is left. A rank that lost its peer ends by itself, or as a launcher would end it."""
        for rank in self.ranks:
            try:
                rank.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                rank.kill()
                rank.wait()


def strike(life: Life, phase: str, draw: random.Random) -> Kill | None:
    """Wait for `phase`, kill at a random point of it; None if the life ended, or left the phase, before."""
    if phase == "any moment":
        time.sleep(draw.uniform(0.0, 12.0))
    else:
        earliest = life.kept() + draw.randrange(20) if phase != "data preparation" else 0
        while life.steps() < earliest or not life.is_in(phase):
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
    while wanted := record.missing(total):
        first = [phase for phase in wanted if phase == "data preparation"]
        others = [phase for phase in wanted if phase != "data preparation"]
        possible = first if first and not corpus_is_complete(name) else others
        if not possible:
            break
        life = Life(name)
        phase = draw.choice(possible)
        kill = strike(life, phase, draw)
        life.bury()
        if kill is None:
            if all(rank.returncode == 0 for rank in life.ranks):
                break  # complete
            raise RuntimeError(f"{name} failed by itself: see {life.folder}/error.txt")
        kill.kept = min(kill.reached, life.kept())
        record.kills.append(kill)
        sys.stderr.write(
            f"  kill {len(record.kills)}: {kill.phase}, {kill.victim}, step {kill.reached} -> {kill.kept}\n"
        )
    finish(name)
    record.equal = record.equal and same(name)


def endure_in_place(name: str, kills: int, record: Record, draw: random.Random) -> None:
    """A run whose dead ranks are started again by torchrun itself."""
    record.runs += 1
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [sys.executable, *launcher, f"--max-restarts={kills}", "-m", "train", *arguments(name)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    metrics, checkpoints = RUNS / name / "metrics.jsonl", RUNS / name / "checkpoints"
    while process.poll() is None and kills:
        before = _lines(metrics)
        while _lines(metrics) <= before + EVERY_STEPS and process.poll() is None:
            time.sleep(0.002)
        time.sleep(draw.uniform(0.0, 0.3))
        if process.poll() is not None:
            break
        ranks, reached = children(process.pid), _lines(metrics)
        os.kill(draw.choice(ranks), signal.SIGKILL)
        kept = min(reached, _newest(checkpoints))
        record.kills.append(Kill("under --max-restarts", "one rank", reached, kept))
        kills -= 1
        sys.stderr.write(f"  kill {len(record.kills)}: left to torchrun, step {reached}\n")
        while set(ranks) & set(children(process.pid)) and process.poll() is None:
            time.sleep(0.05)
    if process.wait() != 0:
        raise RuntimeError(f"{name}: torchrun gave up")
    record.equal = record.equal and same(name)


def corpus_is_complete(name: str) -> bool:
    """Whether nothing of the run's corpus is left to prepare."""
    return any((RUNS / f"prepared_{name}").glob("**/heldout.manifest.json"))


def finish(name: str) -> None:
    """The same command, undisturbed."""
    ranks = start(name, subprocess.PIPE)
    said = ranks[0].communicate()[1]
    if ranks[0].returncode or ranks[1].wait():
        raise RuntimeError(f"{name} does not finish:\n{said[-2000:]}")


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _newest(checkpoints: Path) -> int:
    """Step of the newest complete checkpoint."""
    found = sorted(checkpoints.glob("step_????????"))
    return int(found[-1].name[5:]) if found else 0


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
