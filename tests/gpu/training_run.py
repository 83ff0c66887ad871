"""Short training runs through the command itself: speed, a kill and a resume, and every ZeRO stage.

    straight   under torchrun, 1,024 then 8,192 tokens, start to end
    killed     the same run without a launcher, killed by SIGKILL behind a checkpoint, then continued
               under torchrun: every step stands once and the losses are those of `straight`
    deterministic  `straight` twice more in deterministic mode: the same bits, at what speed
    variants   a tiny model for a few steps: ZeRO-1, 2 and 3, float32, offload; losses agree

The corpus is the embedded one, so nothing has to be brought along.
"""

import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from machine import GIB, Machine
from outcome import Outcome

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 400
# The address: a host without a network may not know its own name.
LAUNCHER = (
    "torch.distributed.run",
    "--standalone",
    "--local-addr=127.0.0.1",
    "--nproc-per-node=1",
)
# Two bfloat16 runs drift apart through sums in another order; 30 steps with a warm-up part by less.
CLOSE = 0.02
# The first steps of a stage fill caches and choose kernels.
WARM_UP_STEPS = 3
VARIANTS: dict[str, dict[str, str]] = {
    "zero_1": {},
    "zero_2": {"parallel.zero_stage": "2"},
    "zero_3": {"parallel.zero_stage": "3"},
    "float32": {"train.precision": "float32"},
    "offload": {"train.keep_for_backward": "input_on_cpu"},
}
VARIANT_STEPS = 6


@dataclass(frozen=True)
class Plan:
    """The main run, for a GPU or for a rehearsal."""

    model: str
    steps: int
    short: int
    long: int
    batch: int
    micro_batch: int
    save_every: int

    @property
    def kill_at(self) -> int:
        """Step that must be in the metrics before the kill: behind a checkpoint of the second stage."""
        return self.steps - self.save_every + 2


GPU_PLAN = Plan("125m", 30, 1_024, 8_192, 65_536, 32_768, 10)
REHEARSAL_PLAN = Plan("tiny", 12, 64, 256, 1_024, 512, 4)


class Runner:
    """Starts runs below one folder of outputs."""

    def __init__(self, machine: Machine, outputs: Path) -> None:
        self.outputs = outputs
        self.plan = REHEARSAL_PLAN if machine.rehearsal else GPU_PLAN
        self._device = machine.device.type

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The metrics of a run: whole lines only, the last may be on its way."""
        path = self.outputs / name / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def arguments(self, name: str, changes: dict[str, str]) -> list[str]:
        """What every run here is given, and `changes`."""
        values = {
            "run_name": name,
            "paths.outputs": str(self.outputs),
            "train.device": self._device,
            "train.precision": "bfloat16",
            "logging.wandb.mode": "disabled",
            "logging.console_seconds": "2",
            "evaluation.max_tokens": "65536",
        }
        if changes.get("evaluation.enabled") == "false":
            del values["evaluation.max_tokens"]  # would have no effect
        return [f"{key}={value}" for key, value in (values | changes).items()]

    def main_run(self, name: str) -> list[str]:
        """Arguments of the main run: half of its steps short, half long."""
        plan = self.plan
        tokens = plan.steps // 2 * plan.batch
        changes = {
            "model": plan.model,
            "schedule": "small",
            "model.vocab_size": "4096",
            "checkpoint.every_steps": str(plan.save_every),
            "schedule.learning_rate.peak": "1e-3",
            "schedule.learning_rate.final": "1e-4",
            "schedule.learning_rate.warmup_tokens": str(4 * plan.batch),
        }
        for stage, length in (("first", plan.short), ("second", plan.long)):
            key = f"schedule.stages.{stage}"
            changes |= {
                f"{key}.tokens": str(tokens),
                f"{key}.sequence_length": str(length),
                f"{key}.batch_tokens": str(plan.batch),
                f"{key}.micro_batch_tokens": str(plan.micro_batch),
            }
        return self.arguments(name, changes)

    def variant(self, name: str, changes: dict[str, str]) -> list[str]:
        """Arguments of a variant: the tiny model, a few steps."""
        steps = {"train.max_steps": str(VARIANT_STEPS), "evaluation.enabled": "false"}
        return self.arguments(name, {"model": "tiny", "schedule": "small"} | steps | changes)

    def launch(self, name: str, arguments: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        """Run to the end under torchrun, or to `TIMEOUT_SECONDS`; what it says is kept in NAME.log."""
        command = [sys.executable, "-m", *LAUNCHER, "-m", "train", *arguments]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
            try:
                said, wrong = process.communicate(timeout=TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                process.terminate()  # it ends its workers; killed, it would leave them on the GPU
                said, wrong = process.communicate()
                wrong += f"\nstopped after {TIMEOUT_SECONDS} s\n"
        (self.outputs / f"{name}.log").write_text(said + wrong)
        return subprocess.CompletedProcess(command, process.returncode, said, wrong)

    def kill_behind(self, name: str, step: int, arguments: Sequence[str]) -> str:
        """Start without a launcher, SIGKILL once `step` is in the metrics; why not, or nothing."""
        log = self.outputs / f"{name}_before.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "train", *arguments],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            deadline = time.monotonic() + TIMEOUT_SECONDS
            while len(self.rows(name)) < step and process.poll() is None:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.01)
            ended, reached = process.poll(), len(self.rows(name))
            process.kill()
            process.wait()
        if ended is not None:
            return f"ended by itself (status {ended}) at step {reached}: {_tail(log.read_text())}"
        return "" if reached >= step else f"reached step {reached} of {step} in {TIMEOUT_SECONDS} s"


def check_training(machine: Machine, outputs: Path) -> Outcome:
    """The main run, straight and killed."""
    outputs.mkdir(parents=True, exist_ok=True)
    runner = Runner(machine, outputs.resolve())
    plan = runner.plan
    outcome = Outcome(
        f"Training, {plan.model} with a vocabulary of 4,096, bfloat16, one device",
        ("sequence length", "steps", "tokens/s", "model TFLOP/s", "peak GiB", "loss"),
    )
    straight, killed = _fresh(runner, "straight"), _fresh(runner, "killed")
    done = runner.launch(straight, runner.main_run(straight))
    if done.returncode:
        outcome.failures.append(f"{straight}: status {done.returncode}: {_tail(done.stderr)}")
        return outcome
    rows = runner.rows(straight)
    outcome.numbers += rows
    if not _judge_losses(outcome, straight, rows, plan.steps):
        return outcome
    for length in (plan.short, plan.long):
        stage = [row for row in rows if row["sequence_length"] == length]
        outcome.rows.append((f"{length:,}", str(len(stage)), *_speed(stage)))
    machine.record(outcome)
    if machine.seconds_left <= 0:
        outcome.notes.append("Kill and resume: no time left.")
        return outcome
    why = runner.kill_behind(killed, plan.kill_at, runner.main_run(killed))
    outcome.expect(not why, f"{killed}: {why}")
    done = runner.launch(killed, runner.main_run(killed))
    outcome.expect(not done.returncode, f"{killed}, continued: {_tail(done.stderr)}")
    resumed = [line for line in done.stderr.splitlines() if "going on from" in line]
    outcome.expect(bool(resumed), f"{killed}: did not go on from a checkpoint")
    _judge_agreement(outcome, killed, runner.rows(killed), rows)
    outcome.notes += [
        f"Killed behind step {plan.kill_at}; {line.strip().replace(f'{runner.outputs}/', '')}."
        for line in resumed
    ]
    return outcome


def check_variants(machine: Machine, outputs: Path) -> Outcome:
    """ZeRO stages, float32 and offload, a few steps each."""
    outputs.mkdir(parents=True, exist_ok=True)
    runner = Runner(machine, outputs.resolve())
    outcome = Outcome(
        "Variants of a tiny run",
        ("variant", "steps", "tokens/s", "model TFLOP/s", "peak GiB", "loss"),
    )
    expected: list[dict[str, Any]] = []
    for variant, changes in VARIANTS.items():
        if machine.seconds_left <= 0:
            outcome.notes.append(f"{variant}: no time left.")
            continue
        name = _fresh(runner, variant)
        done = runner.launch(name, runner.variant(name, changes))
        rows = runner.rows(name)
        if done.returncode or len(rows) != VARIANT_STEPS:
            outcome.failures.append(
                f"{name}: status {done.returncode}, {len(rows)} steps: {_tail(done.stderr)}"
            )
            continue
        expected = expected or rows
        _judge_agreement(outcome, name, rows, expected)
        outcome.numbers.append({"variant": variant, "rows": rows})
        outcome.rows.append((variant, str(len(rows)), *_speed(rows)))
        machine.record(outcome)
    outcome.notes.append(
        f"{VARIANT_STEPS} steps of 512 tokens: proof that each works and agrees with the first, "
        "nothing about speed."
    )
    return outcome


def check_deterministic(machine: Machine, outputs: Path) -> Outcome:
    """The main run twice in deterministic mode: the same bits; and what the mode costs.

    Beside the default mode where `training` has not just run it.
    """
    outputs.mkdir(parents=True, exist_ok=True)
    runner = Runner(machine, outputs.resolve())
    outcome = Outcome(
        f"Deterministic mode, {runner.plan.model}",
        ("run", "steps", "tokens/s", "model TFLOP/s", "peak GiB", "loss"),
    )
    found = {}
    for run, switch in (("first", "true"), ("second", "true"), ("default", "false")):
        if run == "default" and runner.rows("gpu_check_straight"):
            continue
        if machine.seconds_left <= 0:
            outcome.notes.append(f"{run}: no time left.")
            continue
        name = _fresh(runner, f"deterministic_{run}")
        done = runner.launch(name, [*runner.main_run(name), f"train.deterministic={switch}"])
        rows = found[run] = runner.rows(name)
        if done.returncode or not rows:
            outcome.failures.append(f"{name}: status {done.returncode}: {_tail(done.stderr)}")
            return outcome
        outcome.numbers.append({"run": run, "rows": rows})
        outcome.rows.append((run, str(len(rows)), *_speed(rows)))
    if "second" in found:
        first, second = (
            [(row["loss"], row["gradient_norm"]) for row in found[run]]
            for run in ("first", "second")
        )
        outcome.expect(first == second, "two deterministic runs differ")
    return outcome


def _fresh(runner: Runner, name: str) -> str:
    """The run's full name; what an earlier check left under it is removed."""
    full = f"gpu_check_{name}"
    shutil.rmtree(runner.outputs / full, ignore_errors=True)
    return full


def _judge_losses(outcome: Outcome, name: str, rows: Sequence[dict[str, Any]], steps: int) -> bool:
    """All steps, finite and falling; returns whether the losses can be worked with."""
    losses = [row["loss"] for row in rows]
    found = [row["step"] for row in rows]
    outcome.expect(found == list(range(1, steps + 1)), f"{name}: steps {found}, wanted {steps}")
    finite = all(loss is not None and math.isfinite(loss) for loss in losses)
    outcome.expect(finite, f"{name}: a loss is not finite: {losses}")
    if finite and losses:
        before, after = statistics.mean(losses[:3]), statistics.mean(losses[-3:])
        outcome.expect(after < before, f"{name}: the loss went from {before:.3f} to {after:.3f}")
    return finite and found == list(range(1, steps + 1))


def _judge_agreement(
    outcome: Outcome, name: str, rows: Sequence[dict[str, Any]], expected: Sequence[dict[str, Any]]
) -> None:
    """Every step once, with the same tokens and nearly the same loss."""
    steps, wanted = [row["step"] for row in rows], [row["step"] for row in expected]
    outcome.expect(steps == wanted, f"{name}: steps {steps}, expected {wanted}")
    for mine, theirs in zip(rows, expected, strict=False):
        where = f"{name}, step {mine['step']}"
        same = mine["valid_tokens"] == theirs["valid_tokens"]
        outcome.expect(same, f"{where}: other tokens than in the run it is compared with")
        near = abs((mine["loss"] or math.nan) - theirs["loss"]) <= CLOSE * theirs["loss"]
        outcome.expect(near, f"{where}: loss {mine['loss']}, {theirs['loss']} expected")


def _speed(rows: Sequence[dict[str, Any]]) -> tuple[str, str, str, str]:
    steady = rows[WARM_UP_STEPS:] or rows
    tokens = statistics.median(row["tokens_per_second"] for row in steady)
    flops = statistics.median(row["model_flops_per_second"] for row in steady)
    peak = max(row["peak_memory_bytes"] for row in rows) / GIB
    losses = f"{rows[0]['loss']:.3f} -> {rows[-1]['loss']:.3f}"
    return f"{tokens:,.0f}", f"{flops / 1e12:.2f}", f"{peak:.2f}", losses


def _tail(text: str) -> str:
    """The last lines of the run itself, on one line; the launcher's report comes after them."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = list(takewhile(lambda line: "distributed/elastic" not in line, lines))
    return " / ".join((own or lines)[-12:])
